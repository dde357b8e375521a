"""Tasks that read one key at the same moment: who joins whom, and who must not (client/sharing.py)."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from evercache.client.request import Plan
from evercache.client.serving import Unserved
from evercache.client.sharing import join
from evercache.codecs import Encoder
from evercache.engine.state import State
from evercache.errors import ConnectionFailed
from evercache.observe import Counters
from evercache.policy import Settings
from evercache.protocol.scope import Scope
from evercache.protocol.types import Address

NODE = Address("10.0.0.1")
REPLICA: Any = SimpleNamespace(role="replica", address=NODE)
PLAN = Plan("stats", Encoder(), Counters(), 1.0, 0.1, 0.0)
KEY = "shop:f:stats(7)"


@pytest.fixture
def state() -> State:
    return State(Settings(), lambda: 0.0, random.Random(1))


def under_way(state: State, patience: float = 0.1) -> asyncio.Future[Any]:
    """A read that was sent just now."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    state.reading[KEY] = future, REPLICA, 0.5, replace(PLAN, patience=patience), state.marks.horizon
    return future


async def joined(state: State) -> asyncio.Task[Any]:
    task = asyncio.create_task(join(state, PLAN, KEY, 0.5))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("reply", [b"an entry", None])
async def test_who_joins_gets_the_reply_and_all_that_is_needed_to_judge_it(state: State, reply: Any) -> None:
    state.marks.horizon = 5
    future = under_way(state)
    tasks = [await joined(state) for _ in range(3)]
    state.resyncs += 1  # what was asked before is judged by the count at that time (rule 5)
    state.marks.horizon = 7  # and what was forgotten since, by what the node obeyed then (rule 7)
    future.set_result(reply)
    assert await asyncio.gather(*tasks) == [Unserved(0.5, reply, "replica", 0, obeyed=5)] * 3


async def test_nothing_is_joined_that_was_sent_before_a_mark(state: State) -> None:
    under_way(state)
    item = state.begin(Scope.of_key(KEY))
    assert await join(state, PLAN, KEY, 0.5) is None
    under_way(state)
    state.acknowledged(item, 5, "generation")
    assert await join(state, PLAN, KEY, 0.5) is None


@pytest.mark.parametrize("what", ["resync", "later", "nothing"])
async def test_nothing_is_joined_that_was_sent_before_a_resync_or_may_take_too_long(
    state: State, what: str
) -> None:
    future = under_way(state, 0.2 if what == "later" else 0.1)
    if what == "resync":
        state.unready()
    future.set_result(b"an entry")
    assert (await join(state, PLAN, KEY, 0.5) is None) == (what != "nothing")


async def test_a_cancelled_leader_takes_nobody_along(state: State) -> None:
    first = under_way(state)
    task = await joined(state)
    del state.reading[KEY]
    first.cancel()
    assert await task is None  # it leads now
    first = under_way(state)
    task = await joined(state)
    second = under_way(state)
    first.cancel()
    await asyncio.sleep(0)
    assert not task.done()  # it joined who leads now
    second.set_result(b"an entry")
    assert (await task).data == b"an entry"
    first = under_way(state)
    first.cancel()
    assert await join(state, PLAN, KEY, 0.5) is None


async def test_a_cancelled_joiner_leaves_the_read_alone(state: State) -> None:
    future = under_way(state)
    task, other = await joined(state), await joined(state)
    task.cancel()
    await asyncio.sleep(0)
    future.set_result(b"an entry")
    assert (await other).data == b"an entry"
    assert task.cancelled()


async def test_a_node_that_fails_has_been_tried(state: State) -> None:
    future = under_way(state)
    task = await joined(state)
    future.set_exception(ConnectionFailed("gone"))
    assert await task == Unserved(0.5, tried=NODE)


async def test_who_waits_for_an_answer_that_is_late_asks_another_node(state: State) -> None:
    future = under_way(state)
    task = await joined(state)
    del state.reading[KEY]
    future.set_result(object())  # an exchange, or an error
    assert await task == NODE


async def test_late_answers_in_a_row_are_not_waited_for_beyond_the_callers_time(state: State) -> None:
    future = under_way(state)
    task = await joined(state)
    under_way(state, 0.15)  # who leads next began later, and has time for longer
    future.set_result(object())
    assert await task == NODE


def test_a_read_of_another_loop_is_not_joined(state: State) -> None:
    async def elsewhere() -> None:
        under_way(state)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    thread.join()
    assert asyncio.run(join(state, PLAN, KEY, 0.5)) is None
