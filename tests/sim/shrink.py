"""From a failing schedule to the few faults that matter."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.plan import Plan
from tests.sim.world import Result, run

__all__ = ["shrink"]


def shrink(plan: Plan, runner: Callable[[Plan], Result] = run) -> Plan:
    """Leave out faults, halves first and then one by one, as long as some promise stays broken."""
    if not runner(plan).violations:
        return plan
    size = max(1, len(plan.faults) // 2)
    while True:
        at, dropped = 0, False
        while at < len(plan.faults):
            numbers = {f.number for f in plan.faults[at : at + size]}
            smaller = plan.without(numbers)
            if runner(smaller).violations:
                plan, dropped = smaller, True
            else:
                at += size
        if size == 1 and not dropped:
            return plan
        size = max(1, size // 2)
