"""Each fault under each kind of load: calm, fault, mended, and what that was like."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.faults import links, processes, refusals, servers
from tests.faults.catalog import CATALOG, Fault, Scene
from tests.faults.fleet import LOADS, fleet
from tests.faults.judge import Figures, Phases, judge
from tests.faults.stage import Stage
from tests.server import CliError

__all__ = ["CATALOG", "FULL", "QUICK", "Timing", "run_all", "run_cell", "run_on"]

#: The order of the list is theirs.
FAMILIES = (servers, links, refusals, processes)
for _family in FAMILIES:
    for _name in [name for name, fault in CATALOG.items() if fault.doing.__module__ == _family.__name__]:
        CATALOG[_name] = CATALOG.pop(_name)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds before the fault, and after it was mended; and how much longer than usual readers and editors
    pause."""

    calm: float
    after: float
    quick: bool = False
    ease: float = 1.0


FULL = Timing(1.2, 1.5)
QUICK = Timing(0.6, 0.8, quick=True)


def run_cell(fault: Fault, load: str, timing: Timing = FULL) -> Figures:
    """One fault under one kind of load, on a deployment of its own."""
    with Stage.open(password=fault.password, options=fault.options) as stage:
        if fault.named is not None:
            stage.names[stage.nodes[fault.named].port] = "replica.test"
        return run_on(stage, fault, load, timing)


def run_on(stage: Stage, fault: Fault, load: str, timing: Timing, *, groups: str = "ab") -> Figures:
    """The same on a deployment that is there and whole; it is left as the fault leaves it."""
    cache = dict(fault.cache) if fault.cache else None
    more: dict[str, Any] = {"cache": cache, "short_lived": fault.short_lived, "groups": groups, "ease": timing.ease}
    with fleet(stage, load, callers=fault.callers, **more) as running:
        time.sleep(timing.calm)
        master = stage.master()
        scene = Scene(stage, running, master, [n for n in stage.nodes if n is not master], timing.quick)
        began = time.monotonic()
        doing = fault.doing(scene)
        next(doing)
        seconds = fault.short if timing.quick else fault.seconds
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        next(doing, None)
        mended = time.monotonic()
        time.sleep(timing.after)
        ended = time.monotonic()
        with contextlib.suppress(TimeoutError):  # what it means for the cache is what is measured
            stage.wait_settled(5)
        with contextlib.suppress(OSError, CliError):
            # Sentinel demotes a former master after ten seconds; a strict cache queues as long as there are two.
            stage.rejoin()
        written = running.stop()
        promoted = tuple(at for at in stage.promotions if at > began)
        halts = scene.halts(began)
        phases = Phases(began, mended, ended, promoted, halts, halts if fault.bounds.silent else ())
        journal = running.journal
        return judge(
            fault.name, load, fault.bounds, phases, written, journal.edits(), journal.runs(), journal.errors()
        )


def run_all(
    names: Iterable[str],
    loads: Iterable[str] = LOADS,
    timing: Timing = FULL,
    say: Callable[[Figures, float], None] = print,
) -> list[Figures]:
    """Cell by cell; `say` hears each, with the seconds that it took."""
    found = []
    for name in names:
        for load in loads:
            began = time.monotonic()
            try:
                figures = run_cell(CATALOG[name], load, timing)
            except Exception as error:
                figures = Figures(name, load)
                figures.breaches.append(f"could not be measured: {error!r}"[:600])
            found.append(figures)
            say(figures, time.monotonic() - began)
    return found
