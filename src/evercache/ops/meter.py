"""What processes under load write down of each call, and the meters that read it. Times: monotonic seconds."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "Beyond",
    "Call",
    "Edit",
    "Meter",
    "Noise",
    "Overslept",
    "OwnTime",
    "Run",
    "beyond",
    "percentile",
    "within",
]


class Call(NamedTuple):
    """A read, or the call of an invalidation (`made` -1, `version` -1)."""

    key: int
    began: float
    ended: float
    version: int
    #: The run that made the value: its process id times 10,000,000, and its number there.
    made: int
    #: This caller ran the function itself.
    ran: bool
    pid: int


class Run(NamedTuple):
    """One run of the function."""

    key: int
    made: int
    began: float
    ended: float


class Edit(NamedTuple):
    """One invalidation: when it was acknowledged; inf if it never was."""

    key: int
    version: int
    acknowledged: float
    #: The call itself gave the acknowledgement; else it was queued first.
    at_once: bool


class Overslept(NamedTuple):
    """A control thread that only sleeps woke late: from when it was due until it ran."""

    due: float
    woke: float
    #: In which process; 0: it does not matter.
    pid: int = 0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of the values lies (nearest rank); 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Noise:
    """The moments in which somebody who only sleeps woke late, anywhere on the machine: their union."""

    def __init__(self, overslept: Iterable[Overslept]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for due, woke, _ in sorted(overslept):
            if self._ends and due <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], woke)
            else:
                self._begins.append(due)
                self._ends.append(woke)

    def __repr__(self) -> str:
        return f"<Noise of {len(self._begins)} moments>"

    def within(self, start: float, end: float) -> float:
        """How much of the interval."""
        index = bisect_right(self._ends, start)
        total = 0.0
        while index < len(self._begins) and self._begins[index] < end:
            total += max(0.0, min(self._ends[index], end) - max(self._begins[index], start))
            index += 1
        return total


class Beyond(NamedTuple):
    """What a call took beyond its function's own time (s), and how much of that the machine stood still."""

    seen: float
    stalled: float

    @property
    def net(self) -> float:
        """What is left for the cache to answer for."""
        return max(0.0, self.seen - self.stalled)


class OwnTime:
    """The time in which the function of a key ran, where a call ran it or waited for it."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._made: dict[int, Run] = {}
        self._of: defaultdict[int, list[Run]] = defaultdict(list)
        for run in runs:
            self._made[run.made] = run
            self._of[run.key].append(run)
        for line in self._of.values():
            line.sort(key=lambda run: run.began)
        self._longest = max((run.ended - run.began for run in self._made.values()), default=0.0)

    def __repr__(self) -> str:
        return f"<OwnTime of {len(self._made)} runs>"

    def waited(self, call: Call) -> bool:
        """It ran the function, or its value was still being computed when it began."""
        source = self._made.get(call.made)
        return source is not None and source.ended >= call.began

    def spans(self, call: Call) -> list[tuple[float, float]]:
        """The parts of the call in which the function of its key ran, in any process; none for a hit."""
        if not self.waited(call):
            return []
        line = self._of[call.key]
        reached, found = call.began, []
        for run in line[bisect_left(line, call.began - self._longest, key=lambda run: run.began) :]:
            if run.began >= call.ended:
                break
            begin, end = max(run.began, reached), min(run.ended, call.ended)
            if end > begin:
                found.append((begin, end))
                reached = end
        return found

    def within(self, call: Call) -> float:
        """The seconds of these parts."""
        return sum(end - begin for begin, end in self.spans(call))


def within(bound: float, seen: float, net: float) -> bool | None:
    """Whether a time kept its bound: as it was seen, or (False) not even without stalls; None: nobody can say."""
    return True if seen <= bound else False if net > bound else None


def beyond(call: Call, own: OwnTime, noise: Noise) -> Beyond:
    """Take the function's own time off a call, and find the stalls in the rest.

    A stall while the function ran is in the function's own time already, so it excuses nothing else.
    """
    spans = own.spans(call)
    seen = call.ended - call.began - sum(end - begin for begin, end in spans)
    stalled = noise.within(call.began, call.ended) - sum(noise.within(begin, end) for begin, end in spans)
    return Beyond(seen, min(max(0.0, stalled), seen))


class Meter:
    """The staleness meter: what had been acknowledged of a key, and when."""

    def __init__(self, edits: Iterable[Edit]) -> None:
        self._of: defaultdict[int, list[Edit]] = defaultdict(list)
        for edit in edits:
            self._of[edit.key].append(edit)
        #: For each key: versions in order, and the earliest acknowledgement of any version from there on.
        self._lines: dict[int, tuple[list[int], list[float]]] = {}
        for key, line in self._of.items():
            line.sort(key=lambda edit: edit.version)
            earliest, first = math.inf, []
            for edit in reversed(line):
                earliest = min(earliest, edit.acknowledged)
                first.append(earliest)
            self._lines[key] = [edit.version for edit in line], first[::-1]

    def __repr__(self) -> str:
        return f"<Meter of {len(self._lines)} keys>"

    def since(self, call: Call) -> float | None:
        """Since when the version that this read returned was known to be outdated; None if it was not."""
        if call.version < 0 or call.key not in self._lines:
            return None
        versions, first = self._lines[call.key]
        index = bisect_right(versions, call.version)
        if index < len(versions) and first[index] < call.began:
            return first[index]
        return None
