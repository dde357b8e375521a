"""Defects that the oracles of `judges.py` showed, each as a schedule of its own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from evercache.client._async.reads import AsyncReads
from evercache.errors import ConnectionFailed
from evercache.net.types import ConnectionOptions
from evercache.protocol.topology import SentinelBook
from evercache.topology import sentinel
from tests.sim import sentinels
from tests.sim.ledger import Ledger
from tests.sim.loop import Tag
from tests.sim.lua import LuaHost
from tests.sim.mutations import MUTATIONS
from tests.sim.network import Request, Session
from tests.sim.plan import Fault, Plan, make_plan
from tests.sim.scenes import CRASH
from tests.sim.swarm import draw
from tests.sim.wire import Connection
from tests.sim.world import World, run


def _strict(writes: float, max_staleness: float = 0.8) -> Plan:
    plan = make_plan(1).only(())
    settings = {
        **plan.settings, "consistency": "strict", "default_ttl": 60.0, "max_staleness": max_staleness, "beta": 0.0,
    }  # fmt: skip
    workload = {**plan.workload, "writes": writes, "pace": 0.02, "near": 0.0, "raises": 0.0, "changes": 0.0}
    return replace(plan, settings=settings, workload={**workload, "extras": False, "cancels": 0.0})


def test_rule_17_the_first_strict_write_of_a_process_waits_for_a_replica() -> None:
    """How many replicas to wait for was asked before the primary was followed: none were known then."""
    plan = _strict(writes=0.5)
    lags = [Fault(i, "lag", 0.0, {"node": i, "for_": 1.0, "seconds": 0.5}) for i in range(3)]
    born = [Fault(10 + i, "kill_process", 0.3 + 0.1 * i, {"process": i, "after": 0.0}) for i in range(3)]
    result = run(replace(plan, faults=(*lags, *born)))
    assert not result.violations, result.violations[0]
    assert result.counts["strict acks looked at"] > 5


def test_rule_17_a_short_staleness_bound_leaves_a_strict_process_its_cache() -> None:
    """The primary was confirmed once a second: with a bound of a quarter of that most calls computed, unleased."""
    result = run(_strict(writes=0.0, max_staleness=0.25))
    assert not result.violations, result.violations[0]
    assert result.counts["computations"] < result.counts["reads"] / 10


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_entry_is_computed_once_under_a_lease_and_replaced(how: str) -> None:
    """The lease script handed it out as fresh: each call computed until its time was over, and stored nothing."""
    plan = _strict(writes=0.0)
    plan = replace(plan, settings={**plan.settings, "consistency": "available"})
    spoilt = [Fault(i, "spoil", 0.5 + 0.02 * i, {"which": 0.1 * i, "how": how}) for i in range(10)]
    result = run(replace(plan, faults=tuple(spoilt)))
    assert result.faults["spoil"] == 10
    assert not result.violations, result.violations[0]
    assert result.counts["computations"] < result.counts["reads"] / 10


def _writes_that_wait(seed: int) -> Plan:
    """Strict writes of counters and of `add`, while the replicas lag by more than a budget for a second."""
    plan = _strict(writes=0.0)
    workload = {**plan.workload, "extras": True, "slow_compute": True, "threads": ()}
    lags = tuple(Fault(i, "lag", 0.7, {"node": i, "for_": 1.0, "seconds": 0.6}) for i in range(3))
    return replace(plan, seed=seed, settings={**plan.settings, "default_ttl": 0.2}, workload=workload, faults=lags)


@pytest.mark.parametrize("seed", [6, 45, 101])
def test_any_strict_write_that_waits_in_vain_excuses_what_is_behind_it(seed: int) -> None:
    """Only those of visitors were looked at: not `add`, not a counter that is set."""
    result = run(_writes_that_wait(seed))
    assert not result.violations, result.violations[0]


@pytest.mark.parametrize("seed", [47, 99])
def test_what_a_batch_left_out_is_computed_under_a_lease(seed: int) -> None:
    """A call of one key that had waited for the batch computed it by itself."""
    result = run(_writes_that_wait(seed))
    assert not result.violations, result.violations[0]


def _without_a_sentinel(at: float) -> Plan:
    """A process is born after 0.3 s, and one of three sentinels is lost for it."""
    plan = _strict(writes=0.0)
    born = Fault(0, "kill_process", 0.3, {"process": 1, "after": 0.0})
    wall = Fault(1, "sentinel_wall", at, {"process": 1, "sentinel": 0, "for_": 3.0})
    return replace(plan, length=3.0, calm=1.5, workload={**plan.workload, "threads": ()}, faults=(born, wall))


def test_rule_17_who_is_born_right_before_a_sentinel_is_lost_is_not_sure_for_a_while() -> None:
    """It follows the votes of the others, but not since the lost one answered last: it computes without a lease."""
    for seed in range(1, 5):
        result = run(replace(_without_a_sentinel(0.36), seed=seed))
        assert not result.violations, result.violations[0]


def test_rule_17_who_followed_the_votes_before_a_sentinel_was_lost_has_its_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not run(_without_a_sentinel(0.9)).violations
    binds = SentinelBook._binds
    monkeypatch.setattr(SentinelBook, "_binds", lambda *args: len(args[-1]) == 3 and binds(*args))
    (violation, *_) = run(_without_a_sentinel(0.9)).violations
    assert violation.promise == "once"


def test_rule_17_a_silent_sentinel_does_not_delay_the_answers_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a small `max_staleness`, a round that waits for a silent server confirms the primary too late."""
    plan = _without_a_sentinel(0.9)
    plan = replace(plan, settings={**plan.settings, "max_staleness": 0.15})
    for seed in range(1, 5):
        result = run(replace(plan, seed=seed))
        assert not result.violations, result.violations[0]
    monkeypatch.setattr(sentinel, "GAP", 0.2)  # as long as for one that answers
    (violation, *_) = run(plan).violations
    assert violation.promise == "once"


