"""The verdict on one run of the site: pure functions over what clients and processes wrote down.

- *Beyond the function's own time*: the length of a cached call, without the time in which the function of
  that page was running in any process. That time is only taken off when the call ran the function, or
  returned what was still being computed when the call began (it waited). A hit that is slow for any other
  reason counts whole. The machine's own stalls are taken off as well; where only they broke a bound, the promise
  is not judged.
- *Stale*: a call returned a value without an edit whose invalidation had been acknowledged before the call
  began; it is stale by the time from the (earliest such) acknowledgement to the start of the call.
- *Unacknowledged*: the invalidation was queued because no master could be reached. How long pages still
  showed the state before such an edit is counted and shown apart.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evercache.ops.demo.journal import Call, Computation, Failure, Invalidation, Record, Stall
from evercache.ops.demo.load import Sample
from evercache.ops.demo.pages import Page
from evercache.ops.meter import Beyond, Noise, Overslept, percentile

__all__ = ["STALE_LIMIT", "Verdict", "Warmth", "judge", "warmth"]

#: A read that is older than this (seconds) after the acknowledgement is counted as stale.
STALE_LIMIT = 0.1


@dataclass(frozen=True, slots=True)
class Warmth:
    """Of the pages cached before the restart of all nodes: how many are still there, the very same copy."""

    before: int
    after: int
    #: Left out, because an edit invalidated them in between.
    edited: int

    @property
    def share(self) -> float:
        """0 to 1; 0 when nothing was cached before."""
        return self.after / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run was like. Times in seconds."""

    requests: int
    errors: int
    error_kinds: Mapping[str, int]
    seconds: float
    latency_p50: float
    latency_p99: float
    latency_max: float
    calls: int
    #: The slowest cached call beyond its function's own time, without the machine's stalls, and its page; and, of
    #: the call that was slowest with them in it, its time and the stalls.
    beyond: float
    beyond_p99: float
    beyond_page: str
    beyond_seen: float
    beyond_stalled: float
    hit_ratio: float
    queries: int
    queries_saved: int
    edits: int
    unacknowledged: int
    stale_reads: int
    worst_staleness: float
    worst_staleness_seen: float
    worst_staleness_stalled: float
    reads_before_unacknowledged: int
    worst_before_unacknowledged: float
    warmth: Warmth | None = field(default=None)


def judge(samples: Sequence[Sample], records: Iterable[Record], warm: Warmth | None = None) -> Verdict:
    """The verdict on what the clients saw and the processes wrote down."""
    records = list(records)
    calls = [record for record in records if isinstance(record, Call)]
    computations = [record for record in records if isinstance(record, Computation)]
    invalidations = [record for record in records if isinstance(record, Invalidation)]
    noise = Noise(Overslept(record.due, record.woke) for record in records if isinstance(record, Stall))
    spent = _beyond(calls, computations, noise)
    beyond = [one.net for one in spent]
    slowest = max(range(len(calls)), key=beyond.__getitem__, default=None)
    longest = max(spent, default=Beyond(0.0, 0.0))
    ages, unknown = _staleness(calls, invalidations)
    aged = [Beyond(age, noise.within(start - age, start)) for age, start in ages]
    stale = [one.net for one in aged]
    oldest = max(aged, default=Beyond(0.0, 0.0))
    ends = {computation.made: computation.end for computation in computations}
    # Who waited for somebody else's computation saved a query, but had no hit.
    saved = [call for call in calls if not call.ran]
    hits = [call for call in saved if ends.get(call.made, call.start) <= call.start]
    cost = {Page.of_name(computation.page).kind: computation.queries for computation in computations}
    reads = [sample.seconds for sample in samples if not sample.edit and not sample.failed]
    edits = {record.seq: True for record in invalidations}
    for record in invalidations:
        edits[record.seq] = edits[record.seq] and record.acknowledged
    kinds = Counter(record.error for record in records if isinstance(record, Failure))
    unanswered = sum(sample.status is None for sample in samples)
    return Verdict(
        requests=len(samples),
        errors=sum(sample.failed for sample in samples),
        error_kinds=dict(kinds) | ({"no answer": unanswered} if unanswered else {}),
        seconds=max((s.start + s.seconds for s in samples), default=0.0)
        - min((s.start for s in samples), default=0.0),
        latency_p50=percentile(reads, 0.5),
        latency_p99=percentile(reads, 0.99),
        latency_max=max(reads, default=0.0),
        calls=len(calls),
        beyond=0.0 if slowest is None else beyond[slowest],
        beyond_p99=percentile(beyond, 0.99),
        beyond_page="" if slowest is None else calls[slowest].page,
        beyond_seen=longest.seen,
        beyond_stalled=longest.stalled,
        hit_ratio=len(hits) / len(calls) if calls else 0.0,
        queries=sum(computation.queries for computation in computations),
        queries_saved=sum(cost.get(Page.of_name(call.page).kind, 0) for call in saved),
        edits=len(edits),
        unacknowledged=sum(not acknowledged for acknowledged in edits.values()),
        stale_reads=sum(age > STALE_LIMIT for age in stale),
        worst_staleness=max(stale, default=0.0),
        worst_staleness_seen=oldest.seen,
        worst_staleness_stalled=oldest.stalled,
        reads_before_unacknowledged=sum(age > STALE_LIMIT for age in unknown),
        worst_before_unacknowledged=max(unknown, default=0.0),
        warmth=warm,
    )


