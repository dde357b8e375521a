"""The promises, held against what the processes wrote down: pure functions."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evercache.ops.meter import Call, Edit, Meter, Noise, OwnTime, Run, beyond
from tests.faults.records import Written

__all__ = ["Bounds", "Figures", "Phases", "judge"]

#: What a call may take beyond the function's own time: the budget, and what Python takes to raise and note it (s).
BEYOND = 0.25
MEASURING = 0.02
#: A read that is staler than this (s) shows an invalidation that was lost, though a later one hid it at the end.
LOST_AFTER = 2.5
#: A lease that nobody can give back runs out after so long (s).
LEASE = 1.0
#: What a side that was cut off has for bringing its invalidations to the others (s).
REJOINED = 2.0
#: Before its death a master's acknowledgement may not have reached another process yet (s).
LAST_MOMENTS = 0.1
#: And after the promotion it is replayed within (s).
REPLAYED = 1.0
#: Where it only falls silent, the silence is noticed and its replicas are listened to within (s).
NOTICED = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is promised during one fault. Seconds."""

    beyond: float = BEYOND
    stale: float = 0.1
    #: Of the groups that a fault cuts off from what the others know; None: not bounded, only shown.
    stale_cut_off: float | None = 0.1
    cut_off: tuple[str, ...] = ()
    #: The master dies: what it acknowledged in its last moments nobody else may have heard, so it reaches others
    #: when it has been replayed at the next master.
    dying: bool = False
    #: It falls silent for all clients: what it acknowledged in its last moments is heard at its replicas.
    silent: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Phases:
    """When the fault began and was mended, and when the load ended."""

    fault: float
    mended: float
    ended: float
    promoted: tuple[float, ...] = ()
    #: When masters were killed or frozen; without any the beginning of the fault is meant.
    deaths: tuple[float, ...] = ()
    #: When masters fell silent.
    silences: tuple[float, ...] = ()


@dataclass(slots=True)
class Figures:
    """What one fault under one kind of load was like. Times in seconds."""

    fault: str
    load: str
    reads: int = 0
    #: Reads that began within the fault, and the share of them that ran no function nor waited for one.
    reads_in_fault: int = 0
    hits_in_fault: float = 0.0
    runs_in_fault: int = 0
    #: The longest time within the fault in which no read ended.
    pause: float = 0.0
    edits: int = 0
    queued: int = 0
    exceptions: int = 0
    hung: int = 0
    #: The slowest call beyond the function's own time and the noise; and with the noise in it.
    beyond: float = 0.0
    beyond_raw: float = 0.0
    beyond_where: str = ""
    over_budget: int = 0
    #: The longest that a thread which only sleeps was late.
    noise: float = 0.0
    loop_late: float = 0.0
    #: The stalest read; and of the group that was cut off.
    stale: float = 0.0
    stale_raw: float = 0.0
    stale_where: str = ""
    stale_reads: int = 0
    stale_cut_off: float = 0.0
    #: The stalest read for want of what a dying or silent master acknowledged in its last moments.
    stale_last: float = 0.0
    lost: int = 0
    undelivered: int = 0
    #: From each promotion to the next acknowledged invalidation; the longest.
    promoted: float | None = None
    breaches: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        return not self.breaches

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _due(edit: Edit, bounds: Bounds, phases: Phases) -> float | None:
    """By when what a master acknowledged in its last moments is known to all; None for what it did not."""
    for silent in phases.silences:
        if abs(edit.acknowledged - silent) < LAST_MOMENTS:
            return silent + NOTICED
    for died in (phases.deaths or (phases.fault,)) if bounds.dying else ():
        if abs(edit.acknowledged - died) < LAST_MOMENTS:
            return min((at for at in phases.promoted if at > died), default=phases.mended) + REPLAYED
    return None


def judge(
    fault: str,
    load: str,
    bounds: Bounds,
    phases: Phases,
    written: Sequence[Written],
    journal_edits: Sequence[Edit] = (),
    journal_runs: Sequence[Run] = (),
    journal_errors: Sequence[str] = (),
) -> Figures:
    """The figures of one fault under one load, and which promises were broken."""
    figures = Figures(fault, load)
    edits = [edit for one in written for edit in one.edits] + list(journal_edits)
    noise = Noise(nap for one in written for nap in one.overslept)
    own = OwnTime([run for one in written for run in one.runs] + list(journal_runs))
    # What was acknowledged on the far side of a partition reaches the others when it is over.
    apart = [edit for one in written if one.group in bounds.cut_off for edit in one.edits]
    others = [edit for one in written if one.group not in bounds.cut_off for edit in one.edits] + list(
        journal_edits
    )
    last = {edit: at for edit in others if (at := _due(edit, bounds, phases)) is not None}
    meter = Meter(
        [edit for edit in others if edit not in last]
        + [edit._replace(acknowledged=max(edit.acknowledged, phases.mended + REJOINED)) for edit in apart]
        + [edit._replace(acknowledged=at) for edit, at in last.items()]
    )
    last_meter = Meter(last)
    calls = [(one.group, call) for one in written for call in one.calls]
    reads = [call for _, call in calls if call.version >= 0]
    during = [call for call in reads if phases.fault <= call.began < phases.mended]
    figures.reads, figures.reads_in_fault = len(reads), len(during)
    figures.hits_in_fault = sum(not own.waited(call) for call in during) / len(during) if during else 0.0
    figures.runs_in_fault = sum(phases.fault <= run.began < phases.mended for one in written for run in one.runs)
    figures.pause = _pause(during, phases)
    figures.edits, figures.queued = len(edits), sum(not edit.at_once for edit in edits)
    figures.noise = max((nap.woke - nap.due for one in written for nap in one.overslept), default=0.0)
    figures.loop_late = max((one.loop_late for one in written), default=0.0)
    figures.errors = [error for one in written for error in one.errors] + list(journal_errors)
    figures.exceptions = len(figures.errors)
    figures.hung = sum(len(one.hung) for one in written)
    figures.undelivered = sum(one.undelivered for one in written)
    for group, call in calls:
        _time_of(group, call, own, noise, bounds, phases, figures)
    lost: set[tuple[int, float]] = set()
    for group, call in calls:
        _age_of(group, call, meter, noise, bounds, phases, figures, lost)
        if last and (since := last_meter.since(call)) is not None:
            figures.stale_last = max(figures.stale_last, call.began - since)
    figures.lost = _lost(written, edits) + len(lost)
    figures.promoted = _promoted(phases, edits)
    _breaches(figures, bounds, written)
    return figures


