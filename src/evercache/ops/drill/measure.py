"""The figures of each step, from what the client processes wrote down: pure functions.

- *Beyond its function's own time*: the length of a call without the time in which the function of its page ran,
  where the call ran it or waited for it.
- *Stalled*: in every client process a thread only sleeps. Where it wakes late although its process used no
  processor, the machine stood still for that process and its calls. Each time that has a bound is there as it was
  seen (`slowest_seen`), with the part in which the machine stood still (`slowest_stalled`), and, over all calls,
  without that part (`slowest`).
- *Stale*: the time from the acknowledgement of the earliest invalidation that a read lacks to the beginning of the
  read. What a dying master acknowledged in its last moments may have been heard by nobody else: it counts as known
  once it can have been replayed at the next master, and is shown apart (`stale_last`).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from evercache.ops.drill.records import Failure, Written
from evercache.ops.meter import Beyond, Call, Edit, Meter, Noise, OwnTime, beyond, percentile

__all__ = ["BUCKET", "BUDGET", "STALE", "Bucket", "Figures", "Phases", "Warmth", "lost_at_the_end", "measure"]

#: What a call may take beyond its function's own time: the budget, and what Python takes to note it (s).
BUDGET, MEASURING = 0.25, 0.02
#: No read may be older than this (s) after an acknowledgement.
STALE = 0.1
#: A read that is staler than this (s) shows an invalidation that was lost.
LOST_AFTER = 2.5
#: Before its death a master's acknowledgement may not have reached another process yet, and it is replayed so long
#: after the next promotion (s).
LAST_MOMENTS, REPLAYED = 0.1, 1.0
#: Width of a bar of the charts (s).
BUCKET = 0.25


@dataclass(frozen=True, slots=True)
class Phases:
    """When a step began, when its fault was done and undone, when all was whole, and when its watching ended."""

    began: float
    fault: float
    #: The servers had been told by then; for most faults at once.
    done: float
    undone: float
    whole: float
    ended: float
    #: Another master was to come; and when it did.
    promotes: bool = False
    promoted: float | None = None
    #: The master may have ended right after an acknowledgement.
    dying: bool = False


@dataclass(frozen=True, slots=True)
class Warmth:
    """Of the pages that were cached before the fault and not edited since: how many are still there afterwards."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """0 to 1; 0 when nothing was cached before."""
        return self.after / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What ended in one quarter of a second, `at` seconds after the fault; `slowest` in seconds beyond own time."""

    at: float
    hits: int = 0
    computed: int = 0
    errors: int = 0
    slowest: float = 0.0
    acknowledged: int = 0
    queued: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client saw during one step. Times in seconds; counts of calls."""

    reads: int
    #: Between the fault and its end.
    reads_in_fault: int
    errors: int
    error_kinds: dict[str, int]
    p50: float
    p99: float
    slowest: float
    slowest_seen: float
    slowest_stalled: float
    slowest_where: str
    over_budget: int
    #: Share of the reads that were answered without running the function, before the fault and during it.
    hits_before: float
    hits_in_fault: float
    stalest: float
    stalest_seen: float
    stalest_stalled: float
    stale_reads: int
    stale_last: float
    lost: int
    #: The longest time in which no read ended in any process.
    pause: float
    edits: int
    queued: int
    #: The longest time in which no invalidation was acknowledged.
    still: float
    #: Another master was to come: the time from the fault until a node said that it is, and until an invalidation
    #: of a client was acknowledged there; None: it did not come.
    promotes: bool
    promotion: float | None
    promotion_stalled: float
    writes_back: float | None
    #: From the end of the fault until every node was in use again.
    whole_after: float
    #: The longest stall of the machine, and all of them; and the shares of the step in which some task waited for a
    #: processor, and in which the host ran other machines (None: the kernel does not count it).
    noise: float
    stalled: float
    cpu_waited: float | None = None
    cpu_stolen: float | None = None
    series: tuple[Bucket, ...] = ()
    warmth: Warmth | None = None


def measure(written: Written, steps: Sequence[Phases]) -> list[Figures]:
    """The figures of each step."""
    last = _last_moments(written.edits, steps)
    known = Meter(edit._replace(acknowledged=last.get(edit, edit.acknowledged)) for edit in written.edits)
    judge = _Judge(written, OwnTime(written.runs), known, Meter(last))
    return [judge.figures(phases) for phases in steps]


def lost_at_the_end(written: Written) -> int:
    """Pages of which somebody, when all was over, did not know of an acknowledged invalidation."""
    known: defaultdict[int, int] = defaultdict(int)
    for edit in written.edits:
        if edit.acknowledged < math.inf:
            known[edit.key] = max(known[edit.key], edit.version)
    return len({final.key for final in written.finals if final.version < known[final.key]})


def _last_moments(edits: Iterable[Edit], steps: Sequence[Phases]) -> dict[Edit, float]:
    """What dying masters acknowledged at last, and by when it is known to all."""
    found = {}
    for phases in steps:
        if not phases.dying:
            continue
        acks = [e for e in edits if e.at_once and phases.fault - LAST_MOMENTS < e.acknowledged <= phases.done]
        died = max((edit.acknowledged for edit in acks), default=phases.fault)
        replayed = (phases.whole if phases.promoted is None else phases.promoted) + REPLAYED
        found.update({edit: replayed for edit in acks if edit.acknowledged > died - LAST_MOMENTS})
    return found


@dataclass(frozen=True, slots=True)
class _Ages:
    """Of the reads of a step that lacked something acknowledged. Seconds."""

    stalest: float = 0.0
    seen: float = 0.0
    stalled: float = 0.0
    reads: int = 0
    last: float = 0.0
    lost: int = 0


class _Judge:
    """The meters over the whole drill, asked for one step after the other."""

    def __init__(self, written: Written, own: OwnTime, known: Meter, unheard: Meter) -> None:
        self._written = written
        self._own, self._known, self._unheard = own, known, unheard
        # The stalls anywhere; and those that a call of a process may have had. Others excuse it not: while one
        # process works, another may have to wait for the processor.
        self._noise = Noise(written.overslept)
        pids = {call.pid for call in written.calls}
        self._noises = {pid: Noise(one for one in written.overslept if one.pid in {0, pid}) for pid in pids}
        self._calls = sorted(written.calls, key=lambda call: call.ended)
        self._ends = [call.ended for call in self._calls]

    def figures(self, phases: Phases) -> Figures:
        calls = self._calls[bisect_left(self._ends, phases.began) : bisect_left(self._ends, phases.ended)]
        reads = [call for call in calls if call.version >= 0]
        during = [call for call in reads if phases.fault <= call.began < phases.undone]
        before = [call for call in reads if call.began < phases.fault]
        failures = [one for one in self._written.failures if phases.began <= one.at < phases.ended]
        edits = [edit for edit in self._written.edits if phases.began <= edit.acknowledged < phases.ended]
        spent = [beyond(call, self._own, self._noises[call.pid]) for call in calls]
        seen = [one.seen for one in spent]
        slowest = max(range(len(calls)), key=lambda number: spent[number].net, default=None)
        longest = max(spent, key=lambda one: one.seen, default=Beyond(0.0, 0.0))
        ages = self._ages(reads)
        acks = sorted(edit.acknowledged for edit in edits)
        lengths = [call.ended - call.began for call in reads]
        made = len(calls) - len(reads)
        return Figures(
            reads=len(reads),
            reads_in_fault=len(during),
            errors=len(failures),
            error_kinds=dict(Counter(one.what for one in failures).most_common(5)),
            p50=percentile(lengths, 0.5),
            p99=percentile(lengths, 0.99),
            slowest=0.0 if slowest is None else spent[slowest].net,
            slowest_seen=longest.seen,
            slowest_stalled=longest.stalled,
            slowest_where="" if slowest is None else _where(calls[slowest], phases),
            over_budget=sum(one.net > BUDGET + MEASURING for one in spent),
            hits_before=self._hits(before),
            hits_in_fault=self._hits(during),
            stalest=ages.stalest,
            stalest_seen=ages.seen,
            stalest_stalled=ages.stalled,
            stale_reads=ages.reads,
            stale_last=ages.last,
            lost=ages.lost,
            pause=_gap([phases.began, *(call.ended for call in reads), phases.ended]),
            edits=made,
            queued=made - sum(edit.at_once for edit in edits),
            still=_gap([phases.began, *acks, phases.ended]),
            promotes=phases.promotes,
            promotion=None if phases.promoted is None else phases.promoted - phases.fault,
            promotion_stalled=self._noise.within(phases.fault, phases.promoted or phases.fault),
            writes_back=_back(acks, phases),
            whole_after=phases.whole - phases.undone,
            noise=max((n.woke - n.due for n in self._written.overslept if _within(n.woke, phases)), default=0.0),
            stalled=self._noise.within(phases.began, phases.ended),
            cpu_waited=self._share(phases, "waited"),
            cpu_stolen=self._share(phases, "stolen"),
            series=self._series(phases, calls, seen, failures, edits),
        )

    def _share(self, phases: Phases, name: str) -> float | None:
        """Of the step, by the kernel's counters; None without at least two readings."""
        waits = sorted(wait for wait in self._written.cpu_waits if _within(wait.at, phases))
        if not waits or (lasted := waits[-1].at - waits[0].at) <= 0:
            return None
        spent: float = getattr(waits[-1], name) - getattr(waits[0], name)
        return min(1.0, spent / lasted)

    def _hits(self, reads: Sequence[Call]) -> float:
        return sum(not self._own.waited(call) for call in reads) / len(reads) if reads else 0.0

    def _ages(self, reads: Iterable[Call]) -> _Ages:
        stalest, seen, stalled, stale, last, lost = 0.0, 0.0, 0.0, 0, 0.0, set()
        for call in reads:
            if (since := self._unheard.since(call)) is not None:
                last = max(last, call.began - since)
            if (since := self._known.since(call)) is not None:
                raw, noise = call.began - since, self._noises[call.pid].within(since, call.began)
                age = max(0.0, raw - noise)
                stalest = max(stalest, age)
                seen, stalled = max((seen, stalled), (raw, noise))
                stale += age > STALE
                if age > LOST_AFTER:
                    lost.add((call.key, since))
        return _Ages(stalest, seen, stalled, stale, last, len(lost))

    def _series(
        self,
        phases: Phases,
        calls: Sequence[Call],
        spent: Sequence[float],
        failures: Iterable[Failure],
        edits: Iterable[Edit],
    ) -> tuple[Bucket, ...]:
        def slot(moment: float) -> int:
            return math.floor((moment - phases.fault) / BUCKET)

        first, end = slot(phases.began), slot(phases.ended)
        # Bars that are cut off at the ends would look like a fall.
        found = {number: Bucket(number * BUCKET) for number in range(first + 1, max(end, first + 2))}

        def add(moment: float, **counts: float) -> None:
            if bucket := found.get(slot(moment)):
                more = {name: getattr(bucket, name) + count for name, count in counts.items()}
                found[slot(moment)] = replace(bucket, **more)

        for call, raw in zip(calls, spent, strict=True):
            if call.version < 0:
                add(call.ended, queued=1)
            else:
                waited = self._own.waited(call)
                add(call.ended, hits=not waited, computed=waited)
            if (bucket := found.get(slot(call.ended))) and raw > bucket.slowest:
                found[slot(call.ended)] = replace(bucket, slowest=raw)
        for edit in edits:
            if edit.at_once:
                add(edit.acknowledged, acknowledged=1, queued=-1)
        for failure in failures:
            add(failure.at, errors=1)
        return tuple(found[number] for number in sorted(found))


def _within(moment: float, phases: Phases) -> bool:
    return phases.began <= moment < phases.ended


def _gap(moments: Iterable[float]) -> float:
    return max((after - before for before, after in itertools.pairwise(sorted(moments))), default=0.0)


def _back(acks: Sequence[float], phases: Phases) -> float | None:
    if phases.promoted is None:
        return None
    return next((ack - phases.fault for ack in acks if ack > phases.promoted), None)


def _where(call: Call, phases: Phases) -> str:
    kind = "an invalidation" if call.version < 0 else "a read that ran the function" if call.ran else "a read"
    return f"{kind}, {call.began - phases.fault:+.1f} s"