def _beyond(calls: Sequence[Call], computations: Iterable[Computation], noise: Noise) -> list[Beyond]:
    """The length of each call without the time in which its function ran (where it waited for it); its stalls."""
    made: dict[str, Computation] = {}
    by_page: defaultdict[str, list[Computation]] = defaultdict(list)
    for computation in computations:
        made[computation.made] = computation
        by_page[computation.page].append(computation)
    result = []
    for call in calls:
        source = made.get(call.made)
        waited = call.ran or (source is not None and source.end >= call.start)
        spans = _covered(call.start, call.end, by_page[call.page]) if waited else []
        length = call.end - call.start - sum(end - begin for begin, end in spans)
        # A stall while the function ran is in the function's own time already.
        stalled = noise.within(call.start, call.end) - sum(noise.within(begin, end) for begin, end in spans)
        result.append(Beyond(length, min(max(0.0, stalled), length)))
    return result


def _covered(start: float, end: float, computations: Iterable[Computation]) -> list[tuple[float, float]]:
    """The parts of the interval in which at least one of the computations was under way."""
    found, reached = [], start
    clipped = sorted(
        (max(c.start, start), min(c.end, end)) for c in computations if c.end > start and c.start < end
    )
    for begin, finish in clipped:
        if finish > max(begin, reached):
            found.append((max(begin, reached), finish))
        reached = max(reached, finish)
    return found


def _staleness(
    calls: Iterable[Call], invalidations: Iterable[Invalidation]
) -> tuple[list[tuple[float, float]], list[float]]:
    """For each call that lacks an edit: its age since the acknowledgement, and when it began; apart, its age since
    the queueing.
    """
    by_tag: defaultdict[str, list[Invalidation]] = defaultdict(list)
    for invalidation in invalidations:
        by_tag[invalidation.tag].append(invalidation)
    for line in by_tag.values():
        line.sort(key=lambda invalidation: invalidation.seq)
    acknowledged, unacknowledged = list[tuple[float, float]](), list[float]()
    for call in calls:
        line = by_tag.get(call.tag, [])
        missing = line[bisect_right(line, call.as_of, key=lambda invalidation: invalidation.seq) :]
        known = [i.time for i in missing if i.acknowledged and i.time < call.start]
        queued = [i.time for i in missing if not i.acknowledged and i.time < call.start]
        if known:
            acknowledged.append((call.start - min(known), call.start))
        if queued:
            unacknowledged.append(call.start - min(queued))
    return acknowledged, unacknowledged


def warmth(before: Mapping[str, str], after: Mapping[str, str], since: float, records: Iterable[Record]) -> Warmth:
    """Compare the copies (page → `made`) found before and after a restart.

    Only the very same copy counts as warm: what readers computed anew in between is not. A page that an edit
    invalidated after `since` (when the first look began) is left out.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        if isinstance(record, Invalidation):
            times[record.tag].append(record.time)
    for line in times.values():
        line.sort()

    def edited(page: str) -> bool:
        line = times.get(Page.of_name(page).tag, [])
        return bisect_left(line, since) < len(line)

    counted = [page for page in before if not edited(page)]
    same = sum(after.get(page) == before[page] for page in counted)
    return Warmth(len(counted), same, len(before) - len(counted))
