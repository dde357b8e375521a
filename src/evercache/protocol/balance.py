"""The choice among replicas: power of two choices on peak-EWMA latency times outstanding requests.

After Finagle's `PeakEwma` load metric (Twitter; "The power of two choices in randomized load balancing",
Mitzenmacher 2001), with three changes that a Python process needs:

- costs within a factor of two count as equal and are decided by a coin, so that two like replicas share
  evenly even with one sequential caller ("take the cheaper" sends nearly all to the one a hair faster);
- one sample at most doubles the score: a pause of this process (a thread switch, a garbage collection) is not
  the server's fault; a server that is really slow is known after three or four samples;
- the dearer one keeps the share 1 / (1 + ratio²), so that a wrong score is corrected by new samples.

`Hedges` says when a read that is late goes to a second node as well: after the 95th percentile of recent reads, and
for a few reads in a hundred only (Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013). `Retries` keeps calls
that are sent again from becoming the load that keeps a struggling master down: a share of the calls and a few
each second, as Finagle's `RetryBudget` (see also "Handling Overload" in *Site Reliability Engineering*, 2016).
`Share` keeps work that may set itself off again to a share of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf
from typing import Protocol, TypeVar

__all__ = ["LATEST", "NOISE", "Balancer", "Candidate", "Hedges", "LatencyScore", "Retries", "Share"]

#: Seconds after which an unused score has lost all but 1/e of itself (Finagle's default).
DECAY = 10.0
#: Share of a lower sample in the score, at least: what a busy machine made of one sample is gone after a few.
WEIGHT = 0.5
#: A newcomer's first samples contain its connecting: the least of them counts, and so long all are alike.
WARM_UP = 8
#: Costs that differ by less than this factor are equal.
EQUAL = 2.0
FLOOR = 1e-6
#: What is quicker (seconds) counts as this quick: differences below it are the schedulers', not the servers'.
NOISE = 0.0005
#: A score that is above a quick sample by no more than this factor has settled.
SETTLED = 1.25

#: A read is hedged when it is later than this share of recent ones, and never earlier than so many seconds: below
#: that a machine's own pauses look like slow servers.
QUANTILE = 0.95
SOONEST = 0.001
#: It is hedged at the latest after this share of the time that it has.
LATEST = 0.4
#: Reads that make up "recent", and how many there must be before the first hedge; a power of two.
WINDOW = 256
ENOUGH = 64
#: Hedges that may be saved up.
HEDGES_SAVED = 10.0

#: Retries: for each call, for each second, and how many may be saved up (it begins with these).
RETRY_SHARE = 0.2
RETRIES_A_SECOND = 10.0
RETRIES_SAVED = 100.0


class LatencyScore:
    """Peak-EWMA of latency in seconds. No lock: a sample lost to a race between two threads does no harm."""

    __slots__ = ("at", "quick", "samples", "value")

    def __init__(self) -> None:
        #: Known, below `NOISE`, and as low as its samples: another sample below that would change no choice, and
        #: need not be recorded. After a pause it is not, until it has come down: the next one doubles it again.
        self.quick = False
        self.value = 0.0
        self.at = 0.0
        self.samples = 0

    def __repr__(self) -> str:
        return f"<LatencyScore {self.value * 1e3:.3f} ms samples={self.samples}>"

    def record(self, latency: float, now: float) -> None:
        """Add one sample (seconds): up at once (but at most doubled), down slowly."""
        if latency < FLOOR:
            latency = FLOOR
        value = self.value
        if self.samples < WARM_UP:
            self.value = latency if not self.samples else min(value, latency)
            self.samples += 1
        elif latency > value:
            self.value = min(latency, 2.0 * value)
        else:
            weight = WEIGHT
            if now - self.at > DECAY / 2:  # before, what is lost with time is less
                weight = max(WEIGHT, 1.0 - exp((self.at - now) / DECAY))
            self.value = value + (latency - value) * weight
        self.quick = latency < NOISE and self.value <= SETTLED * latency and self.samples >= WARM_UP
        self.at = now

    def decayed(self, now: float) -> float:
        """The score as it counts at `now`; 0 while it is warming up."""
        if self.samples < WARM_UP:
            return 0.0
        return self.value * exp(min(self.at - now, 0.0) / DECAY)


class Candidate(Protocol):
    """What can be chosen."""

    score: LatencyScore

    @property
    def outstanding(self) -> int:
        """Requests under way there."""
        ...


C = TypeVar("C", bound=Candidate)


class Balancer:
    """Chooses one of several. Immutable but for the random source, which must be safe for threads."""

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def __repr__(self) -> str:
        return "<Balancer power-of-two peak-EWMA>"

    def choose(self, candidates: Sequence[C], now: float) -> C:
        """One of the candidates (at least one); `random` gives floats in [0, 1)."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        draw = self._random()
        if count == 2:
            one, two = candidates
        else:
            draw *= count
            first = int(draw)
            draw = (draw - first) * (count - 1)
            second = int(draw)
            draw -= second
            one = candidates[first]
            two = candidates[second if second < first else second + 1]
        # What is left of `draw` is uniform again in [0, 1): the coin.
        if one.score.value < NOISE and two.score.value < NOISE:
            # Both are quick, only the queues tell: the coin first, since where it falls there is mostly none.
            if draw >= 0.5:
                one, two = two, one
                draw -= 0.5
            queue = one.outstanding
            if not queue:
                return one
            ratio = (queue + 1) / (two.outstanding + 1)
            # Twice the share of a dearer one, since the coin has been thrown.
            return one if ratio <= EQUAL or draw * (1.0 + ratio * ratio) < 1.0 else two
        a, b = one.score.decayed(now), two.score.decayed(now)
        if not a or not b:  # not known yet: only the queues tell
            a = b = 1.0
        elif a < NOISE or b < NOISE:
            a, b = max(a, NOISE), max(b, NOISE)
        a *= one.outstanding + 1
        b *= two.outstanding + 1
        if a > EQUAL * b:
            ratio = a / b
            return one if draw * (1.0 + ratio * ratio) < 1.0 else two
        if b > EQUAL * a:
            ratio = b / a
            return two if draw * (1.0 + ratio * ratio) < 1.0 else one
        return one if draw < 0.5 else two


