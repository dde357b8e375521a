"""`flask cache doctor`: what is wrong with the cache of an application, or will be, and what mends it."""

from __future__ import annotations

import difflib
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Flask

from evercache.integrations.flask.backends import EvercacheBackend, NullCache
from evercache.integrations.flask.settings import DEFAULTS, REDIS, FlaskSettings
from evercache.ops.flask.findings import Finding, Level
from evercache.ops.flask.servers import survey
from evercache.results import Health
from evercache.url import Location

__all__ = ["examine", "of_health", "of_settings"]

_LEAST_SECRET = 16
_KNOWN = frozenset({*DEFAULTS, *REDIS, "CACHE_TYPE", "EVERCACHE_URL", "CACHE_MEMCACHED_SERVERS"})
#: By a part of a problem that `health()` tells: what mends it. The first that fits.
_MENDS = (
    ("nothing listens there", "start the server, or correct its address in the URL"),
    ("not speak TLS on this port", "use redis:// or sentinel:// in the URL, or its TLS port"),
    ("speaks TLS on this port", "use rediss:// or sentinels:// in the URL, or its plain port"),
    ("check the user name", "correct them in the URL, or the ACL of that user on the server"),
    ("Cluster is not supported", "name sentinels, or one server that is no node of a cluster"),
    ("check the service name", "correct the last part of the URL, or `sentinel monitor`"),
    ("check that they run", "start the sentinels, or correct their addresses in the URL"),
    (
        "no master is known",
        "see that the servers run and that EVERCACHE_URL names them: evercache status --url URL",
    ),
    ("evicts by", "CONFIG SET maxmemory-policy volatile-lru, and in the server's configuration file"),
    ("it did not answer", "start the server, or take it out of the deployment"),
    ("its link to the master is down", "look at its log; masterauth must be set on every node"),
    ("not in sync", "wait while it loads; if it stays, look at its log and at repl-backlog-size"),
    ("not looked at yet", "ask again in a second"),
    ("log of invalidations", "ask again in a second; if it stays, the master is overloaded or cannot be reached"),
    ("switched off", "unset EVERCACHE_DISABLED"),
)


def examine(app: Flask, *, patience: float = 5.0) -> list[Finding]:
    """Look at the settings, and ask the servers; `patience`: seconds in which they have to be well."""
    caches: Mapping[Any, Any] = app.extensions.get("cache", {})
    if not caches:
        return [Finding("error", "this application has no cache", "call cache.init_app(app)")]
    findings: list[Finding] = []
    for owner, backend in caches.items():
        settings, merged = owner._settings[app]
        findings += of_settings(settings, merged, os.environ)
        findings += _of_backend(owner, backend)
        if isinstance(backend, EvercacheBackend):
            findings += _live(backend, patience)
    return list(dict.fromkeys(findings))


# -- settings


