"""When a run of many schedules counts as failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from tests.sim.plan import make_plan
from tests.sim.runner import ENOUGH_FOR_PAIRS, NEEDED, PAIRS, Tally, block
from tests.sim.swarm import ALL_KINDS, NAMES, Pairs, draw, parts_of, with_parts
from tests.sim.troubles import TROUBLES
from tests.sim.world import run


def _met(times: int) -> Pairs:
    return Pairs(Counter(dict.fromkeys(combinations(sorted(NAMES), 2), times)))


def _well() -> Tally:
    counts = Counter(dict.fromkeys(NEEDED, 10_000))
    return Tally(
        20_000, 9_000_000, 150, schedules_with=Counter(dict.fromkeys(ALL_KINDS, 500)), counts=counts, pairs=_met(20)
    )


def test_enough_of_everything_is_well() -> None:
    assert _well().complaints() == []


def test_a_kind_of_fault_that_is_too_rare_fails() -> None:
    tally = _well()
    tally.schedules_with["flush"] -= 1
    assert tally.complaints() == ["flush occurred in 499 schedules only, fewer than 500"]


def test_what_was_never_looked_at_is_a_complaint() -> None:
    tally = _well()
    tally.counts["acknowledged under strict"] = 9_999
    assert tally.complaints() == ["'acknowledged under strict' was counted 9,999 times only, fewer than 10,000"]


def test_two_parts_that_seldom_meet_are_a_complaint() -> None:
    tally = _well()
    tally.pairs.seen["flush", "near"] -= 1
    assert tally.complaints() == ["flush and near met in 19 schedules only, fewer than 20"]


def test_any_two_parts_of_the_world_meet_often_enough() -> None:
    """The plans of 1,500 schedules, drawn and not run; in a run of 20,000 each pair must meet in 20."""
    pairs, count = Pairs(), 1500
    for seed in range(1_000_000, 1_000_000 + count):
        pairs.add(parts_of(draw(seed)))
    ((pair, met), *_) = pairs.rarest(1)
    assert met >= PAIRS * count / ENOUGH_FOR_PAIRS, f"{pair} met {met} times"


def test_a_plan_is_drawn_from_its_seed_alone() -> None:
    assert draw(4711) == draw(4711)


def test_there_is_time_to_ask_the_only_sentinel_again() -> None:
    """A process that was born while it was silent had 0.4 s for it, and asks once a second."""
    alone = [plan for plan in map(draw, range(400)) if plan.servers.get("sentinels") == 1]
    silent = [(plan, f) for plan in alone for f in plan.faults if f.kind.startswith("sentinel_")]
    assert silent
    for plan, fault in silent:
        assert plan.length + plan.quiet >= fault.at + fault.args["for_"] + 2.0


@pytest.mark.parametrize("name", NAMES)
def test_each_part_can_be_asked_for(name: str) -> None:
    plan = draw(1000)
    plan = with_parts(replace(plan, servers={}, faults=()), [name])
    assert name in parts_of(plan)


@pytest.mark.parametrize("kind", TROUBLES)
def test_each_further_kind_of_fault_by_itself(kind: str) -> None:
    plan = with_parts(make_plan(1000).only(()), [kind])
    result = run(plan)
    assert result.faults[kind], "it found nothing to disturb"
    assert not result.violations, f"{result.violations[0]}: {plan}"


def test_a_small_schedule_fails() -> None:
    tally = _well()
    tally.least = 149
    assert tally.complaints() == ["a schedule had 149 events only, fewer than 150"]


def test_a_broken_promise_fails_with_the_command_that_replays_it() -> None:
    tally = _well()
    tally.add(Tally(1, 500, 500, failures=[(7, "P2 at 1.0: stale")]))
    assert tally.complaints() == ["seed 7: P2 at 1.0: stale\n  replay: python -m tests.sim 7 --trace"]


def test_a_block_counts_what_happened() -> None:
    tally = block(1, 2)
    assert tally.schedules == 2
    assert tally.events >= 2 * tally.least >= 300
    assert sum(tally.faults.values()) >= sum(tally.schedules_with.values())
    assert "schedules" in tally.table(1.0)