def _a_sentinel_is_lost_with_old_news() -> Plan:
    """One of three sentinels learns late of a failover, and is lost for a process before that."""
    plan = _strict(writes=0.0)
    switch = Fault(0, "failover", 0.3, {**CRASH, "mode": "planned", "late": [0.0, 0.0, 0.9]})
    wall = Fault(1, "sentinel_wall", 1.0, {"process": 1, "sentinel": 2, "for_": 4.0})
    return replace(plan, length=4.0, calm=1.5, workload={**plan.workload, "threads": ()}, faults=(switch, wall))


def test_rule_17_a_sentinel_that_was_lost_with_old_news_speaks_against_the_primary_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who is asked for the last time names the former primary: its word counts for twice `failover-timeout`."""
    for seed in range(1, 5):
        result = run(replace(_a_sentinel_is_lost_with_old_news(), seed=seed))
        assert not result.violations, result.violations[0]
    monkeypatch.setattr(sentinels, "FAILOVER_TIMEOUT", 3.0)  # as the library is told
    (violation, *_) = run(_a_sentinel_is_lost_with_old_news()).violations
    assert violation.promise == "once"


def test_bookkeeping_that_was_begun_beside_entries_is_outdated_by_the_next_generation() -> None:
    """The promoted replica has entries and no bookkeeping, which is begun anew there. The next one invalidates
    everything by rule 18: the oracle of warmth asked who had wanted that."""
    plan = make_plan(1).only(())
    failover = {**CRASH, "mode": "planned"}
    faults = [
        *(Fault(i, "lag", 0.0, {"node": i, "for_": 0.8, "seconds": 0.45}) for i in range(3)),
        Fault(3, "burst", 0.4, {"process": 1, "count": 3}),
        Fault(4, "failover", 0.55, failover),
        Fault(5, "failover", 1.3, failover),
    ]
    workload = {**plan.workload, "writes": 0.0, "pace": 0.02, "changes": 0.0, "extras": False, "other_db": False}
    settings = {**plan.settings, "consistency": "available", "default_ttl": 60.0}
    result = run(replace(plan, faults=tuple(faults), settings=settings, workload=workload, quiet=3.6))
    assert result.faults["failover"] == 2
    assert not result.violations, result.violations[0]


def test_a_peek_has_the_budget_of_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the cache was asked of it."""
    plan = make_plan(1).only(())
    settings = {**plan.settings, "consistency": "available", "max_staleness": 0.8}
    workload = {**plan.workload, "near": 0.0, "pace": 0.02, "writes": 0.0, "changes": 0.0, "extras": False}
    walls = tuple(
        Fault(10 * process + node, "wall", 0.5, {"process": process, "server": node, "way": "out", "for_": 0.6})
        for node in (1, 2)
        for process in range(3)
    )
    workload |= {"budget": 3.0, "peeks": True, "threads": ()}
    plan = replace(plan, settings=settings, workload=workload, faults=walls)
    for seed in (5, 6):
        result = run(replace(plan, seed=seed))
        assert not result.violations, result.violations[0]
    # One function has that budget, and the other one that of the cache.
    peek = AsyncReads.peek
    monkeypatch.setattr(AsyncReads, "peek", lambda self, subject, _, *rest: peek(self, subject, 3.0, *rest))
    found = (violation for seed in range(1, 20) for violation in run(replace(plan, seed=seed)).violations)
    violation = next(found)
    assert violation.promise == "budget"


