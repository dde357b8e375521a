"""The site: a Flask application over the flights, with one of the three caches.

How the bound on time is measured: around the cached call, here, in the application. The function notes when
it began and ended, in whichever process and thread it ran; the journal holds both, and `judge.py` takes from
a call the time in which the function of that page was running anywhere (for a call that computes, that is its
own time; for one that waits for somebody else's computation, that wait). The headers `X-Cache-Seconds` (the
call without the function, if it ran it), `X-Function-Seconds` and `X-Hit` show the same for one request.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, render_template, request

from evercache.ops.demo.caches import page_cache
from evercache.ops.demo.journal import Call, Computation, Failure, Invalidation, Journal, Stall
from evercache.ops.demo.pages import MONTHS, Database, Page
from evercache.ops.stalls import Stalls

__all__ = ["ENVIRONMENT", "SiteOptions", "create_app"]

#: The environment variable that carries `SiteOptions` into the processes of the server.
ENVIRONMENT = "EVERCACHE_DEMO_SITE"


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """What a process of the site needs to know; the paths are absolute."""

    variant: str
    database: str
    journal: str
    url: str = ""

    def to_environment(self) -> dict[str, str]:
        """As an addition to the environment of the server."""
        return {ENVIRONMENT: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> SiteOptions:
        """What the parent process wrote."""
        return cls(**json.loads(os.environ[ENVIRONMENT]))


class Site:
    """The pages of one process, served and measured. `_own` is local to each thread."""

    def __init__(self, options: SiteOptions) -> None:
        self.variant = options.variant
        self.database = Database(Path(options.database))
        self.journal = Journal(Path(options.journal))
        self._own = threading.local()
        self._stalls = Stalls(between=self._note_stalls, idle_only=True)
        self._stalls.__enter__()
        self.cache = page_cache(options.variant, options.url, self._compute)
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<Site {self.variant} {self.cache!r}>"

    def _note_stalls(self) -> None:
        while self._stalls.overslept:
            one = self._stalls.overslept.pop()
            self.journal.write(Stall(one.due, one.woke))

    def _compute(self, page: Page) -> dict[str, Any]:
        start = time.monotonic()
        value = self.database.compute(page)
        end = time.monotonic()
        self.journal.write(Computation(page.name, value["made"], start, end, value["queries"]))
        self._own.seconds = getattr(self._own, "seconds", 0.0) + end - start
        return value

    def page(self, page: Page) -> tuple[dict[str, Any], dict[str, str]]:
        """The page and the headers that say what it took."""
        self._own.seconds = 0.0
        start = time.monotonic()
        try:
            value = self.cache.get(page)
        except Exception as error:  # counted, and then as bad for the reader as in any application
            self.journal.write(Failure(page.name, type(error).__name__, start, time.monotonic()))
            raise
        end = time.monotonic()
        own: float = self._own.seconds
        self.journal.write(Call(page.name, page.tag, start, end, value["made"], value["as_of"], own > 0))
        return value, {
            # Who waited for somebody else's computation had no hit.
            "X-Hit": "0" if own > 0 or int(value["made"].rpartition(".")[2]) > start * 1e9 else "1",
            "X-Cache-Seconds": f"{end - start - own:.6f}",
            "X-Function-Seconds": f"{own:.6f}",
        }

    def edit(self, flight: int, dep_delay: int, arr_delay: int) -> dict[str, Any] | None:
        """Change a flight, commit, and only then invalidate the pages that it touches."""
        edited = self.database.edit(flight, dep_delay, arr_delay)
        if edited is None:
            return None
        acknowledged = True
        for tag in edited.tags:
            start = time.monotonic()
            try:
                known = self.cache.invalidate(tag)
            except Exception as error:
                self.journal.write(Failure(tag, type(error).__name__, start, time.monotonic()))
                self.journal.write(Invalidation(edited.seq, tag, time.monotonic(), False))
                raise
            self.journal.write(Invalidation(edited.seq, tag, time.monotonic(), known))
            acknowledged = acknowledged and known
        return {"seq": edited.seq, "tags": list(edited.tags), "acknowledged": acknowledged}

    def close(self) -> None:
        """Close the cache, the database and the journal; a second time nothing."""
        atexit.unregister(self.close)
        self._stalls.__exit__()
        self.cache.close()
        self.database.close()
        self.journal.close()


def create_app(options: SiteOptions | None = None) -> Flask:
    """The application of one process; without options those of the environment."""
    site = Site(options or SiteOptions.from_environment())
    app = Flask(__name__)
    app.extensions["evercache-demo"] = site

    def show(page: Page) -> Response:
        if not site.database.exists(page):
            abort(404)
        value, headers = site.page(page)
        if request.args.get("format") == "json":
            response = jsonify(value)
        else:
            text = render_template("page.html", page=page, value=value, headers=headers, variant=site.variant)
            response = Response(text, mimetype="text/html")
        response.headers.update(headers)
        return response

    @app.get("/")
    def front() -> Response:
        return show(Page("front"))

    @app.get("/leaderboard")
    def leaderboard() -> Response:
        return show(Page("leaderboard"))

    @app.get("/<any(carrier, route, month):kind>/<about>")
    def page(kind: str, about: str) -> Response:
        return show(Page(kind, about))

    @app.get("/flight/<int:flight>")
    def flight(flight: int) -> str:
        row = site.database.flight(flight) or abort(404)
        return render_template("flight.html", flight=row, months=MONTHS, variant=site.variant)

    @app.post("/flight/<int:flight>")
    def edit(flight: int) -> Response:
        dep_delay, arr_delay = (request.form.get(name, type=int) for name in ("dep_delay", "arr_delay"))
        if dep_delay is None or arr_delay is None:
            abort(400, "dep_delay and arr_delay must be whole minutes")
        return jsonify(site.edit(flight, dep_delay, arr_delay) or abort(404))

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    return app
