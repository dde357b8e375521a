"""Lines of the log that several replicas bring: each is heard once, in order, and none behind a gap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from evercache.engine import replica_logs
from evercache.engine.listening import Source
from evercache.engine.replica_logs import ReplicaLogs
from evercache.protocol.replies import LogLine
from evercache.protocol.types import Address

REPLICA = Address("127.0.0.1", 6380)


class Heard:
    """As much of the state as this needs."""

    def __init__(self) -> None:
        self.position, self.resyncs, self.generation = "5-0", 1, "g"
        self.ready, self.master_down, self.covers = True, True, 0.0
        self.awake_since = float("-inf")
        self.unread = False
        self.heard: list[str] = []
        self.rng = random.Random(1)

    def hear_line(self, line: LogLine) -> None:
        self.heard.append(line.log_id)

    def now(self) -> float:
        return 100.0


def line(log_id: str, previous: str, generation: str = "g") -> LogLine:
    return LogLine(log_id, 1, "k", "key", 7, "id" + log_id, generation, previous)


@pytest.fixture
def state() -> Heard:
    return Heard()


@pytest.fixture
def logs(state: Heard) -> ReplicaLogs:
    settings = SimpleNamespace(consistency="available", block=0.25)
    engine: Any = SimpleNamespace(state=state, settings=settings)
    return ReplicaLogs(engine)


def test_lines_are_heard_once_whoever_brings_them(logs: ReplicaLogs, state: Heard) -> None:
    assert logs._hear([line("5-1", "5-0"), line("6-0", "5-1")])
    assert logs._hear([line("5-1", "5-0"), line("6-0", "5-1"), line("10-0", "6-0")])
    assert logs._hear([line("6-0", "5-1")])
    assert state.heard == ["5-1", "6-0", "10-0"]
    assert logs._behind() == "10-0"


@pytest.mark.parametrize("odd", [line("9-0", "8-0"), line("9-0", "6-0", "another")])
def test_nothing_is_heard_behind_a_gap(logs: ReplicaLogs, state: Heard, odd: LogLine) -> None:
    assert not logs._hear([line("6-0", "5-0"), odd, line("10-0", "9-0")])
    assert state.heard == ["6-0"]
    assert logs._behind() == "6-0"


def test_what_the_tail_brought_is_behind(logs: ReplicaLogs, state: Heard) -> None:
    assert logs._hear([line("6-0", "5-0")])
    state.position = "20-0"
    assert logs._behind() == "20-0"
    state.position, state.resyncs = "1-0", 2  # another life of the log
    assert logs._behind() == "1-0"
    assert logs._hear([line("1-1", "1-0")])
    assert state.heard == ["6-0", "1-1"]


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ({}, True),
        ({"master_down": False}, True),
        ({"master_down": False, "covers": 99.8}, False),
        ({"master_down": False, "covers": 99.6}, True),
        ({"ready": False}, False),
        ({"unread": True}, False),
        ({"master_down": False, "awake_since": float("inf")}, False),  # idle: it reads the log seldom
        ({"master_down": False, "awake_since": 99.8}, False),  # its first read was just sent
    ],
)
def test_when_it_is_of_use(logs: ReplicaLogs, state: Heard, what: dict[str, Any], wanted: bool) -> None:
    for name, value in what.items():
        setattr(state, name, value)
    assert logs._wanted() is wanted
    logs._engine.settings.consistency = "strict"  # type: ignore[misc]
    assert not logs._wanted()


async def test_a_replica_is_listened_to_for_as_long_as_it_is_of_use(
    logs: ReplicaLogs, state: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Callable[[], bool]] = []

    async def listen(*arguments: Any) -> None:
        given.append(arguments[-1])

    monkeypatch.setattr(replica_logs, "listen", listen)
    logs._engine.view = SimpleNamespace(replicas=(REPLICA,))  # type: ignore[misc, assignment]
    task = asyncio.create_task(logs._listen(REPLICA))
    while not given:
        await asyncio.sleep(0)
    wanted = given[0]
    assert wanted()
    state.master_down, state.covers = False, 100.0
    assert not wanted(), "the master answers again"
    state.master_down, state.resyncs = True, 2
    assert not wanted(), "all was read anew: what it brings is of another life"
    state.resyncs = 1
    assert wanted()
    logs._engine.view = SimpleNamespace(replicas=())  # type: ignore[misc, assignment]
    assert not wanted(), "it is no replica any more"
    await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("master", [True, False])
def test_a_log_is_that_of_a_role_and_a_generation(master: bool) -> None:
    source = Source(REPLICA, master=master, generation="g")
    assert source.matches("master" if master else "slave", "g")
    assert not source.matches("slave" if master else "master", "g")
    assert not source.matches("master" if master else "slave", "h")
