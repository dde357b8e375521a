"""The figures and the verdict of a drill, from records: what each trouble does to them, and what is none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.drill_records import EMPTY, PHASES, sound, with_failures, with_noise

from evercache.ops.drill.measure import BUCKET, Figures, Warmth, lost_at_the_end, measure
from evercache.ops.drill.records import EDITED, KEYS, Final, Hung, Recorder, Truth, Undelivered, Written
from evercache.ops.drill.verdict import Promise, in_words, promises_of_all, promises_of_step, seconds
from evercache.ops.meter import Call, Edit, Overslept, Run
from evercache.ops.stalls import CpuWait


def figures_of(written: Written) -> Figures:
    return measure(written, [PHASES])[0]


def broken(figures: Figures, within: float = 5.0, whole: bool = True) -> set[str]:
    return {promise.name for promise in promises_of_step(figures, within, whole, 19.0) if promise.kept is False}


def unjudged(figures: Figures, within: float = 5.0) -> dict[str, str]:
    """Name and words of each promise that could not be judged."""
    return {one.name: one.seen for one in promises_of_step(figures, within, True, 19.0) if one.kept is None}


def test_a_sound_step() -> None:
    figures = figures_of(sound())
    assert broken(figures) == set()
    assert figures.reads == pytest.approx(1900, abs=3)
    assert figures.reads_in_fault == pytest.approx(500, abs=3)
    assert figures.errors == figures.stale_reads == figures.lost == 0
    assert figures.p50 == pytest.approx(0.001)
    assert figures.slowest == pytest.approx(0.002)
    assert figures.hits_before == pytest.approx(0.9, abs=0.01)
    assert figures.hits_in_fault == pytest.approx(0.9, abs=0.01)
    assert figures.promotion == pytest.approx(1.5)
    assert figures.writes_back == pytest.approx(1.51)
    assert figures.still == pytest.approx(1.6, abs=0.11)
    assert figures.queued == pytest.approx(15, abs=1)
    assert figures.whole_after == pytest.approx(10)
    assert figures.pause < 0.02


def test_the_series_has_every_call_once() -> None:
    figures = figures_of(with_failures(sound(), 102.1, 3))
    assert [bucket.at for bucket in figures.series] == pytest.approx(
        [-2 + BUCKET * number for number in range(1, 76)]
    )
    assert sum(bucket.hits + bucket.computed for bucket in figures.series) == pytest.approx(figures.reads, abs=26)
    assert sum(bucket.queued for bucket in figures.series) == figures.queued
    at = {bucket.at: bucket for bucket in figures.series}
    assert at[2.0].errors == 3
    assert (at[0.5].acknowledged, at[3.0].queued) == (0, 0)
    assert at[0.5].queued > 0
    assert at[3.0].acknowledged > 0


def test_an_error_that_reaches_a_caller() -> None:
    figures = figures_of(with_failures(sound(), 102.0, 2))
    assert figures.error_kinds == {"read: TimeoutError: no answer": 2}
    assert broken(figures) == {"errors"}
    assert figures_of(with_failures(sound(), 200.0, 2)).errors == 0, "after the step"


def test_a_slow_hit_is_slow_unless_the_machine_was() -> None:
    written = sound()
    written.calls.append(Call(300, 102.0, 102.4, 1, 5, False, 2))
    assert figures_of(written).slowest == pytest.approx(0.4)
    assert figures_of(written).slowest_where == "a read, +2.0 s"
    assert broken(figures_of(written)) == {"slowest"}
    figures = figures_of(with_noise(written, 102.1, 102.35))
    assert figures.slowest == pytest.approx(0.15)
    assert figures.slowest_seen == pytest.approx(0.4), "the chart hides nothing"
    assert figures.noise == figures.stalled == pytest.approx(0.25)
    assert broken(figures) == set()
    assert unjudged(figures) == {"slowest": "the machine stood still for 250 ms of the slowest call's 400 ms"}


def test_a_break_beyond_the_stall_is_a_break() -> None:
    written = sound()
    written.calls.append(Call(300, 102.0, 102.6, 1, 5, False, 2))
    figures = figures_of(with_noise(written, 102.1, 102.4))
    assert (broken(figures), unjudged(figures)) == ({"slowest"}, {})
    (slowest,) = (one for one in promises_of_step(figures, 5.0, True, 19.0) if one.name == "slowest")
    assert slowest.seen == "300 ms, not counting the time in which the machine stood still"


def test_the_stall_of_another_process_excuses_nothing() -> None:
    """It may have waited for the processor that this one used."""
    written = sound()
    written.calls.append(Call(300, 102.0, 102.4, 1, 5, False, 2))
    written.overslept.append(Overslept(102.1, 102.35, 3))
    assert broken(figures_of(written)) == {"slowest"}
    written.overslept.append(Overslept(102.1, 102.35, 2))
    assert broken(figures_of(written)) == set()


def test_a_stall_at_another_moment_excuses_nothing() -> None:
    written = sound()
    written.calls.append(Call(300, 102.0, 102.4, 1, 5, False, 2))
    assert broken(figures_of(with_noise(written, 102.5, 104.0))) == {"slowest"}


def test_a_stall_while_the_function_ran_excuses_nothing_else() -> None:
    """The function's own time has it in it already."""
    written = sound()
    written.runs.append(Run(300, 77, 102.0, 102.4))
    written.calls.append(Call(300, 102.0, 102.8, 1, 77, True, 3))
    figures = figures_of(with_noise(written, 102.05, 102.35))
    assert figures.slowest == figures.slowest_seen == pytest.approx(0.4)
    assert broken(figures) == {"slowest"}


