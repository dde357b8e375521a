"""The route of the hot path is left at every change of what it was made from; replicas take even turns on it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from evercache import Cache
from evercache.engine.engine import Engine
from evercache.engine.route import NOWHERE
from evercache.engine.state import State
from evercache.errors import ConnectionFailed
from evercache.protocol.balance import NOISE, WARM_UP
from evercache.protocol.caught import Standing
from evercache.protocol.loglines import LogLine
from evercache.protocol.replies import ResyncReply
from evercache.protocol.scope import Scope
from evercache.protocol.topology import View
from evercache.protocol.types import Address
from evercache.topology import ReplicaSet
from evercache.topology.replicas import TURNS

A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))


@pytest.fixture
def engine(own_deployments: None) -> Any:
    cache = Cache("memory://")
    with cache:
        cache.set("k", 1, ttl=60)
        found = cache._find()
        assert found is not None
        yield found.engine


def resync(state: State) -> None:
    state.resynced(ResyncReply("ok", 1, "a generation"), "a run", (), state.now())


CHANGES: dict[str, Callable[[Engine], Any]] = {
    "an invalidation begins": lambda e: e.state.begin(Scope.of_key("another")),
    "the master is lost": lambda e: e.state.down(),
    "another generation": lambda e: e.state.unready(),
    "the log is not followed": lambda e: setattr(e.state, "covers", -inf),
    "all is learnt anew": lambda e: resync(e.state),
    "a fork": lambda e: e.state.after_fork(),
    "another view": lambda e: e.deployment._on_view(View(1, A, (B,))),
    "a replica comes": lambda e: e.replicas.keep([A]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_leaves_the_route(engine: Engine, what: str) -> None:
    state = engine.state
    route = engine.routing.route(state.now())
    assert route is not NOWHERE
    assert state.route is route
    CHANGES[what](engine)
    assert state.route is NOWHERE


def test_what_is_heard_only_prolongs_it(engine: Engine) -> None:
    state = engine.state
    state.covers = state.now()
    route = engine.routing.route(state.now())
    assert route.until == state.sure_until
    state.covers += 1.0
    assert state.route is route
    assert route.until < state.sure_until, "it is found out anew then"


def test_while_something_is_pending_there_is_none(engine: Engine) -> None:
    state = engine.state
    item = state.begin(Scope.of_key("another"))
    assert engine.routing.route(state.now()) is NOWHERE
    state.acknowledged(item, 1, state.generation)
    assert engine.routing.route(state.now()) is not NOWHERE


def test_without_the_tail_there_is_none(engine: Engine) -> None:
    engine.state.local = False
    engine.state.covers = engine.state.now() - engine.settings.max_staleness - 0.001
    assert engine.routing.route(engine.state.now()) is NOWHERE


def test_a_route_that_was_found_before_a_change_is_not_taken_after_it(engine: Engine) -> None:
    state = engine.state
    turn, route = state.turn, engine.routing.route(state.now())
    state.leave_route()
    state.take_route(route, turn)
    assert state.route is NOWHERE


def test_where_the_master_did_not_answer_replicas_without_a_link_do(engine: Engine) -> None:
    """The monitor may see that they lost their links before anybody says that the master is down."""
    state = engine.state
    engine.deployment._on_view(View(master=A, replicas=(B,), epoch=1))
    resync(state)
    now = state.covers = state.now()
    reader = engine.routing.reader(now)
    assert reader is not None
    assert reader.address == A
    assert engine.routing.reader(now, A) is None, "it is asked once"
    engine.replicas.keep([B])
    (replica,) = engine.replicas.members
    replica.standing = Standing(B, run_id="run", caught=now + 1, link_up=False)
    reader = engine.routing.reader(now)
    assert reader is not None
    assert reader.address == A, "nothing new reaches the replica"
    assert engine.routing.reader(now, A) is replica


def standing(address: Address, caught: float = 100.0) -> Standing:
    return Standing(address, run_id=f"run-{address.port}", caught=caught, link_up=True)


def three(changes: list[int]) -> ReplicaSet:
    replicas = ReplicaSet(random.Random(7).random)
    replicas.keep([A, B, C])
    for replica in replicas.members:
        replica.standing = standing(replica.address)
    replicas.on_change = lambda: changes.append(1)
    return replicas


def test_replicas_that_are_alike_take_as_many_turns_each() -> None:
    replicas = three([])
    members = replicas.fit(50.0, 101.0, 10.0).members
    turns = replicas.turns(members)
    assert turns is not None
    first = [next(turns).address for _ in range(3 * TURNS)]
    assert Counter(first) == {A: TURNS, B: TURNS, C: TURNS}
    assert first[:60] != [A, B, C] * 20, "in no order that a page could keep step with"
    assert replicas.turns(members) is turns, "drawn once for the same members"
    replicas.keep([A, B])
    for replica in replicas.members:
        replica.standing = standing(replica.address)
    fewer = replicas.turns(replicas.fit(50.0, 101.0, 10.0).members)
    assert fewer is not None
    assert {next(fewer).address for _ in range(3 * TURNS)} == {A, B}


def test_one_that_turns_slow_ends_the_turns_and_one_that_recovers_begins_them() -> None:
    changes: list[int] = []
    replicas = three(changes)
    slow = replicas.members[0]
    for _ in range(WARM_UP + 1):
        slow.record(NOISE / 4, 100.0)
    assert not changes, "a quick read changes nothing"
    for _ in range(6):
        slow.record(0.1, 100.0)
    assert changes == [1], "told once"
    assert replicas.turns(replicas.members) is None
    for _ in range(60):
        slow.record(NOISE / 4, 100.0)
    assert changes == [1, 1]
    assert replicas.turns(replicas.members) is not None


def test_a_breaker_and_a_standing_tell_of_a_change() -> None:
    changes: list[int] = []
    replicas = three(changes)
    replicas.members[0].fail(100.0, ConnectionFailed("gone"))
    assert changes == [1]
    replicas.members[1].standing = standing(B, 101.0)
    assert changes == [1, 1]


def test_what_a_replaced_master_had_leaves_the_route(engine: Engine) -> None:
    state = engine.state
    route = engine.routing.route(state.now())
    assert state.route is route
    line = LogLine("1-1", 1, "k", "a key", 5, "1" * 16, "former", "0-0")
    assert state.hear_former(line), "the present master lacks it"
    assert state.route is NOWHERE