def _time_of(
    group: str, call: Call, own: OwnTime, noise: Noise, bounds: Bounds, phases: Phases, figures: Figures
) -> None:
    raw = call.ended - call.began
    if raw <= min(figures.beyond, 0.1):
        return
    found = beyond(call, own, noise)
    net = found.net
    figures.beyond_raw = max(figures.beyond_raw, found.seen)
    figures.over_budget += net > bounds.beyond + MEASURING
    if net > figures.beyond:
        figures.beyond = net
        kind = "an invalidation" if call.version < 0 else "a run" if call.ran else "a read"
        figures.beyond_where = (
            f"{kind} of key {call.key} in {group}, {call.began - phases.fault:+.2f} s"
            + f", {call.ended - call.began:.3f} s in all"
        )


def _age_of(
    group: str,
    call: Call,
    meter: Meter,
    noise: Noise,
    bounds: Bounds,
    phases: Phases,
    figures: Figures,
    lost: set[tuple[int, float]],
) -> None:
    since = meter.since(call)
    if since is None:
        return
    raw = call.began - since
    net = max(0.0, raw - noise.within(since, call.began))
    if group in bounds.cut_off:
        figures.stale_cut_off = max(figures.stale_cut_off, net)
        return
    figures.stale_raw = max(figures.stale_raw, raw)
    figures.stale_reads += net > bounds.stale
    if net > LOST_AFTER:
        lost.add((call.key, since))
    if net > figures.stale:
        figures.stale = net
        figures.stale_where = (
            f"key {call.key} in {group}, {call.began - phases.fault:+.2f} s, "
            f"acknowledged {since - phases.fault:+.3f} s, the value made by {call.made // 10_000_000}"
        )


def _pause(during: Sequence[Call], phases: Phases) -> float:
    ends = sorted([phases.fault, *(call.ended for call in during if call.ended < phases.mended), phases.mended])
    return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)


def _lost(written: Sequence[Written], edits: Sequence[Edit]) -> int:
    """Keys for which somebody, at the very end, did not know of an acknowledged invalidation."""
    known: defaultdict[int, int] = defaultdict(int)
    for edit in edits:
        if edit.acknowledged < math.inf:
            known[edit.key] = max(known[edit.key], edit.version)
    finals = (call for one in written for call in one.finals)
    return len({call.key for call in finals if call.version < known[call.key]})


def _promoted(phases: Phases, edits: Sequence[Edit]) -> float | None:
    times = sorted(edit.acknowledged for edit in edits if edit.acknowledged < math.inf)
    longest = None
    for promoted in phases.promoted:
        index = bisect_right(times, promoted)
        if index < len(times):
            longest = max(longest or 0.0, times[index] - promoted)
    return longest


def _breaches(figures: Figures, bounds: Bounds, written: Sequence[Written]) -> None:
    say = figures.breaches.append
    if figures.exceptions:
        kinds = Counter(error[:140] for error in figures.errors)
        say(f"{figures.exceptions} exceptions: {kinds.most_common(2)}")
    if figures.hung:
        say(f"{figures.hung} callers hung: {[text for one in written for text in one.hung][:3]}")
    if figures.beyond > bounds.beyond + MEASURING:
        slow = f"{figures.over_budget} calls over {bounds.beyond:.2f} s"
        say(f"{slow}: {figures.beyond:.3f} s, {figures.beyond_where}")
    if figures.stale > bounds.stale:
        say(f"{figures.stale_reads} stale reads: {figures.stale:.3f} s, {figures.stale_where}")
    if bounds.stale_cut_off is not None and figures.stale_cut_off > bounds.stale_cut_off:
        say(f"stale where it was cut off: {figures.stale_cut_off:.3f} s")
    if figures.lost:
        say(f"{figures.lost} acknowledged invalidations lost")
    if figures.undelivered:
        say(f"{figures.undelivered} invalidations still queued at the end")
    if not figures.reads_in_fault:
        say("no read went on")
