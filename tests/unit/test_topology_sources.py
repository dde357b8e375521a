"""What the topologies make of the answers of servers: the list of a primary and replicas, and the sentinels."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from evercache.errors import AccessDenied, ConnectionFailed, EvercacheError, Loading, ServerError
from evercache.observe import events
from evercache.protocol.types import Address
from evercache.topology.facts import NodeFacts, Replication, ask
from evercache.topology.replicated import ReplicatedTopology
from evercache.topology.sentinel import SentinelTopology

A, B, C, D = (Address(name) for name in "abcd")


def node(address: Address, role: str, run_id: str = "") -> NodeFacts:
    said = Replication(role, "replid", link_up=role == "slave")
    return NodeFacts(address, 1.0, 1.0, said, run_id or f"run of {address.host}")


def silent(address: Address) -> NodeFacts:
    return NodeFacts(address, 1.0, 1.0, error=ConnectionFailed("no answer"))


def listed(*replicas: Address) -> ReplicatedTopology:
    """With `A` as its primary."""
    nothing: Any = None
    return ReplicatedTopology(nothing, A, replicas, nothing, clock=lambda: 1.0)


def test_every_replica_of_the_list_is_one_silent_or_not() -> None:
    topology = listed(B, C, D)
    topology._judge([node(A, "master"), node(B, "slave"), silent(C), silent(D)])
    assert topology.view.master == A
    assert topology.view.replicas == (B, C, D)


def test_a_server_with_several_names_counts_once() -> None:
    """A reader's name leads to the primary when it is alone, and two names may lead to one replica."""
    topology = listed(B, C, D)
    one = "run of one server"
    topology._judge(
        [node(A, "master"), node(B, "master", "run of a"), node(C, "slave", one), node(D, "slave", one)]
    )
    assert topology.view.master == A
    assert topology.view.replicas == (C,)


def test_a_primary_that_is_silent_may_come_back() -> None:
    topology = listed(B)
    assert topology._judge([silent(A), node(B, "slave")])
    assert topology.view.master == A
    assert "reachable master" in str(topology.view.problem)
    assert not topology._judge([silent(A), node(B, "slave")]), "the same trouble is the same view"


def test_a_stranger_is_not_believed_for_time_in_which_nobody_was_asked() -> None:
    """The process is suspended, and the first question after that fails."""
    topology = listed(B)
    stranger = replace(node(B, "master"), replication=Replication("master", "another"))
    topology._judge([node(A, "master"), node(B, "slave")])
    for now, sent, believed in ((60.0, 2.0, False), (61.0, 61.0, False), (64.0, 62.0, False), (64.1, 64.0, True)):
        topology._clock = partial(float, now)
        topology._judge([replace(silent(A), sent=sent), replace(stranger, sent=sent)])
        assert topology.view.master == (B if believed else A), sent


def test_a_primary_that_says_it_is_a_replica_is_none() -> None:
    topology = listed(B)
    topology._judge([node(A, "slave"), node(B, "slave")])
    assert topology.view.master is None
    topology._judge([silent(A), node(B, "master")])
    assert topology.view.master == B
    assert topology.view.problem is None


@pytest.mark.parametrize(
    ("error", "syncing"), [(AccessDenied("NOPERM for 'info'"), None), (Loading("LOADING the data set"), True)]
)
async def test_an_error_reply_of_a_node_is_its_error(error: ServerError, syncing: bool | None) -> None:
    """One that loads its data is a replica that copies: it will serve."""

    async def execute(*_: Any) -> list[Any]:
        return [error, error]

    endpoint: Any = SimpleNamespace(address=A, execute=execute)
    facts = await ask(endpoint, 1.0, lambda: 5.0)
    assert facts.error is error
    assert (facts.replication and facts.replication.syncing) is syncing


@pytest.mark.parametrize(
    ("error", "mute"),
    [(ServerError("NOPERM no permissions to access a channel"), True), (ConnectionFailed("refused"), False)],
)
async def test_a_sentinel_that_refuses_to_be_heard_is_reported(error: EvercacheError, mute: bool) -> None:
    """Its silence is reported by whoever asks it."""
    tried, told = asyncio.Event(), list[Any]()

    async def connect(*_: Any) -> None:
        tried.set()
        raise error

    wire: Any = SimpleNamespace(connect=connect)
    options: Any = SimpleNamespace(connect_timeout=0.1)
    topology = SentinelTopology(wire, "main", [A], options, options, emit=lambda event, *_: told.append(event))
    task = asyncio.create_task(topology._listen(A))
    await tried.wait()
    await asyncio.sleep(0)  # what it does up to its pause
    task.cancel()
    assert [type(event) for event in told] == ([events.SentinelMute] if mute else [])
    assert not mute or "NOPERM" in told[0].why
