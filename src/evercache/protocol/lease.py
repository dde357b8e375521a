"""Decisions around the right to compute: how long to hold it, when to ask again, when to refresh early."""

from __future__ import annotations

import math

from msgspec import Struct

__all__ = [
    "LARGEST_DRAW",
    "LEASE",
    "RENEW_EVERY",
    "Waiting",
    "lease_after_starvation",
    "refresh_early",
    "wait_limit",
]

#: Seconds that a lease lives unrenewed, and the pace of its renewal (rule 13).
LEASE = 1.0
RENEW_EVERY = 0.3

#: The largest -log(draw) for draws of 53 bits: earlier than so many computing times no reader refreshes.
LARGEST_DRAW = 37.0

_SHORTEST, _LONGEST = 0.005, 0.050


def refresh_early(time_left: float, compute: float, beta: float, draw: float) -> bool:
    """XFetch: whether this reader refreshes a value before it expires.

    `time_left` and `compute` in seconds, `draw` uniform in (0, 1]. Vattani, Chierichetti, Lowenstein:
    "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015.
    """
    return time_left < beta * compute * LARGEST_DRAW and -beta * compute * math.log(draw) >= time_left


def lease_after_starvation(compute: float) -> float:
    """The lease, in seconds, of a function that was seen to hold the interpreter for `compute` seconds."""
    return max(LEASE, 2 * compute)


def wait_limit(usual: float, max_compute: float) -> float:
    """How long to wait for somebody else's computation before computing without a lease (seconds)."""
    return min(max_compute, max(1.0, 3 * usual)) if usual > 0 else max_compute


class Waiting(Struct):
    """When the one poller of a key asks for the lease again.

    At the expected end of the computation under way, but no less often than every 50 ms: it may end sooner than
    usual, be invalidated, or its holder be killed, and one caller's overlong sleep is a page that hangs. Around
    and after the expected end every 5 to 50 ms, growing and jittered. Used by one caller only.
    """

    polls: int = 0

    def pause(self, *, lease_left: float, elapsed: float, expected: float, draw: float) -> float:
        """Seconds until the next question; `draw` is uniform in [0, 1)."""
        if expected > elapsed:
            return min(expected - elapsed, lease_left + 0.001, _LONGEST) + draw * 0.002
        self.polls += 1
        ceiling = min(_LONGEST, _SHORTEST * 1.5 ** min(self.polls, 10))
        return _SHORTEST + (ceiling - _SHORTEST) * (0.5 + draw / 2)
