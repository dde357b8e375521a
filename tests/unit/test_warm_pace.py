"""How much `warm` does at a time: workers, rate, and what it gives up while the servers are slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from evercache.ops.warm.pace import TOLD, Governor, Outcome, Report, Task, run
from evercache.ops.warm.probe import Times


def calls(count: int, seconds: float = 0.0, begun: list[float] | None = None) -> Iterator[Task]:
    def one(line: int) -> list[Outcome]:
        if begun is not None:
            begun.append(time.monotonic())
        time.sleep(seconds)
        return [Outcome(line, "warmed")]

    for line in range(1, count + 1):
        yield Task(lambda line=line: one(line))  # type: ignore[misc]


def test_what_was_begun_is_reported_when_it_is_stopped() -> None:
    stop, report = threading.Event(), Report()
    run(calls(100, 0.05), report, workers=3, stop=stop, done=lambda outcome: stop.set())
    assert 1 <= report.warmed <= 2 * 3
    assert report.done == report.warmed


def test_what_was_begun_is_reported_when_it_is_interrupted() -> None:
    def interrupted() -> Iterator[Task]:
        yield from calls(2, 0.05)
        raise KeyboardInterrupt

    report = Report()
    with pytest.raises(KeyboardInterrupt):
        run(interrupted(), report, workers=4)
    assert report.warmed == 2


def test_after_a_halt_it_does_not_catch_up() -> None:
    """A second without a master is no reason for a burst of what was due meanwhile."""
    begun: list[float] = []
    halted: list[float] = []

    def may_go_on() -> bool:
        if len(begun) == 5 and not halted:
            time.sleep(0.5)
            halted.append(time.monotonic())
        return True

    run(calls(15, 0.0, begun), Report(), workers=1, rate=50, may_go_on=may_go_on)
    after = [moment - halted[0] for moment in begun[5:]]
    assert after[-1] > 8 / 50, after


def test_a_no_ends_it() -> None:
    answers = iter([True, True, False])
    report = Report()
    run(calls(10), report, workers=1, may_go_on=lambda: next(answers))
    assert report.warmed == 2


def test_what_is_known_already_takes_no_worker() -> None:
    report = Report()
    run((Task(lambda: [Outcome(1, "cached")], 0) for _ in range(1000)), report, workers=1, rate=1)
    assert report.cached == 1000


def test_the_governor_gives_way_and_comes_back() -> None:
    governor = Governor(8, usual=0.0002)
    governor.saw(0.0006, 0)  # three times as slow, and not half a millisecond above it
    assert governor.limit == 8
    governor.saw(0.0008, 0)
    assert (governor.limit, governor.pause) == (4, 0.0)
    governor.saw(0.0001, 3)  # quick, but some came to nothing
    governor.saw(0.1, 0)
    assert (governor.limit, governor.pause) == (1, 0.0)
    governor.saw(0.1, 0)
    governor.saw(0.1, 0)
    assert governor.pause == 0.1
    for _ in range(20):
        governor.saw(0.1, 0)
    assert governor.pause == 1.0
    for _ in range(6):
        governor.saw(0.0002, 0)
    assert (governor.limit, governor.pause) == (1, 0.0)
    for _ in range(20):
        governor.saw(0.0002, 0)
    assert (governor.limit, governor.least) == (8, 1)


def test_fewer_workers_are_at_work_when_the_governor_says_so() -> None:
    governor = Governor(4, usual=0.001)
    now, most = [0], [0]
    lock = threading.Lock()

    def one() -> list[Outcome]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return [Outcome(1, "warmed")]

    governor.limit = 2
    run((Task(one) for _ in range(20)), Report(), workers=4, governor=governor)
    assert most[0] == 2


def test_only_the_first_failures_are_remembered() -> None:
    report = Report()
    for line in range(TOLD + 5):
        report.add(Outcome(line, "failed", "no"))
    assert (report.failed, len(report.failures)) == (TOLD + 5, TOLD)


def test_quantiles_of_times() -> None:
    times = Times()
    assert times.quantile(0.99) == 0.0
    for number in range(1, 1001):
        times.add(number / 1000)
    assert times.quantile(0.5) == pytest.approx(0.5, rel=0.025)
    assert times.quantile(0.99) == pytest.approx(0.99, rel=0.025)
    assert (times.quantile(1.0), times.longest, times.count) == (1.0, 1.0, 1000)
