"""Loaded into the run of Flask-Caching's suite: its name leads to our extension, `SimpleCache` to the servers."""

from __future__ import annotations

import os
import sys
import types
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import evercache
from evercache import testing
from evercache.integrations import flask as ours
from evercache.integrations.flask import backends, settings
from evercache.url import parse_url
from tests.suites.left_out import LEFT_OUT, MEMORY_ONLY

PLACE = os.environ["EVERCACHE_SUITE_PLACE"]
URL = os.environ["EVERCACHE_SUITE_URL"]
FLUSHED = PLACE.startswith("flushed")


def _module(name: str, **names: Any) -> types.ModuleType:
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(names)
    return module


class _Elsewhere:
    """A backend that the suite imports by name, and whose tests are left out."""


def _lead() -> None:
    """Have `import flask_caching` give our extension."""
    absent = {
        name: type(name, (_Elsewhere,), {})
        for name in ("MemcachedCache", "SASLMemcachedCache", "SpreadSASLMemcachedCache", "RedisClusterCache")
    }
    theirs = {name: getattr(backends, name) for name in backends.__all__} | absent
    package = _module("flask_caching", **{name: getattr(ours, name) for name in ours.__all__})
    package.backends = _module("flask_caching.backends", **theirs)  # type: ignore[attr-defined]
    for name, shown in (("simplecache", "SimpleCache"), ("rediscache", "RedisCache"), ("nullcache", "NullCache")):
        setattr(
            package.backends,
            name,
            _module(f"flask_caching.backends.{name}", **{shown: theirs[shown]}),
        )


_lead()


def _flush() -> None:
    """Empty the primary, as users do between their tests."""
    location = parse_url(URL)
    sentinels = [(address.host, address.port) for address in location.sentinels]
    assert location.service is not None
    with redis.Sentinel(sentinels).master_for(location.service) as primary:
        primary.flushall()


@pytest.fixture(autouse=True)
def evercache_suite(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """A namespace for each test, caches that are closed after it, and on memory a clock that can be turned.

    In the flushed places all tests share a namespace, and the primary is emptied before each of them.
    """
    made: list[evercache.Cache] = []
    begin = evercache.Cache.__init__

    def begin_noted(self: evercache.Cache, *args: Any, **options: Any) -> None:
        if alone:
            options["namespace"] = "suite" if FLUSHED else f"suite-{uuid.uuid4().hex[:12]}"
        begin(self, *args, **options)
        made.append(self)

    # Tests that know the key prefix look at it themselves.
    alone = "redis_server" not in request.fixturenames
    if FLUSHED:
        _flush()
    monkeypatch.setattr(evercache.Cache, "__init__", begin_noted)
    if PLACE == "memory":
        with _turned(monkeypatch, request):
            yield
    else:
        usual = settings._url
        monkeypatch.setattr(settings, "_url", lambda kind, *more: URL if kind == "simple" else usual(kind, *more))
        yield
    for cache in made:
        cache.close()


class _turned:
    """Memory of which the suite's clock is the clock: its `advance` lets time pass there too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        self._patch, self._request = monkeypatch, request
        self._mode: Any = None

    def __enter__(self) -> None:
        if "clock" not in self._request.fixturenames:
            return
        self._mode = testing.memory()
        stores = self._mode.__enter__()
        kind = type(self._request.getfixturevalue("clock"))
        advance = kind.advance

        def both(clock: Any, seconds: float) -> None:
            advance(clock, seconds)
            stores.advance(seconds)

        self._patch.setattr(kind, "advance", both)

    def __exit__(self, *error: Any) -> None:
        if self._mode is not None:
            self._mode.__exit__(*error)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what is left out, here or everywhere."""
    out = []
    for item in items:
        name = item.nodeid.partition("tests/")[2]
        listed = [*LEFT_OUT, *(MEMORY_ONLY if PLACE != "memory" else ())]
        turns = PLACE != "memory" and {"clock", "redis_server", "memcache_server"} & set(item.fixturenames)  # type: ignore[attr-defined]
        if turns or any(name == one or name.startswith((f"{one}[", f"{one}::")) for one in listed):
            out.append(item)
    items[:] = [item for item in items if item not in set(out)]
    config.hook.pytest_deselected(items=out)
