"""A small WSGI site that uses its cache before the application server forks: `tests.real.served_site:application`.

Its servers are those of EVERCACHE_URL. `/` says in JSON what the process that answers sees and does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from evercache import Cache

cache = Cache(namespace="served")
#: Computations of this process.
runs: list[str] = []


@cache.cached(ttl=600)
def value_of(key: str) -> str:
    runs.append(key)
    return f"{key} by {os.getpid()}"


# While the module is imported, as a site warms up: with preloading, in the process that forks the workers later.
value_of("import")
cache.master.set("import", os.getpid())
_IMPORTED_BY = os.getpid()


def application(environ: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    found: dict[str, Any] = {"pid": os.getpid(), "imported_by": _IMPORTED_BY}
    key = environ.get("QUERY_STRING", "")
    try:
        if environ["PATH_INFO"] == "/delete":
            found["done"] = bool(value_of.invalidate(key))
        else:
            before = len(runs)
            found["value"] = value_of(key)
            found["computed"] = len(runs) > before
            found["raw"] = cache.master.incr("requests")
        health = cache.health()
        found |= {"master": health.master, "ok": health.ok, "tail_age": health.tail_age}
        found["problems"] = list(health.problems)
        status = "200 OK"
    except Exception as error:
        found["error"], status = repr(error), "500 Error"
    start(status, [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
