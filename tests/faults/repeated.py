"""Failovers in a row, and the soak: many faults on one deployment, under load without a pause."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.faults.catalog import CATALOG, DYING, Scene
from tests.faults.fleet import Fleet, fleet
from tests.faults.judge import Figures, Phases, judge
from tests.faults.records import Written
from tests.faults.stage import Stage

__all__ = ["Growth", "Soaked", "failovers", "soak"]

#: What a worker holds may be more by this share in the last third than in the first.
GROWTH = 0.05
#: Small numbers of threads and descriptors may differ by these.
SLACK = {"rss": 0, "threads": 3, "files": 8}
#: In this share of the time, first, a process comes to what it needs: it meets each fault for the first time.
WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Growth:
    """What one process held in the first and the last third: the mean of resident bytes, threads, files."""

    process: str
    what: str
    first: float
    last: float

    @property
    def kept(self) -> bool:
        return self.last <= self.first * (1 + GROWTH) + SLACK[self.what]


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a soak was like."""

    figures: Figures
    growth: list[Growth]
    faults: list[str]
    seconds: float

    @property
    def kept(self) -> bool:
        return self.figures.kept and all(one.kept for one in self.growth)


def failovers(load: str, planned: int, unplanned: int, say: Callable[[str], None] = print) -> Figures:
    """So many of each in a row on one deployment, while short-lived editors are killed after they invalidated."""
    times: list[float] = []
    with Stage.open() as stage, fleet(stage, load, short_lived=3) as running:
        began = time.monotonic()
        time.sleep(1.0)
        for number in range(planned + unplanned):
            is_planned = number % 2 == 0 if number < 2 * min(planned, unplanned) else planned > unplanned
            old, at = stage.master(), time.monotonic()
            if is_planned:
                stage.failover()
            else:
                old.kill()
                times.append(old.halts[-1])
                stage.wait_new_master(old, 25)
                time.sleep(0.3)
                old.restart()
            took = time.monotonic() - at
            time.sleep(1.0)  # the old master goes on as one for as long
            stage.wait_settled(25)
            stage.rejoin()
            stage.wait_whole(40)
            kind = "planned" if is_planned else "unplanned"
            say(f"{at - began:6.2f} s  failover {number + 1}, {kind}: {took:.2f} s")
        mended = time.monotonic()
        time.sleep(1.5)
        written = running.stop()
        phases = Phases(began, mended, time.monotonic(), tuple(stage.promotions), tuple(times))
        return _judged(f"{planned} planned, {unplanned} unplanned failovers", load, phases, written, running)


def _judged(name: str, load: str, phases: Phases, written: list[Written], running: Fleet) -> Figures:
    journal = running.journal
    return judge(name, load, DYING, phases, written, journal.edits(), journal.runs(), journal.errors())


#: Faults after which somebody may be stale for longer by what is promised: they have their place in the matrix.
APART = ("cut off", "slow network", "computing process killed", "50 threads", "editors", "all nodes", "nothing")


def soak(
    minutes: float, load: str, seed: int, say: Callable[[str], None] = print, only: Sequence[str] = ()
) -> Soaked:
    """Random faults of the list, one after the other, for so long; each is mended before the next.

    `only`: those whose name contains one of these.
    """
    rng = random.Random(seed)
    names = [
        name
        for name, fault in CATALOG.items()
        if fault.repeats and not fault.password and not name.startswith(APART) and "cut off" not in name
        if not only or any(part in name for part in only)
    ]
    done: list[str] = []
    deaths: list[float] = []
    silences: list[float] = []
    with Stage.open() as stage, fleet(stage, load) as running:
        began = time.monotonic()
        end = began + 60 * minutes
        time.sleep(3.0)
        while time.monotonic() < end:
            fault = CATALOG[rng.choice(names)]
            master = stage.master()
            scene = Scene(stage, running, master, [n for n in stage.nodes if n is not master])
            at = time.monotonic()
            doing = fault.doing(scene)
            next(doing)
            if fault.bounds.dying:
                deaths += scene.halts(at)
            if fault.bounds.silent:
                silences += scene.halts(at)
            time.sleep(max(0.0, at + fault.seconds - time.monotonic()))
            next(doing, None)
            stage.mend()
            done.append(fault.name)
            say(f"{time.monotonic() - began:5.0f} s  {fault.name}")
            time.sleep(rng.uniform(0.5, 2.0))
        mended = time.monotonic()
        time.sleep(2.0)
        written = running.stop()
        promoted = tuple(stage.promotions)
        phases = Phases(began, mended, time.monotonic(), promoted, tuple(deaths), tuple(silences))
        figures = _judged(f"soak of {minutes:g} minutes", load, phases, written, running)
        return Soaked(figures, growth(written), done, mended - began)


def growth(written: list[Written]) -> list[Growth]:
    """The first third against the last, after the warm-up."""
    found = []
    for one in written:
        samples = one.samples[int(WARM_UP * len(one.samples)) :]
        third = len(samples) // 3
        if third < 3:
            continue
        for what in SLACK:
            first = [getattr(sample, what) for sample in samples[:third]]
            last = [getattr(sample, what) for sample in samples[-third:]]
            found.append(Growth(f"{one.role} {one.group}", what, sum(first) / len(first), sum(last) / len(last)))
    return found
