"""The simulator itself, each kind of fault alone, seeds that failed once; `test_promises_*.py` has the many."""

from __future__ import annotations

from dataclasses import replace

import lupa.lua51
import pytest

from tests.sim import world as world_module
from tests.sim.lua import LuaHost
from tests.sim.mutations import MUTATIONS
from tests.sim.plan import HOLDS, KINDS, make_plan
from tests.sim.process import Process
from tests.sim.world import Result, World, run

#: Seeds that once showed a defect, with what it was.
REGRESSIONS: dict[int, str] = {
    9: "nobody joined a run whose flight had been replaced by a later one, which had ended",
    387: "a batch that was blocked until the mark of its key was forgotten got what its process had invalidated",
    435: "the same by one key, which another process had invalidated",
    208: "a write that a clock set back by 5 s let in after 0.7 s",
    1000114: "a late answer of the former master told the time, an hour early, for the next seven answers",
    1000358: "a mark issued after a flush, on a clock set back, equal to one from before it",
    1000613: "the oracle took a queued invalidation under strict for an acknowledged one",
    1014568: "the same, and its issuer was killed",
    1005396: "everything was judged 0.95 s after a wall, and a replica was probed once a second",
    1011875: "a master was held up to the end, since a disturbed run reached that point late",
    1011830: "a late answer of the master to `get`, with a value that was invalidated here meanwhile",
    1018138: "a request for a lease that arrived too late was given an expired entry as a fresh one",
    1001698: "an entry kept near for as long as a clock said that had stepped an hour ahead of it",
    1003990: "who was born in the place of a forked child gave invalidations the ids of the child's",
    1003012: "the oracle took a lease for over that a later master had renewed",
    1011944: "two masters began to count in step, since none had issued a mark before",
    1013144: "a write spun until its time was over, as its item was pending anew under the same id",
    1013953: "an entry served 3.2 s late, since the step of the clock of a master that few asked was not seen",
}


def check(result: Result) -> None:
    assert not result.violations, (
        f"{result.violations[0]}\nreplay: python -m tests.sim {result.seed} --trace\nshrink: ... --shrink"
    )


def test_what_was_broken_once() -> None:
    for seed, what in REGRESSIONS.items():
        result = run(make_plan(seed, callers="tasks"))
        assert not result.violations, f"seed {seed}, once {what}: {result.violations[0]}"


def test_a_step_that_does_not_end_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(world_module, "LONGEST", 0.3)
    monkeypatch.setattr(Process, "read", spin)
    (violation, *_) = run(make_plan(1)).violations
    assert "StandsStill" in violation.text


def test_rule_1_two_masters_do_not_count_in_step() -> None:
    """With tips ahead of the clocks, an invalidation at the former master had the stamp of an older value that the
    promoted one had stored."""
    assert not run(MUTATIONS["values-from-the-future-are-believed"].plan(40001)).violations


def test_rule_17_direct_reads_are_not_served_by_a_master_that_nobody_confirms() -> None:
    """`get` and `get_many` decode plain hits at once; they did so without this rule."""
    assert not run(MUTATIONS["the-master-is-always-confirmed"].plan(80015)).violations


def test_rule_19_a_step_of_the_masters_clock_is_seen_though_nobody_calls_it() -> None:
    plan = make_plan(1).only(())
    world = World(replace(plan, workload={**plan.workload, "pace": 1000.0, "extras": False}), LuaHost())
    world._begin()
    world.loop.run_until(1.0)
    world.master.skew_us += 5_000_000
    world.loop.run_until(4.0)
    for process in world.processes:
        known = process.engine.state.clock.server_us(world.now)
        assert known is not None
        assert abs(known - world.master.now_us()) < 60_000
    world.oracle.over = True
    world.loop.wind_up()


def test_every_life_of_a_process_draws_numbers_of_its_own() -> None:
    world = World(make_plan(1).only(()), LuaHost())
    world._begin()
    world.loop.run_until(0.1)
    world.fork(0, parent_ends=False)
    child = world.processes[-1]
    world.kill(child.slot)
    world.be_born(child.slot)
    after = world.processes[-1]
    assert after.slot == child.slot
    ids = [{process.engine.state.new_id() for _ in range(100)} for process in (child, after)]
    assert not ids[0] & ids[1]
    world.oracle.over = True
    world.loop.wind_up()


@pytest.mark.parametrize("seed", [77, 78, 79])
@pytest.mark.parametrize("callers", ["tasks", "threads"])
def test_a_seed_replays_exactly(seed: int, callers: str) -> None:
    plan = make_plan(seed, callers=callers)
    one, two = run(plan, trace=True), run(plan, trace=True)
    assert one.trace == two.trace
    assert one.steps == two.steps


@pytest.mark.parametrize("seed", [80, 81])
def test_the_lua_of_servers_does_the_same(seed: int) -> None:
    plan = make_plan(seed)
    assert run(plan, trace=True, lua=LuaHost(module=lupa.lua51)).trace == run(plan, trace=True).trace


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_by_itself(kind: str) -> None:
    plan = make_plan(1000, focus=kind)
    numbers = [f.number for f in plan.faults if f.kind == kind]
    assert numbers
    result = run(plan.only(numbers))
    check(result)
    assert kind not in HOLDS or result.counts["held"] > 0
