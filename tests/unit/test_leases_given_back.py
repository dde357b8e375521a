"""A lease that nobody will use is given back: others must not wait for it to run out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.call_tools import parts, within

from evercache import Cache
from evercache.client._sync.batch_computing import SyncBatchComputing
from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded, MasterUnknown, ServerError, UnavailableError
from evercache.observe import Counters


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache("memory://", namespace="given-back", jitter=0, beta=0) as cache:
        cache.get("warm")
        yield cache


@pytest.mark.parametrize("mistake", ["cache_if", "ttl", "tags_from"])
def test_a_mistake_after_the_computation_gives_the_lease_back(cache: Cache, mistake: str) -> None:
    """The next caller must not wait for the lease (five minutes in memory, a second on a server)."""

    def wrong(value: Any) -> Any:
        raise ZeroDivisionError(mistake)

    options: dict[str, Any] = {mistake: wrong}

    @cache.cached(**options)
    def page(number: int) -> int:
        return number

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            within(2.0, lambda: page(1))


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_lease_that_came_with_a_useless_answer_is_given_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """A resync overtook the answer, and then nothing can be asked: others must not wait for the lease."""
    client = parts(cache)
    state, link = client.engine.state, client.leads._link
    pages = cache.cached_many(ttl=60, name="pages")(lambda numbers: {number: number for number in numbers})
    page = cache.cached(ttl=60, name="page")(lambda number: number)
    asked = 0

    ask = type(link).run_many

    def resynced_meanwhile(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        replies = ask(*args, **more)
        state.resyncs += 1
        monkeypatch.setattr(type(state.journal), "covers", lambda *_, **__: True)
        return replies

    def call() -> Any:
        return pages([1])[1] if many else page(1)

    monkeypatch.setattr(type(link), "run_many", resynced_meanwhile)
    assert within(5, call) == 1
    assert asked == 1
    monkeypatch.undo()
    assert within(5, call) == 1, "in memory a lease is that of five minutes"
    assert cache.stats().counters.stored >= 1


def test_leases_beside_an_error_reply_are_given_back(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests of a batch are answered one by one: what ran before the error reply to another has run."""
    link = parts(cache).leads._link
    pages = cache.cached_many(ttl=60, name="pages")(lambda numbers: {number: number for number in numbers})
    run = type(link).run_many

    def answered_in_part(*args: Any, **more: Any) -> Any:
        run(*args, **more)
        raise ServerError("ERR out of order")

    monkeypatch.setattr(type(link), "run_many", answered_in_part)
    assert within(5, lambda: pages([1, 2])) == {1: 1, 2: 2}
    monkeypatch.undo()
    assert within(5, lambda: pages([1, 2])) == {1: 1, 2: 2}
    assert cache.stats().counters.stored == 2


def test_leases_of_a_refresh_that_failed_later_are_given_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cached is asked for a second time; the lease of what was not came with the first answer."""
    link = parts(cache).leads._link
    pages = cache.cached_many(ttl=60, name="pages", on_error="raise")(lambda numbers: dict.fromkeys(numbers, 7))
    assert pages([2]) == {2: 7}
    run, asked = type(link).run_many, 0

    def breaks_then(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise ConnectionFailed("cut")
        return run(*args, **more)

    monkeypatch.setattr(type(link), "run_many", breaks_then)
    with pytest.raises(ConnectionFailed):
        within(5, lambda: pages.refresh([1, 2]))
    assert asked == 2
    monkeypatch.undo()
    assert within(5, lambda: pages([1, 2])) == {1: 7, 2: 7}
    assert cache.stats().counters.stored == 2


def test_rule_11_a_batch_whose_request_came_too_late_gives_its_leases_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = parts(cache).leads._link
    pages = cache.cached_many(ttl=60, name="pages", on_error="raise")(lambda numbers: dict.fromkeys(numbers, 7))
    run = type(link).run_many

    def late(*args: Any, **more: Any) -> Any:
        return [[*reply[:7], [b"late"]] for reply in run(*args, **more)]

    monkeypatch.setattr(type(link), "run_many", late)
    with pytest.raises(MasterUnknown, match="too late"):
        within(5, lambda: pages([1]))
    monkeypatch.undo()
    assert within(5, lambda: pages([1])) == {1: 7}
    assert cache.stats().counters.stored == 1


def test_an_attempt_that_may_have_run_is_not_forgotten(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent, cut off, and the next attempt finds no connection in time: it may have run all the same."""
    link = parts(cache).leads._link
    attempts = iter([ConnectionFailed("cut", maybe_run=True)])

    def once(*_: Any) -> Any:
        raise next(attempts, DeadlineExceeded("no connection"))

    monkeypatch.setattr(type(link), "_once", once)
    with pytest.raises(UnavailableError, match="no connection") as caught:
        link.run(lambda *_: None, monotonic() + 0.2)
    assert caught.value.maybe_run


@pytest.mark.parametrize("breaks", [False, True])
def test_a_walk_that_did_not_see_all_says_so(cache: Cache, monkeypatch: pytest.MonkeyPatch, breaks: bool) -> None:
    """Where the master was lost, and where its last keys came too late to be looked at."""
    sweeping = parts(cache).sweeping

    def walk(self: Any, pattern: str, deadline: float) -> Iterator[list[str]]:
        if breaks:
            raise ConnectionFailed("cut")
        while monotonic() < deadline:
            pass
        yield ["given-back:k"]

    monkeypatch.setattr(type(sweeping), "_walk", walk)
    swept = sweeping.sweep("*", 1, 20.0 if breaks else 0.01, Counters())
    assert (swept.removed, swept.whole) == (0, False)


def test_a_batch_for_which_memory_is_missing_returns_what_was_computed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[list[int]] = []

    @cache.cached_many(ttl=60, name="pages")
    def pages(numbers: list[int]) -> dict[int, int]:
        runs.append(numbers)
        return {number: number for number in numbers}

    def missing(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(SyncBatchComputing, "_granted", missing)
    assert within(5, lambda: pages([1, 2])) == {1: 1, 2: 2}
    assert runs == [[1, 2]]
    monkeypatch.undo()
    assert within(5, lambda: pages([1, 2])) == {1: 1, 2: 2}
    assert cache.stats().counters.stored == 2