class Hedges:
    """When a late read is sent to a second node as well, and whether the budget of extra load allows it.

    `record` needs no lock: a read that two threads count as one makes the budget smaller, never larger. The caller
    serialises `take`.
    """

    __slots__ = ("_latencies", "_spent", "delay", "reads", "share")

    def __init__(self, share: float) -> None:
        #: Hedges for each read; 0: none at all.
        self.share = share
        #: Seconds after which a read is late: a plain attribute for the hot path.
        self.delay = inf
        self.reads = 0
        self._latencies: list[float] = [inf] * WINDOW
        self._spent = 0.0

    def __repr__(self) -> str:
        return f"<Hedges after {self.delay * 1e3:.3f} ms, {self.saved:.1f} saved>"

    @property
    def saved(self) -> float:
        """Hedges that could be sent now, one after the other."""
        return min(self.reads * self.share - self._spent, HEDGES_SAVED)

    def record(self, latency: float) -> None:
        """A read took so many seconds, or (where another node was quicker) at least so many."""
        reads = self.reads
        self._latencies[reads & (WINDOW - 1)] = latency
        self.reads = reads = reads + 1
        if not reads & (ENOUGH - 1) and self.share:
            known = sorted(self._latencies[:reads])
            self.delay = max(known[int(len(known) * QUANTILE)], SOONEST)

    def take(self) -> bool:
        """Use one hedge of the budget; False when there is none."""
        earned = self.reads * self.share
        if earned - self._spent > HEDGES_SAVED:  # what is above the bound was lost while nobody needed it
            self._spent = earned - HEDGES_SAVED
        if earned - self._spent < 1.0:
            return False
        self._spent += 1.0
        return True


class Retries:
    """Whether a call to the master may be sent again. `calls` is counted without a lock; `take` is serialised."""

    __slots__ = ("_at", "_calls", "_saved", "calls")

    def __init__(self, now: float) -> None:
        self.calls = 0
        self._calls = 0
        self._at = now
        self._saved = RETRIES_SAVED

    def __repr__(self) -> str:
        return f"<Retries {self._saved:.1f} saved>"

    def saved(self, now: float) -> float:
        """Retries that could be sent now, one after the other."""
        earned = (self.calls - self._calls) * RETRY_SHARE + max(now - self._at, 0.0) * RETRIES_A_SECOND
        return min(self._saved + earned, RETRIES_SAVED)

    def take(self, now: float) -> bool:
        """Use one retry of the budget; False when there is none."""
        self._saved = self.saved(now)
        self._calls, self._at = self.calls, max(now, self._at)
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


class Share:
    """How soon work may begin that takes a share of the time at most: a bucket of seconds, which the work uses up.

    The slower the work is, the rarer it becomes: where many processes load one server with it, that slows all of
    them down. Used by one task.
    """

    __slots__ = ("_at", "_most", "_saved", "_share")

    def __init__(self, share: float, most: float) -> None:
        """`share` of the time; `most`: seconds that may be saved up (it begins with these)."""
        self._share, self._most = share, most
        self._saved = most
        self._at = float("-inf")

    def __repr__(self) -> str:
        return f"<Share {self._saved:.3f} s saved>"

    def used(self, began: float, now: float) -> None:
        """The work has been done, from `began` on."""
        self._saved = max(self._saved - max(now - began, 0.0), -self._most)
        self._at = now

    def wait(self, now: float, longest: float) -> float:
        """For how long the work is to wait now (seconds); `longest`: after it was done the last time."""
        since = max(now - self._at, 0.0)
        missing = -self._saved - since * self._share
        if missing <= 0:
            self._saved, self._at = min(-missing, self._most), max(now, self._at)
            return 0.0
        return max(min(missing / self._share, longest - since), 0.0)
