"""What was promised, and whether it was kept: pure functions of the figures.

A time is held against its bound twice. Within the bound as it was seen: kept. Beyond it even without the time in
which the machine stood still: broken. Between the two nobody can say what the cache would have done: not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evercache.ops.drill.measure import BUDGET, MEASURING, STALE, Figures
from evercache.ops.meter import within

__all__ = ["Promise", "in_words", "promises_of_all", "promises_of_step", "seconds", "together"]

#: Of what was cached before all servers were restarted, so much must still be cached afterwards.
WARM = 0.95
#: A step in which fewer reads than this were made in each second has shown nothing.
FEWEST = 20.0


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: its bound, what was seen, and whether it was kept (None: the machine was too busy to judge)."""

    name: str
    text: str
    bound: str
    seen: str
    kept: bool | None


def together(promises: Sequence[Promise]) -> bool | None:
    """Whether all were kept: False if one was broken, else None if one could not be judged."""
    if any(promise.kept is False for promise in promises):
        return False
    return None if any(promise.kept is None for promise in promises) else True


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


class _Time(NamedTuple):
    """One time of a step: without stalls, as it was seen, and the stalls in what was seen."""

    net: float
    seen: float
    stalled: float


def _bounded(
    name: str, text: str, bound: float, times: Sequence[_Time], steps: Sequence[str], what: str, slack: float = 0.0
) -> Promise:
    """A promise that no time is above its bound. `what` is the words for the longest one."""

    def worst(of: Callable[[_Time], float]) -> tuple[_Time, str]:
        at = max(range(len(times)), key=lambda number: of(times[number]))
        return times[at], f" ({steps[at]})" if len(steps) > 1 and of(times[at]) else ""

    net, net_where = worst(lambda time: time.net)
    longest, where = worst(lambda time: time.seen)
    kept = within(bound + slack, longest.seen, net.net)
    if kept:
        seen = seconds(longest.seen) + where
    elif kept is None:
        seen = f"the machine stood still for {seconds(longest.stalled)} of {what} {seconds(longest.seen)}{where}"
    else:
        more = ", not counting the time in which the machine stood still" if net.net < net.seen else ""
        seen = seconds(net.net) + net_where + more
    return Promise(name, text, seconds(bound), seen, kept)


def promises_of_step(figures: Figures, replaced_within: float, whole: bool, lasted: float) -> list[Promise]:
    """What one step had to keep. `replaced_within`: the time (s) that the sentinels have for another master."""
    steps = [("", figures)]
    found = [_errors([figures]), _slowest(steps), _stale(steps), _lost([figures], 0)]
    if figures.promotes:
        found.append(_replaced(steps, replaced_within))
    if figures.warmth is not None:
        found.append(_warm([figures]))
    found.append(_whole(whole))
    if not _enough(figures, lasted):
        seen = f"the machine stood still for {seconds(figures.stalled)} of {seconds(lasted)}"
        busy = _enough(figures, lasted - figures.stalled)
        load = "there was load all the time", f"{FEWEST:.0f} reads/s", seen if busy else "too few reads"
        found.append(Promise("load", *load, None if busy else False))
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
    found = [_errors(all_figures), _slowest(steps), _stale(steps), _lost(all_figures, lost)]
    if any(figures.promotes for figures in all_figures):
        found.append(_replaced(steps, replaced_within))
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


def _errors(all_figures: Sequence[Figures]) -> Promise:
    errors = sum(figures.errors for figures in all_figures)
    kinds = [kind for figures in all_figures for kind in figures.error_kinds]
    reads = sum(figures.reads for figures in all_figures)
    seen = f"{errors} in {reads:,} reads" + (f": {kinds[0]}" if kinds else "")
    return Promise("errors", "No error reaches a visitor", "0", seen, not errors)


def _slowest(steps: Sequence[tuple[str, Figures]]) -> Promise:
    text = "No page waits longer for the cache than its budget, beyond the time of its own function"
    times = [_Time(f.slowest, f.slowest_seen, f.slowest_stalled) for _, f in steps]
    return _bounded("slowest", text, BUDGET, times, [name for name, _ in steps], "the slowest call's", MEASURING)


def _stale(steps: Sequence[tuple[str, Figures]]) -> Promise:
    text = "No visitor sees old data after a change was acknowledged"
    times = [_Time(f.stalest, f.stalest_seen, f.stalest_stalled) for _, f in steps]
    found = _bounded("stale", text, STALE, times, [name for name, _ in steps], "the oldest data's")
    reads = sum(f.stale_reads for _, f in steps)
    return found if found.kept is not False else replace(found, seen=f"{reads} reads, the worst {found.seen}")


def _lost(all_figures: Sequence[Figures], at_the_end: int) -> Promise:
    lost = at_the_end + sum(figures.lost for figures in all_figures)
    edits = sum(figures.edits for figures in all_figures)
    return Promise("lost", "No acknowledged change is lost", "0", f"{lost} of {edits:,} changes", not lost)


def _replaced(steps: Sequence[tuple[str, Figures]], bound: float) -> Promise:
    text = "The servers have another master soon"
    came = [(name, f, f.promotion) for name, f in steps if f.promotion is not None and f.promotes]
    if len(came) < sum(figures.promotes for _, figures in steps):
        return Promise("promotion", text, seconds(bound), "it did not come in time", False)
    times = [_Time(time - f.promotion_stalled, time, f.promotion_stalled) for _, f, time in came]
    names = [name for name, _, _ in came]
    return _bounded("promotion", text, bound, times, names if len(steps) > 1 else [""], "the promotion's")


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