def _two_masters(seed: int) -> Plan:
    """One that is cut off, and is flushed; and the one that takes its place. A process goes on with the former."""
    plan = _strict(writes=0.2)
    faults = (
        Fault(0, "wall", 0.3, {"process": 0, "server": "s", "way": "both", "for_": 1.9}),
        Fault(1, "failover", 0.4, {**CRASH, "mode": "isolated", "back": 1.8}),
        Fault(2, "flush", 0.55, {}),
    )
    return replace(plan, seed=seed, faults=faults, workload={**plan.workload, "threads": ()})


def test_rule_1_a_life_that_a_resync_began_leaps_further_than_the_next_generation() -> None:
    """The stamps of the former master were to stay below those of the next one all the same."""
    result = run(_two_masters(7))
    assert not result.violations, result.violations[0]


def test_rule_22_each_of_two_masters_refuses_fills_by_itself() -> None:
    """What the former master let go of counted as let go of at the present one."""
    result = run(MUTATIONS["the-master-is-always-confirmed"].plan(20038))
    assert not result.violations, result.violations[0]


def test_without_sentinels_a_process_may_go_back_to_the_former_master_with_stamps_of_the_next() -> None:
    """Nobody numbers the masters of a fixed list; the replicas of the former one decide while they follow it."""
    result = run(draw(7001124))
    assert result.faults["failover"] == 1
    assert not result.violations, result.violations[0]


@pytest.mark.parametrize("seed", [2, 3])
def test_who_did_a_resync_before_a_flush_does_not_take_what_is_stored_right_after_it(seed: int) -> None:
    """Nothing is known of the life that was flushed, so what is computed has no stamp at all. Who starts from a
    resync asks for a newer one."""
    plan = make_plan(1).only(())
    settings = {**plan.settings, "consistency": "available", "default_ttl": 60.0, "bookkeeping_db": None}
    workload = {**plan.workload, "near": 0.0, "pace": 0.02, "writes": 0.0, "changes": 0.0, "extras": False}
    faults = (
        Fault(0, "burst", 0.2, {"process": 0, "count": 3}),
        Fault(1, "kill_process", 0.4, {"process": 1, "after": 0.0}),
        Fault(2, "flush", 0.8, {}),
        *(Fault(3 + i, "tail_stall", 0.79, {"process": i, "for_": 0.1}) for i in range(3)),
    )
    workload |= {"other_db": False, "threads": ()}
    result = run(replace(plan, seed=seed, settings=settings, workload=workload, faults=faults))
    assert not result.violations, result.violations[0]


def test_a_hold_counts_to_the_end_of_its_millisecond() -> None:
    """The servers compare whole milliseconds: a lease of the one in which a hold ends is refused its store."""
    world = World(make_plan(1).only(()), LuaHost())
    warmth = world.oracle.judges.warmth
    world.master.data.dbs[0][b"sim~state"] = [{b"held": b"1700000000664"}, None]
    assert warmth.held(0.6642)
    assert not warmth.held(0.6651)


