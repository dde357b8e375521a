"""What was promised, and whether it was kept: pure functions of the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evercache.ops.drill.measure import BUDGET, MEASURING, STALE, Figures

__all__ = ["Promise", "in_words", "promises_of_all", "promises_of_step", "seconds"]

#: Of what was cached before all servers were restarted, so much must still be cached afterwards.
WARM = 0.95
#: A step in which fewer reads than this were made in each second has shown nothing.
FEWEST = 20.0


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: its bound, what was seen, and whether it was kept."""

    name: str
    text: str
    bound: str
    seen: str
    kept: bool


def seconds(value: float) -> str:
    """A time as people write it."""
    if 0 < value < 0.00995:
        return f"{1000 * value:.1f} ms"
    if value < 0.9995:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s"


def in_words(figures: Figures) -> str:
    """The figures of a step in a line."""
    parts = [
        f"{figures.errors} errors in {figures.reads:,} reads",
        f"slowest {seconds(figures.slowest)}",
        f"stalest {seconds(figures.stalest)}",
        f"{100 * figures.hits_in_fault:.0f} % from the cache",
    ]
    if figures.promotion is not None:
        parts.append(f"another master after {seconds(figures.promotion)}")
    if figures.warmth is not None:
        parts.append(f"{100 * figures.warmth.share:.0f} % warm")
    return ", ".join(parts)


def promises_of_step(figures: Figures, replaced_within: float, whole: bool, lasted: float) -> list[Promise]:
    """What one step had to keep. `replaced_within`: the time (s) that the sentinels have for another master."""
    found = [_errors([figures]), _slowest([figures]), _stale([figures]), _lost([figures], 0)]
    if figures.promotes:
        found.append(_replaced([figures], replaced_within))
    if figures.warmth is not None:
        found.append(_warm([figures]))
    found.append(_whole(whole))
    if not _enough(figures, lasted):
        found.append(
            Promise("load", "there was load all the time", f"{FEWEST:.0f} reads/s", "too few reads", False)
        )
    return found


def promises_of_all(
    steps: Sequence[tuple[str, Figures]],
    lost: int,
    undelivered: int,
    hung: int,
    replaced_within: float,
    whole: bool,
) -> list[Promise]:
    """What the whole drill had to keep; figures are the worst of all steps, with the step's name."""
    if not steps:
        return [_whole(whole)]
    all_figures = [figures for _, figures in steps]
    at = _namer(steps)
    found = [
        _errors(all_figures),
        _slowest(all_figures, at(lambda figures: figures.slowest)),
        _stale(all_figures, at(lambda figures: figures.stalest)),
        _lost(all_figures, lost),
    ]
    if any(figures.promotes for figures in all_figures):
        found.append(_replaced(all_figures, replaced_within, at(lambda figures: figures.promotion or 0.0)))
    if any(figures.warmth is not None for figures in all_figures):
        found.append(_warm(all_figures))
    found.append(
        Promise(
            "delivered",
            "Nothing is left undone: every change that had to wait is delivered, every call returns",
            "0 left",
            f"{undelivered} changes left, {hung} calls hung" if undelivered or hung else "0 left",
            not undelivered and not hung,
        )
    )
    found.append(_whole(whole))
    return found


def _namer(steps: Sequence[tuple[str, Figures]]) -> Callable[[Callable[[Figures], float]], str]:
    def at(of: Callable[[Figures], float]) -> str:
        name, figures = max(steps, key=lambda step: of(step[1]))
        return f" ({name})" if len(steps) > 1 and of(figures) else ""

    return at


def _errors(all_figures: Sequence[Figures]) -> Promise:
    errors = sum(figures.errors for figures in all_figures)
    kinds = [kind for figures in all_figures for kind in figures.error_kinds]
    reads = sum(figures.reads for figures in all_figures)
    seen = f"{errors} in {reads:,} reads" + (f": {kinds[0]}" if kinds else "")
    return Promise("errors", "No error reaches a visitor", "0", seen, not errors)


def _slowest(all_figures: Sequence[Figures], where: str = "") -> Promise:
    worst = max(figures.slowest for figures in all_figures)
    return Promise(
        "slowest",
        "No page waits longer for the cache than its budget, beyond the time of its own function",
        seconds(BUDGET),
        seconds(worst) + where,
        worst <= BUDGET + MEASURING,
    )


def _stale(all_figures: Sequence[Figures], where: str = "") -> Promise:
    worst, reads = max(f.stalest for f in all_figures), sum(f.stale_reads for f in all_figures)
    seen = f"{reads} reads, the worst {seconds(worst)}" if reads else f"worst {seconds(worst)}"
    text = "No visitor sees old data after a change was acknowledged"
    return Promise("stale", text, seconds(STALE), seen + where, worst <= STALE)


def _lost(all_figures: Sequence[Figures], at_the_end: int) -> Promise:
    lost = at_the_end + sum(figures.lost for figures in all_figures)
    edits = sum(figures.edits for figures in all_figures)
    return Promise("lost", "No acknowledged change is lost", "0", f"{lost} of {edits:,} changes", not lost)


def _replaced(all_figures: Sequence[Figures], within: float, where: str = "") -> Promise:
    times = [figures.promotion for figures in all_figures if figures.promotes]
    came = [time for time in times if time is not None]
    kept = len(came) == len(times) and max(came) <= within
    seen = f"after {seconds(max(came))}{where}" if len(came) == len(times) else "it did not come in time"
    return Promise("promotion", "The servers have another master soon", seconds(within), seen, kept)


def _warm(all_figures: Sequence[Figures]) -> Promise:
    warm = next(figures.warmth for figures in all_figures if figures.warmth is not None)
    seen = f"{100 * warm.share:.1f} % ({warm.after} of {warm.before} pages)"
    text = "After a restart of everything, what was cached is cached still"
    return Promise("warm", text, f"{100 * WARM:.0f} %", seen, warm.share >= WARM)


def _whole(whole: bool) -> Promise:
    text = "Afterwards everything runs and is in sync"
    return Promise("whole", text, "whole", "whole" if whole else "not whole", whole)


def _enough(figures: Figures, lasted: float) -> bool:
    return lasted > 0 and figures.reads + figures.errors >= FEWEST * lasted
