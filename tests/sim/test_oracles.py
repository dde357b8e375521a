"""Defects that the oracles of `judges.py` showed, each as a schedule of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
