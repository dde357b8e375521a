"""The judge of the real faults: what a dying master acknowledged in its last moments is told from what was lost."""

from __future__ import annotations

import pytest
from tests.faults.judge import Bounds, Figures, Phases, judge
from tests.faults.records import Written

from evercache.ops.meter import Call, Edit

#: The fault begins at 10 with something that takes a while, and the master dies at 10.3.
BEGAN, DIED, MENDED = 10.0, 10.3, 11.5


def judged(
    acknowledged: float, read: float, deaths: tuple[float, ...] = (DIED,), silences: tuple[float, ...] = ()
) -> Figures:
    """One invalidation, and one read that does not know of it."""
    written = Written(1, "a", "threads")
    written.edits.append(Edit(7, 1, acknowledged, True))
    written.calls.append(Call(7, read, read + 0.001, 0, 1, False, 1))
    phases = Phases(BEGAN, MENDED, MENDED + 2.0, deaths=deaths, silences=silences)
    return judge("dying", "threads", Bounds(dying=not silences, silent=bool(silences)), phases, [written])


@pytest.mark.parametrize("before", [0.01, 0.09])
def test_last_moments_are_those_before_the_death_and_not_before_the_fault(before: float) -> None:
    figures = judged(DIED - before, read=MENDED + 0.9)
    assert (figures.stale, figures.stale_reads) == (0.0, 0)
    assert figures.stale_last == pytest.approx(MENDED + 0.9 - DIED + before)


def test_what_was_acknowledged_before_the_last_moments_is_due_at_once() -> None:
    figures = judged(DIED - 0.2, read=DIED + 0.3)
    assert figures.stale == pytest.approx(0.5)
    assert figures.breaches
    assert judged(BEGAN + 0.01, read=DIED + 0.3).stale == pytest.approx(0.59)


def test_what_was_not_replayed_within_a_second_of_the_restart_is_stale() -> None:
    assert judged(DIED - 0.01, read=MENDED + 1.2).stale == pytest.approx(0.2)


def test_without_a_death_the_fault_itself_ends_what_was_acknowledged() -> None:
    assert judged(BEGAN - 0.05, read=MENDED + 0.9, deaths=()).stale == 0.0
    assert judged(DIED - 0.05, read=MENDED + 0.9, deaths=()).stale > 2.0


def test_what_a_master_acknowledged_right_before_it_fell_silent_is_due_half_a_second_later() -> None:
    assert judged(BEGAN - 0.01, read=BEGAN + 0.4, deaths=(), silences=(BEGAN,)).stale == 0.0
    assert judged(BEGAN - 0.01, read=BEGAN + 0.7, deaths=(), silences=(BEGAN,)).stale == pytest.approx(0.2)
    assert judged(BEGAN - 0.2, read=BEGAN + 0.4, deaths=(), silences=(BEGAN,)).stale == pytest.approx(0.6)
