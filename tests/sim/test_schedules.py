"""Schedules in which every promise must hold; `make sim` runs many more of them."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from tests.sim.plan import KINDS, make_plan
from tests.sim.world import Result, run

#: Seeds that once showed a defect, with what it was.
REGRESSIONS: dict[int, str] = {}

#: How many schedules `make test` runs, and the seconds after which it stops (at least a third must be done).
COUNT = int(os.environ.get("EVERCACHE_SIM_COUNT", "200"))
SECONDS = 40.0


def check(result: Result) -> None:
    assert not result.violations, (
        f"{result.violations[0]}\nreplay: python -m tests.sim {result.seed} --trace\nshrink: ... --shrink"
    )


def many(first: int, count: int, seconds: float) -> int:
    """Run schedules and print what was in them; how many there were."""
    began = time.perf_counter()
    faults: Counter[str] = Counter()
    steps: list[int] = []
    for seed in range(first, first + count):
        result = run(make_plan(seed))
        check(result)
        faults.update(result.faults.keys())
        steps.append(result.steps)
        if time.perf_counter() - began > seconds:
            break
    took = time.perf_counter() - began
    print(f"\n{len(steps)} schedules in {took:.1f} s, events: {min(steps)} to {max(steps)}")
    print("schedules with", ", ".join(f"{kind}: {faults[kind]}" for kind in KINDS))
    assert min(steps) >= 150
    return len(steps)


def test_promises_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        done = many(1, COUNT, SECONDS)
    assert done >= COUNT // 3, "the machine is too slow for a look at the promises: give it a core"


def test_what_was_broken_once() -> None:
    for seed, what in REGRESSIONS.items():
        result = run(make_plan(seed))
        assert not result.violations, f"seed {seed}, once {what}: {result.violations[0]}"


@pytest.mark.parametrize("seed", [77, 78, 79])
def test_a_seed_replays_exactly(seed: int) -> None:
    plan = make_plan(seed)
    one, two = run(plan, trace=True), run(plan, trace=True)
    assert one.trace == two.trace
    assert one.steps == two.steps


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_by_itself(kind: str) -> None:
    plan = make_plan(1000, focus=kind)
    numbers = [f.number for f in plan.faults if f.kind == kind]
    assert numbers
    check(run(plan.only(numbers)))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_promises_hold_in_many_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        many(1_000_000, int(os.environ.get("EVERCACHE_SIM_LONG", "10000")), 3000.0)
