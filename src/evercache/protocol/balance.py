"""The choice among replicas: power of two choices on peak-EWMA latency times outstanding requests.

After Finagle's `PeakEwma` load metric (Twitter; "The power of two choices in randomized load balancing",
Mitzenmacher 2001), with three changes that a Python process needs:

- costs within a factor of two count as equal and are decided by a coin, so that two like replicas share
  evenly even with one sequential caller ("take the cheaper" sends nearly all to the one a hair faster);
- one sample at most doubles the score: a pause of this process (a thread switch, a garbage collection) is not
  the server's fault; a server that is really slow is known after three or four samples;
- the dearer one keeps the share 1 / (1 + ratio²), so that a wrong score is corrected by new samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp
from typing import Protocol, TypeVar

__all__ = ["Balancer", "Candidate", "LatencyScore"]

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


class LatencyScore:
    """Peak-EWMA of latency in seconds. No lock: a sample lost to a race between two threads does no harm."""

    __slots__ = ("at", "samples", "value")

    def __init__(self) -> None:
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
            weight = max(WEIGHT, 1.0 - exp(min(self.at - now, 0.0) / DECAY))
            self.value = value + (latency - value) * weight
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
