"""A process with many marks answers its first calls before it has read them all (rule 14)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.servers import Server, wait_for

from evercache import Cache, connect
from evercache.engine import tail
from evercache.engine.tail import Tail

pytestmark = pytest.mark.usefixtures("own_deployments")


def one_process(url: str, **options: Any) -> Cache:
    """Patient with a busy machine: what takes long must not look like a dead server."""
    return Cache(f"{url}?connect_timeout=5", namespace="pages", budget=5, **options)


@contextmanager
def other_process(url: str, **options: Any) -> Iterator[Cache]:
    """A cache with a deployment of its own, which learns the marks by itself."""
    connect._deployments.clear()
    connect._engines.clear()
    with one_process(url, **options) as cache:
        yield cache


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Pages hold ten marks, and those behind the first are read only once this is set."""
    page, go = Tail._page, threading.Event()

    async def held(self: Tail, connection: Any, start: int, *rest: Any) -> Any:
        while start and not go.is_set():
            await asyncio.sleep(0.002)
        return await page(self, connection, start, *rest)

    monkeypatch.setattr(tail, "PAGE", 10)
    monkeypatch.setattr(Tail, "_page", held)
    yield go
    go.set()


def versioned(cache: Cache, versions: dict[int, int], **options: Any) -> Any:
    @cache.cached(ttl=60, name="f", tags=("t:{n}",), **options)
    def f(n: int) -> int:
        return versions[n]

    return f


def test_the_first_hit_does_not_wait_for_all_marks_and_is_not_stale(
    valkey: Server, released: threading.Event
) -> None:
    versions = {1: 1, 2: 1}
    with one_process(valkey.url) as cache:
        f = versioned(cache, versions)
        for number in range(25):
            assert cache.invalidate_tag(f"other:{number}")
        assert [f(1), f(2)] == [1, 1]
        with other_process(valkey.url) as other:
            g = versioned(other, versions, near=60)
            assert g(1) == 1
            assert g.stats().counters.computed == 0, "the master has it, and judges it"
            state = other._client_sync().engine.state  # type: ignore[union-attr]
            assert state.ready
            assert state.unread
            # Nothing of the log is heard yet; the master knows.
            versions[1] = 2
            assert cache.invalidate_tag("t:1")
            assert g(1) == 2
            versions[2] = 2
            assert f.invalidate_all()
            assert g(2) == 2
            # Its own invalidations are obeyed at once as well.
            versions[1] = 3
            assert g.invalidate(1)
            assert g(1) == 3
            assert "still being read" in " ".join(other.health().problems)
            assert not state.sure(state.now())
            released.set()
            wait_for(lambda: state.sure(state.now()), 10, "all marks to be read")
            assert not state.unread
            assert len(state.marks.tags) >= 26
            assert [g(1), g(2)] == [3, 2]
            assert other.health().ok


def test_marks_are_read_anew_where_the_connection_broke_in_between(
    valkey: Server, released: threading.Event
) -> None:
    with one_process(valkey.url) as cache:
        f = versioned(cache, {1: 1})
        for number in range(25):
            assert cache.invalidate_tag(f"other:{number}")
        f(1)
        with other_process(valkey.url) as other:
            g = versioned(other, {1: 1})
            g(1)
            engine = other._client_sync().engine  # type: ignore[union-attr]
            state, resyncs = engine.state, engine.state.resyncs
            assert state.unread
            engine.post(engine.tail.interrupt)
            released.set()
            wait_for(lambda: state.sure(state.now()), 10, "all marks to be read")
            assert state.resyncs == resyncs + 1
            assert len(state.marks.tags) >= 25
            assert g(1) == 1
            assert g.stats().counters.computed == 0


def test_a_strict_process_reads_all_marks_first(valkey: Server, released: threading.Event) -> None:
    """It serves nothing while it is blind, so it would compute instead of waiting a moment."""
    released.set()
    with one_process(valkey.url) as cache:
        versioned(cache, {1: 1})(1)
        for number in range(25):
            assert cache.invalidate_tag(f"other:{number}")
        with other_process(valkey.url, consistency="strict") as other:
            g = versioned(other, {1: 1})
            assert g(1) == 1
            assert g.stats().counters.computed == 0
            assert not other._client_sync().engine.state.unread  # type: ignore[union-attr]


def test_floors_that_rose_between_the_pages_are_heard(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks that the master folds meanwhile are in no page any more."""
    page = Tail._page

    async def folded(self: Tail, connection: Any, start: int, *rest: Any) -> Any:
        keys = self._engine.bookkeeping
        if start:
            newest = self._engine.state.marks.newest
            await connection.execute([("HSET", keys.state, "tagfloor", newest), ("DEL", keys.marks)], rest[-1])
        return await page(self, connection, start, *rest)

    with one_process(valkey.url) as cache:
        for number in range(25):
            assert cache.invalidate_tag(f"other:{number}")
        monkeypatch.setattr(tail, "PAGE", 10)
        monkeypatch.setattr(Tail, "_page", folded)
        with other_process(valkey.url) as other:
            versioned(other, {1: 1})(1)
            state = other._client_sync().engine.state  # type: ignore[union-attr]
            wait_for(lambda: state.marks.tag_floor > 0, 10, "the floor to be heard")