def test_every_time_with_a_bound_is_judged_without_stalls() -> None:
    written = sound()
    written.edits.append(Edit(7, 9000, 110.0, True))
    written.calls.append(Call(7, 110.15, 110.16, 8000, 5, False, 2))
    figures = figures_of(with_noise(with_noise(written, 110.02, 110.12), 100.2, 100.9))
    assert broken(figures, within=1.0) == set()
    assert unjudged(figures, within=1.0) == {
        "stale": "the machine stood still for 100 ms of the oldest data's 150 ms",
        "promotion": "the machine stood still for 700 ms of the promotion's 1.5 s",
    }
    assert broken(figures, within=0.7) == {"promotion"}
    stood = figures_of(with_noise(sound(per_second=15), 99.0, 109.0))
    assert "load" in unjudged(stood)


def test_how_busy_the_machine_was_is_a_share_of_the_step() -> None:
    written = sound()
    assert figures_of(written).cpu_waited is None
    written.cpu_waits += [CpuWait(90.0, 0.0, 0.0), CpuWait(100.0, 5.0, 1.0), CpuWait(110.0, 10.0, 2.0)]
    figures = figures_of(written)
    assert (figures.cpu_waited, figures.cpu_stolen) == (pytest.approx(0.5), pytest.approx(0.1))


def test_the_functions_own_time_is_not_the_caches() -> None:
    written = sound()
    written.runs.append(Run(300, 77, 102.0, 104.0))
    written.calls.append(Call(300, 101.9, 104.1, 1, 77, False, 3))
    assert figures_of(written).slowest == pytest.approx(0.2)


def test_an_old_page_after_an_acknowledgement() -> None:
    written = sound()
    written.edits.append(Edit(7, 9000, 110.0, True))
    written.calls.append(Call(7, 110.15, 110.16, 8000, 5, False, 2))
    figures = figures_of(written)
    assert (figures.stale_reads, figures.stalest) == (1, pytest.approx(0.15))
    assert broken(figures) == {"stale"}
    written.calls.append(Call(7, 114.0, 114.1, 8000, 5, False, 2))
    assert broken(figures_of(written)) == {"stale", "lost"}


def test_what_nobody_acknowledged_makes_nothing_old() -> None:
    written = sound()
    written.edits.append(Edit(7, 9000, math.inf, False))
    written.calls.append(Call(7, 110.15, 110.16, 8000, 5, False, 2))
    assert broken(figures_of(written)) == set()


@pytest.mark.parametrize(("read", "wrong"), [(101.0, set()), (102.4, set()), (102.8, {"stale"})])
def test_the_last_moments_of_a_dying_master(read: float, wrong: set[str]) -> None:
    """What only the dead master knew is known to all a second after the promotion; until then it is shown apart."""
    written = sound()
    written.edits = [edit for edit in written.edits if edit.acknowledged < 99.0 or edit.acknowledged > 101.0]
    written.edits.append(Edit(7, 9000, 99.97, True))
    written.calls.append(Call(7, read, read + 0.001, 8000, 5, False, 2))
    figures = figures_of(written)
    assert figures.stale_last == pytest.approx(read - 99.97)
    assert broken(figures) == wrong
    alive = measure(written, [replace(PHASES, dying=False)])[0]
    assert "stale" in broken(alive)


