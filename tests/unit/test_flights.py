"""Who joins another caller's errand waits for the function, not for that caller's server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from evercache import Cache
from evercache.client._async.leads import AsyncLeads
from evercache.client._sync.leads import SyncLeads
from evercache.clock import monotonic
from evercache.engine.flights import Overdue, Owner
from evercache.errors import DeadlineExceeded
from evercache.protocol.scope import Subject

#: Far over any stall of a machine: only a caller that waits for the wrong thing comes here.
LONG = 20


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_thread_whose_budget_ends_computes_for_all(monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    asks, asking, answer, running, go_on = (
        0,
        threading.Event(),
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def ask(*_: Any, **__: Any) -> Any:
        nonlocal asks
        asks += 1
        asking.set()
        assert answer.wait(LONG)
        raise DeadlineExceeded("the master is late")

    monkeypatch.setattr(SyncLeads, "_ask", ask)
    monkeypatch.setattr("evercache.client._sync.batch_leads.SyncBatchLeads._ask_many", ask)
    cache = Cache("memory://", budget=0.05)
    runs: list[Any] = []

    def compute(key: Any) -> Any:
        runs.append(key)
        running.set()
        assert go_on.wait(LONG)
        return {7: "seven"} if many else "seven"

    f: Callable[[Any], Any] = cache.cached_many()(compute) if many else cache.cached()(compute)
    results: list[Any] = []

    def call() -> None:
        results.append(f([7] if many else 7))

    leader, other = threading.Thread(target=call), threading.Thread(target=call)
    leader.start()
    assert asking.wait(LONG)
    other.start()
    assert running.wait(LONG), "the other one waits for the leader's server"
    answer.set()  # and the leader, which has no master, joins who computes already
    leader.join(0.2)
    go_on.set()
    leader.join(LONG)
    other.join(LONG)
    assert results == [{7: "seven"} if many else "seven"] * 2
    assert asks == len(runs) == 1


def test_a_task_whose_budget_ends_computes_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asking, answer, running, go_on = (asyncio.Event() for _ in range(4))

        async def ask(*_: Any, **__: Any) -> Any:
            asking.set()
            await answer.wait()
            raise DeadlineExceeded("the master is late")

        monkeypatch.setattr(AsyncLeads, "_ask", ask)
        cache = Cache("memory://", budget=0.05)
        runs = 0

        @cache.cached()
        async def f(key: int) -> str:
            nonlocal runs
            runs += 1
            running.set()
            await go_on.wait()
            return "seven"

        leader = asyncio.create_task(f(7))
        await asking.wait()
        others = [asyncio.create_task(f(7)) for _ in range(20)]
        await running.wait()
        answer.set()
        await asyncio.sleep(0.2)
        go_on.set()
        assert await asyncio.gather(leader, *others) == ["seven"] * 21
        assert runs == 1

    asyncio.run(asyncio.wait_for(main(), LONG))


def test_to_wait_for_a_computation_elsewhere_costs_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5: each question for the lease of another process has as much time as the first one left."""
    asked: list[float] = []
    ask = SyncLeads._ask

    def waits_at_first(self: SyncLeads, request: Any, need: int, token: str, deadline: float, seen: str) -> Any:
        asked.append(deadline - monotonic())
        reply = ask(self, request, need, token, deadline, seen)
        return replace(reply, status="wait", left_ms=1000, elapsed_ms=len(asked)) if len(asked) < 5 else reply

    monkeypatch.setattr(SyncLeads, "_ask", waits_at_first)
    with Cache("memory://", budget=LONG) as cache:
        assert cache.cached()(lambda key: key)(7) == 7
    assert len(asked) == 5
    assert min(asked) > LONG / 2
    assert asked[0] - asked[-1] < 2.5, "only what a server is late by is gone"


@pytest.mark.parametrize("first", ["the leader", "the caller that waits for it"])
def test_two_whose_budgets_end_at_once_run_the_function_once(first: str) -> None:
    """The one that asks a server and the one that waits for it gave up in the same moment, and both ran it."""
    subject, caller = Subject("key", "f"), Owner()
    with Cache("memory://") as cache:
        cache.get("warm")
        state: Any = cache._client_sync().engine.state
        flight, _ = state.join_or_lead(subject, 0, caller, joinable=True)
        late = Overdue(flight, False)
        if first == "the leader":
            assert not state.overtaken(flight)
            assert state.join_or_lead(subject, 0, caller, joinable=True, overdue=late) == (flight, False)
            late = Overdue(flight, True)  # and when that takes too long
        other, leads = state.join_or_lead(subject, 0, caller, joinable=True, overdue=late)
        assert leads
        assert other is not flight
        assert state.overtaken(flight)
        for one in (flight, other):
            state.landed(one, None)


def test_a_flight_takes_its_place_back_once_a_later_one_of_its_key_has_ended() -> None:
    subject, caller = Subject("key", "f"), Owner()
    with Cache("memory://") as cache:
        cache.get("warm")
        state: Any = cache._client_sync().engine.state
        first, leads = state.join_or_lead(subject, 0, caller, joinable=True)
        assert leads
        later, leads = state.join_or_lead(subject, 0, caller, joinable=True, overdue=Overdue(first, False))
        assert leads
        state.landed(later, None)
        assert not state.overtaken(first)
        assert state.join_or_lead(subject, 0, caller, joinable=True) == (first, False)
        state.landed(first, None)


def test_a_flight_that_runs_the_function_is_found_by_a_later_one_that_still_asks() -> None:
    """A third caller began its own once the later one had ended, and ran the function beside the first."""
    subject, caller = Subject("key", "f"), Owner()
    with Cache("memory://") as cache:
        cache.get("warm")
        state: Any = cache._client_sync().engine.state
        first, _ = state.join_or_lead(subject, 0, caller, joinable=True)
        later, _ = state.join_or_lead(subject, 0, caller, joinable=True, overdue=Overdue(first, False))
        state.landed(later, None)
        third, leads = state.join_or_lead(subject, 0, caller, joinable=True)
        assert leads
        assert not state.overtaken(first)
        assert state.overtaken(third)
        assert state.join_or_lead(subject, 0, caller, joinable=True) == (first, False)
        for one in (first, third):
            state.landed(one, None)