def test_a_write_that_no_master_has_is_worth_what_the_write_in_its_place_is() -> None:
    """A process that has not heard of the failover writes twice: in vain, and then at the former master, which
    issues lower stamps than the present one. It reads what it wrote last."""
    world = World(make_plan(1).only(()), LuaHost())
    oracle, process, other = world.oracle, Tag("p0"), Tag("p1")
    oracle.written._newest = 2000
    for id, who in (("1", process), ("2", other), ("4", process), ("3", process)):
        oracle.named(oracle.begin(who, "k:w", ["w"]), id)
        if id < "3":
            oracle.invalidations[-1].returned = oracle.tick()
    in_vain, foreign, overlapping, later = oracle.invalidations
    later.returned = oracle.tick()
    words = [b""] * 14 + [b"3"]
    oracle.written.ran("invalidate", [b"ok", 0, b"", 1000], words)
    assert [it.wanted["w"] for it in (in_vain, foreign, overlapping, later)] == [1000, 2001, 2001, 1000]
    words[14] = b"1"  # under way when it was withdrawn
    oracle.written.ran("invalidate", [b"ok", 0, b"", 1001], words)
    oracle.read(process, "w", 1000, world.now, oracle.tick(), "a get")
    assert not oracle.violations
    oracle.read(process, "w", 999, world.now, oracle.tick(), "a get")
    assert oracle.violations[0].promise == "P3 own"


@pytest.mark.parametrize(
    ("interrupts", "counted", "well"), [(0, 1, True), (0, 2, False), (1, 2, True), (1, 3, False), (1, 0, False)]
)
def test_a_run_that_a_signal_handler_kept_from_beginning_may_be_counted(
    interrupts: int, counted: int, well: bool
) -> None:
    counters = SimpleNamespace(computed=counted, stored=0)
    process: Any = Mock(tag=Tag("p0"), cache=Mock(stats=lambda: SimpleNamespace(counters=counters)))
    ledger = Ledger(Mock(processes=[process], threads=None, happened={"interrupt": interrupts}))
    ledger.ran(process)
    assert (not ledger.final()) is well


def test_nothing_overtakes_what_is_lost_on_a_connection() -> None:
    """The answer to a later request had the lost one forgotten: its caller waited for its whole budget."""
    world = World(make_plan(1).only(()), LuaHost())
    loop, network = world.loop, world.network
    connection = Connection(network, Tag("p0"), world.nodes[0].address, ConnectionOptions())
    loop.create_task(connection.open(1.0))
    loop.run_until(0.5)
    network.rng = Mock(random=Mock(return_value=0.8))
    network.breaking = 1.0
    lost = connection.send([("PING",)], 9.0)
    network.breaking = 0.0
    later = connection.send([("PING",)], 9.0)
    loop.run_until(0.6)
    loop.wind_up()
    for request in (lost, later):
        assert isinstance(request.future.exception(), ConnectionFailed)


@pytest.mark.parametrize(("sleeps", "well"), [((0.5, 2.0), True), ((1.1, 2.0), False), ((0.5, 0.9), False)])
def test_who_is_suspended_while_it_is_cut_off_is_cut_off_until_it_wakes(
    sleeps: tuple[float, float], well: bool
) -> None:
    """It goes on with what it computed without a server a moment before, as it knows of no server yet."""
    world = World(make_plan(1).only(()), LuaHost())
    oracle, process, other = world.oracle, Tag("p0"), Tag("p1")
    oracle.versions["f0"] = [0.0]
    oracle.troubled("p0", 0.2, 1.0)
    oracle.suspended("p0", *sleeps)
    it = oracle.begin(other, "k:f0", ["f0"])
    it.acknowledged = world.loop.now = 0.6
    world.loop.now = 2.2
    oracle.read(process, "f0", 0, 2.1, oracle.tick(), "gutter")
    assert (not oracle.violations) is (well or world.max_staleness > 2.1 - 1.0)


def test_a_server_that_wakes_early_reads_in_order() -> None:
    """It is chosen as the primary while it is frozen: what comes then was executed before what had come first."""
    world = World(make_plan(1).only(()), LuaHost())
    loop, node, client = world.loop, world.nodes[0], Mock()
    session = Session(world.network, node, client, 0)
    node.frozen_until = 1.0
    first, second = Request([[b"PING"]]), Request([[b"PING"]])
    session.arrive(first)
    node.frozen_until = 0.0
    session.arrive(second)
    assert [call.args[0] for call in client.reply.call_args_list] == [first, second]
    loop.run_until(2.0)
    assert client.reply.call_count == 2
