"""When a run of many schedules counts as failed."""

from __future__ import annotations

from collections import Counter

from tests.sim.plan import KINDS
from tests.sim.runner import NEEDED, Tally, block


def _well() -> Tally:
    counts = Counter(dict.fromkeys(NEEDED, 10_000))
    return Tally(20_000, 9_000_000, 150, schedules_with=Counter(dict.fromkeys(KINDS, 500)), counts=counts)


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
