"""Defects that the oracles of `judges.py` showed, each as a schedule of its own."""

from __future__ import annotations

from dataclasses import replace

from tests.sim.plan import Fault, Plan, make_plan
from tests.sim.world import run


def _strict() -> Plan:
    plan = make_plan(1).only(())
    settings = {**plan.settings, "consistency": "strict", "default_ttl": 60.0}
    return replace(plan, settings=settings, workload={**plan.workload, "writes": 0.5, "pace": 0.02})


def test_rule_17_the_first_strict_write_of_a_process_waits_for_a_replica() -> None:
    """How many replicas to wait for was asked before the primary was followed: none were known then."""
    plan = _strict()
    lags = [Fault(i, "lag", 0.0, {"node": i, "for_": 1.0, "seconds": 0.5}) for i in range(3)]
    born = [Fault(10 + i, "kill_process", 0.3 + 0.1 * i, {"process": i, "after": 0.0}) for i in range(3)]
    result = run(replace(plan, faults=(*lags, *born)))
    assert not result.violations, result.violations[0]
    assert result.counts["strict acks looked at"] > 5
