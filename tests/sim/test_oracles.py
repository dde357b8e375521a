"""Defects that the oracles of `judges.py` showed, each as a schedule of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evercache.client._async.reads import AsyncReads
from evercache.protocol.topology import SentinelBook
from tests.sim.mutations import MUTATIONS
from tests.sim.plan import Fault, Plan, make_plan
from tests.sim.scenes import CRASH
from tests.sim.world import run


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
    (violation, *_) = run(replace(plan, seed=6)).violations
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