def test_no_other_master_or_too_late() -> None:
    assert broken(figures_of(sound()), within=1.0) == {"promotion"}
    never = measure(sound(), [replace(PHASES, promoted=None)])[0]
    assert (never.promotion, never.writes_back) == (None, None)
    assert broken(never) == {"promotion"}
    assert broken(measure(sound(), [replace(PHASES, promoted=None, promotes=False)])[0]) == set()


def test_not_whole_not_warm_and_no_load() -> None:
    figures = figures_of(sound())
    assert broken(figures, whole=False) == {"whole"}
    assert broken(replace(figures, warmth=Warmth(100, 94))) == {"warm"}
    assert broken(replace(figures, warmth=Warmth(100, 95))) == set()
    assert broken(replace(figures, warmth=Warmth(0, 0))) == {"warm"}, "nothing was cached: nothing was shown"
    assert broken(figures_of(sound(per_second=10))) == {"load"}


def test_nothing_at_all() -> None:
    figures = measure(Written(), [EMPTY])[0]
    assert figures.reads == 0
    assert "load" in broken(figures)
    assert measure(Written(), []) == []


def test_the_worst_of_all_steps_is_named() -> None:
    quick, slow = figures_of(sound()), replace(figures_of(sound()), slowest_seen=0.2, errors=3, promotion=2.5)
    promises = promises_of_all([("one", quick), ("two", slow)], 0, 0, 0, 5.0, True)
    seen = {promise.name: promise for promise in promises}
    assert seen["slowest"].seen == "200 ms (two)"
    assert seen["promotion"].seen == "2.5 s (two)"
    assert not seen["errors"].kept
    assert "warm" not in seen
    assert [promise.name for promise in promises_of_all([], 0, 0, 0, 5.0, False)] == ["whole"]


@pytest.mark.parametrize(
    ("lost", "left", "hung", "name"), [(1, 0, 0, "lost"), (0, 2, 0, "delivered"), (0, 0, 1, "delivered")]
)
def test_what_is_found_at_the_very_end(lost: int, left: int, hung: int, name: str) -> None:
    promises: list[Promise] = promises_of_all([("one", figures_of(sound()))], lost, left, hung, 5.0, True)
    assert [promise.name for promise in promises if not promise.kept] == [name]


def test_lost_at_the_end() -> None:
    written = Written(edits=[Edit(1, 5, 10.0, True), Edit(2, 5, math.inf, False)])
    written.finals = [Final(1, 5, 2), Final(2, 4, 2), Final(3, 0, 2)]
    assert lost_at_the_end(written) == 0
    written.finals.append(Final(1, 4, 3))
    assert lost_at_the_end(written) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ms"), (0.0042, "4.2 ms"), (0.00996, "10 ms"), (0.25, "250 ms"), (0.9996, "1.0 s"), (12.34, "12.3 s")],
)
def test_times_in_words(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_step_in_a_line() -> None:
    figures = replace(figures_of(sound()), warmth=Warmth(10, 10))
    assert in_words(figures).endswith("another master after 1.5 s, 100 % warm")


def test_records_survive_their_process(tmp_path: Path) -> None:
    """Also what it had half written when it was killed does no harm."""
    recorder = Recorder(tmp_path, 7)
    records = [Call(1, 1.0, 2.0, 3, 4, True, 7), Run(1, 4, 1.0, 2.0), Edit(1, 2, math.inf, False)]
    recorder.note(*records)
    recorder.flush()
    recorder.note(Hung(1, 2.0), Undelivered(3, 7), Final(1, 2, 7))
    recorder.flush()
    recorder.flush()
    path = tmp_path / "records-7"
    path.write_bytes(path.read_bytes()[:-3])
    Recorder(tmp_path, 8).flush()
    read = Written.read(tmp_path)
    assert [*read.calls, *read.runs, *read.edits] == records
    assert (read.hung, read.undelivered, read.finals) == ([Hung(1, 2.0)], [Undelivered(3, 7)], [])


def test_the_truth_is_shared(tmp_path: Path) -> None:
    one, other = Truth(tmp_path), Truth(tmp_path)
    one[KEYS - 1] = 5
    one.newest = EDITED - 1
    assert (other[KEYS - 1], other[0], other.newest) == (5, 0, EDITED - 1)
