"""How much is done at a time: so many workers, so many calls a second, and less while the servers are slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["TOLD", "Governor", "Kept", "Outcome", "Report", "Task", "run"]

#: Failures that are told one by one.
TOLD = 20
#: How long a look whether it is to stop may be put off (seconds).
_GLANCE = 0.2


#: Where it was computed: whether the cache has it, its function's own options or its type do not let it, or it was
#: lost, since there was no master, or it was invalidated meanwhile.
Kept = Literal["kept", "declined", "lost"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one line."""

    line: int
    what: Literal["warmed", "cached", "failed"]
    why: str = ""
    kept: Kept = "kept"


@dataclass(slots=True)
class Report:
    """What came of all lines. Written by one thread."""

    warmed: int = 0
    cached: int = 0
    failed: int = 0
    declined: int = 0
    lost: int = 0
    failures: list[Outcome] = field(default_factory=list)

    @property
    def done(self) -> int:
        """All of them."""
        return self.warmed + self.cached + self.failed

    def add(self, outcome: Outcome) -> None:
        """One line more; of those that failed the first are remembered."""
        self.declined += outcome.kept == "declined"
        self.lost += outcome.kept == "lost"
        if outcome.what == "warmed":
            self.warmed += 1
        elif outcome.what == "cached":
            self.cached += 1
        else:
            self.failed += 1
            if self.failed <= TOLD:
                self.failures.append(outcome)


@dataclass(frozen=True, slots=True)
class Task:
    """Something to run, which raises nothing. `weight`: how many calls it is; 0: it is known already."""

    run: Callable[[], Sequence[Outcome]]
    weight: int = 1


class Governor:
    """Takes workers away while the servers are slow, and gives them back one by one.

    Slow is a median read of more than twice what it was before, and half a millisecond above it; or one that came
    to nothing. `limit` and `pause` are read by another thread than the one that calls `saw`.
    """

    def __init__(self, workers: int, usual: float) -> None:
        self.workers = self.limit = self.least = workers
        self.usual = usual
        #: Seconds to wait before each call, when one worker is still too much.
        self.pause = 0.0
        self.slow_times = 0

    def __repr__(self) -> str:
        return f"<Governor {self.limit} of {self.workers} workers, pause {self.pause:.2f} s>"

    def saw(self, median: float, failed: int) -> None:
        """The reads of the last moment: their median in seconds, and how many came to nothing."""
        if failed or median > max(2.0 * self.usual, self.usual + 0.0005):
            self.slow_times += 1
            if self.limit == 1:
                self.pause = min(1.0, 2.0 * self.pause or 0.05)
            self.limit = max(1, self.limit // 2)
            self.least = min(self.least, self.limit)
        elif self.pause:
            self.pause = 0.0 if self.pause <= 0.05 else self.pause / 2
        else:
            self.limit = min(self.workers, self.limit + 1)


def run(
    tasks: Iterable[Task],
    report: Report,
    *,
    workers: int,
    rate: float | None = None,
    done: Callable[[Outcome], None] = lambda outcome: None,
    governor: Governor | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
    stop: threading.Event | None = None,
) -> None:
    """Run tasks, `workers` at a time, and begin `rate` calls a second at most.

    `done` is told of each, in this thread. Before each one `may_go_on` is asked, which may take its time. At a
    False, at `stop`, and at an exception (Ctrl-C) nothing more is begun, and what runs is waited for and reported.
    """
    stop = stop or threading.Event()
    running: set[Future[Sequence[Outcome]]] = set()
    due = time.monotonic()

    def ended(finished: Iterable[Future[Sequence[Outcome]]]) -> None:
        for future in finished:
            for outcome in future.result():
                report.add(outcome)
                done(outcome)

    def until_fewer_than(limit: int) -> None:
        nonlocal running
        while len(running) >= limit and not stop.is_set():
            finished, running = wait(running, _GLANCE, FIRST_COMPLETED)
            ended(finished)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="evercache-warm")
    try:
        for task in tasks:
            if stop.is_set():
                break
            if not task.weight:
                for outcome in task.run():
                    report.add(outcome)
                    done(outcome)
                continue
            until_fewer_than(workers if governor is None else governor.limit)
            pause = 0.0 if governor is None else governor.pause
            if rate is not None:
                # After a halt it goes on at the same pace, and does not catch up.
                now = time.monotonic()
                due = max(due, now)
                pause = max(pause, due - now)
                due += task.weight / rate
            if stop.wait(pause) or not may_go_on():
                break
            running.add(pool.submit(task.run))
    finally:
        pool.shutdown(wait=True)
        ended(running)