def of_settings(
    settings: FlaskSettings, merged: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """What the settings alone tell; no text holds a secret."""
    yield from _of_names(settings, merged)
    if environment.get("EVERCACHE_DISABLED", "") not in ("", "0"):
        yield Finding("risk", "EVERCACHE_DISABLED is in the environment, so every function runs", "unset it")
    if settings.kind == "null" and not merged["CACHE_NO_NULL_WARNING"]:
        yield Finding(
            "risk",
            "CACHE_TYPE is NullCache, so nothing is cached",
            "set EVERCACHE_URL, or CACHE_NO_NULL_WARNING = True if that is meant",
        )
    if settings.kind in ("null", "files", None):
        return
    secrets = [merged.get("SECRET_KEY"), *(merged.get("SECRET_KEY_FALLBACKS") or ())]
    if not settings.pickle_keys and settings.kind != "simple" and not settings.assumed:
        yield Finding(
            "risk",
            "there is no key to sign with, so what can only be pickled is not cached",
            "set SECRET_KEY, or CACHE_PICKLE_KEYS = [secrets.token_hex(32)]",
        )
    elif not merged["CACHE_PICKLE_KEYS"] and any(one and len(one) < _LEAST_SECRET for one in secrets):
        yield Finding(
            "risk",
            "SECRET_KEY is short, and pickles are signed with it: who guesses it can run code here",
            "set it to secrets.token_hex(32)",
        )
    location = settings.location()
    if location is not None:
        yield from _of_location(location)
        if location.kind != "memory" and settings.key_prefix == DEFAULTS["CACHE_KEY_PREFIX"]:
            yield Finding(
                "note",
                "CACHE_KEY_PREFIX is the default: other applications on these servers that leave it share entries",
                "give each application its own, such as CACHE_KEY_PREFIX = 'shop'",
            )


def _of_names(settings: FlaskSettings, merged: Mapping[str, Any]) -> Iterator[Finding]:
    for name in merged:
        close = difflib.get_close_matches(name, _KNOWN, 1, 0.85)
        if name not in _KNOWN and name.startswith(("CACHE_", "EVERCACHE_")) and close:
            yield Finding("risk", f"{name} is not read", f"did you mean {close[0]}?")
    for name in settings.passed_over():
        yield Finding(
            "note",
            f"CACHE_OPTIONS[{name!r}] is no option of evercache.Cache",
            "take it out, or put it into the URL",
        )
    named = merged["EVERCACHE_URL"] if "EVERCACHE_URL" in merged else os.environ.get("EVERCACHE_URL")
    if named and settings.kind in ("redis", "sentinel", "url") and (unused := sorted(REDIS & merged.keys())):
        yield Finding("note", f"{', '.join(unused)}: not used, since there is EVERCACHE_URL", "take them out")


def _of_location(location: Location) -> Iterator[Finding]:
    if location.kind == "memory":
        yield Finding(
            "risk",
            "each process keeps entries of its own, and a delete reaches no other process",
            "with more than one process set EVERCACHE_URL to servers (docs/urls.md)",
        )
        return
    if location.kind == "sentinel" and len(location.sentinels) < 3:
        yield Finding(
            "risk",
            f"{len(location.sentinels)} sentinel(s) are named: without them a new process finds no master",
            "run three on three machines, and name all of them",
        )
    if location.kind == "standalone":
        yield Finding("risk", "one server: while it is away every call computes", "use Sentinel (docs/urls.md)")
    if location.node_options.credentials.password is None:
        yield Finding(
            "risk",
            "no password: anybody who reaches the servers can read and write everything",
            "set requirepass and masterauth on every node, and the password in the URL",
        )


# -- what runs


def _of_backend(owner: Any, backend: Any) -> Iterator[Finding]:
    problem = getattr(backend, "problem", None)
    if isinstance(backend, NullCache):
        if problem is not None:
            yield Finding("error", f"the cache is off: {problem}", "correct the setting; docs/urls.md has all URLs")
        return
    kind = type(backend).__name__
    if not isinstance(backend, EvercacheBackend):
        yield Finding(
            "note",
            f"{kind} is no cache of evercache: no single computation, no tags, and deleted values may come back",
            "set EVERCACHE_URL, and CACHE_TYPE to 'evercache'",
        )
    elif owner._overridden or backend._chosen_serializer() is not None:
        why = "get or set is overridden" if owner._overridden else "a serializer is set"
        yield Finding(
            "risk",
            f"{why}, so the decorators go by get and set: many compute at once, and deleted values may come back",
            "listen to the signals instead of overriding" if owner._overridden else "take CACHE_SERIALIZER out",
        )


def _live(backend: EvercacheBackend, patience: float) -> Iterator[Finding]:
    cache = backend.evercache
    until = time.monotonic() + patience
    cache.get("doctor")  # opens the connections
    health = cache.health()
    while not health.ok and time.monotonic() < until:
        time.sleep(0.1)
        health = cache.health()
    yield from of_health(health)
    yield from survey(cache.location)
    if _down(health):
        return  # what was written now would wait
    key, value = f"doctor {uuid.uuid4().hex}", uuid.uuid4().hex
    ack = cache.set(key, value, ttl=60)
    if not ack:
        yield Finding(
            "error",
            f"{health.url}: the master takes no write ({ack.reason or 'queued'})",
            "look for a full disk, maxmemory with noeviction, min-replicas-to-write, or an ACL without write",
        )
        return
    if cache.get(key) != value:
        yield Finding(
            "risk", f"{health.url}: a value that was written is not read", "raise budget, or look at the lag"
        )
    if not cache.delete(key):
        yield Finding("risk", f"{health.url}: a delete was not acknowledged", "see `flask cache status`")


def of_health(health: Health) -> Iterator[Finding]:
    """What `health()` tells, each with its fix."""
    for problem in health.problems:
        mend = next(
            (mend for part, mend in _MENDS if part in problem), "look at the log of evercache; docs/errors.md"
        )
        level: Level = "error" if _down(health) else "risk"
        yield Finding(level, f"{health.url}: {problem}", mend)


def _down(health: Health) -> bool:
    return health.master is None or any("does not serve" in problem for problem in health.problems)
