"""Writes whose connection ended: what they wait for, in tasks and in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from evercache.client._async.writes import AsyncWrites
from evercache.client._sync.writes import SyncWrites
from evercache.protocol.journal import Journal, Pending
from evercache.protocol.scope import Scope

KEY = Scope.of_key("ns:1")


class State:
    """What a write looks at: the journal and a clock, which counts how often it is asked."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.asked = 0

    def now(self) -> float:
        self.asked += 1
        return time.monotonic()


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def item(state: State) -> Pending:
    """Its sender gave it up, the former master had it, and the present one lacks it: pending anew, under its id."""
    journal = state.journal
    item = journal.begin("w", KEY)
    journal.given_up(item, 0.0)
    journal.heard("w", KEY, 10, "g1", 0.0)
    assert "w" not in journal.pending
    assert journal.resynced((("g1", 0), ("g2", 5)), 0.0, lambda: 0.0, lambda: "unused") == 1
    assert journal.pending["w"] is not item
    return item


def settled(state: State) -> None:
    state.journal.acknowledged(state.journal.pending["w"], 20, "g2", 1.0)


async def test_a_task_sleeps_until_what_is_pending_under_its_id_is_settled(state: State, item: Pending) -> None:
    writes: Any = SimpleNamespace(_state=state)
    waiting = asyncio.create_task(AsyncWrites._out_of_the_way(writes, item, time.monotonic() + 2))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    assert state.asked < 5, "it does not ask again and again"
    settled(state)
    await asyncio.wait_for(waiting, 1)


def test_a_thread_sleeps_until_what_is_pending_under_its_id_is_settled(state: State, item: Pending) -> None:
    writes: Any = SimpleNamespace(_state=state)
    waiting = threading.Thread(target=SyncWrites._out_of_the_way, args=(writes, item, time.monotonic() + 2))
    waiting.start()
    time.sleep(0.02)
    assert waiting.is_alive()
    assert state.asked < 5, "it does not ask again and again"
    settled(state)
    waiting.join(1)
    assert not waiting.is_alive()


async def test_a_write_whose_time_is_over_waits_no_longer(state: State, item: Pending) -> None:
    writes: Any = SimpleNamespace(_state=state)
    await asyncio.wait_for(AsyncWrites._out_of_the_way(writes, item, time.monotonic() + 0.01), 1)
    assert "w" in state.journal.pending


def _withdrawn_by_a_later_one(journal: Journal) -> None:
    journal.given_up(journal.begin("later", KEY), 0.0)


def _superseded_by_a_write(journal: Journal) -> None:
    later = journal.begin("later", KEY)
    journal.acknowledged(later, 20, "g1", 0.0)
    journal.cancel_key(KEY.name, later.sequence)


def _merged(journal: Journal) -> None:
    for number in range(3):
        journal.given_up(journal.begin(f"{number}", Scope.of_key(f"ns:f:{number}"), "f"), 0.0)


@pytest.mark.parametrize("dropped", [_withdrawn_by_a_later_one, _superseded_by_a_write, _merged])
async def test_rule_11_a_write_waits_on_when_something_else_is_sent_in_the_place_of_its_invalidation(
    dropped: Callable[[Journal], None],
) -> None:
    """That has another id, and cancels nothing: the write may still be executed, and whoever writes after this
    call returned was overwritten."""
    state = State()
    journal = state.journal = Journal(pending_limit=2)
    item = journal.begin("w", KEY, "f")
    journal.given_up(item, 0.0)
    dropped(journal)
    assert "w" not in journal.pending
    writes: Any = SimpleNamespace(_state=state)
    until = time.monotonic() + 0.05
    await asyncio.wait_for(AsyncWrites._out_of_the_way(writes, item, until), 5)
    assert time.monotonic() >= until - 0.002
    until = time.monotonic() + 0.05
    SyncWrites._out_of_the_way(writes, item, until)
    assert time.monotonic() >= until - 0.002


async def test_a_write_that_a_master_has_cancelled_is_waited_for_no_longer(state: State) -> None:
    item = state.journal.begin("w", KEY)
    state.journal.given_up(item, 0.0)
    state.journal.acknowledged(state.journal.pending["w"], 20, "g1", 1.0)
    writes: Any = SimpleNamespace(_state=state)
    await asyncio.wait_for(AsyncWrites._out_of_the_way(writes, item, time.monotonic() + 100), 5)
