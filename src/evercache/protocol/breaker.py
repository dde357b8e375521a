"""When a server takes no reads: a circuit breaker that only the monitor's probe closes again.

The pattern is Nygard's (*Release It!*), with two differences: it opens at the first time-out or broken
connection, because another node can answer the same read; and the half-open trial is never a user's read.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct
from msgspec.structs import replace

__all__ = ["Breaker", "BreakerPolicy", "BreakerState"]


class BreakerPolicy(Struct, frozen=True):
    """Back-off of the probes, in seconds: `first`, doubled at each failure up to `longest`.

    Where the probe itself was not answered it ends at `silent`: with the time that a probe under way may take, a
    server that can be reached again is back in use within a second.

    A failure within `memory` of the last recovery counts on: a server that answers probes but not reads is
    left alone for longer and longer.
    """

    first: float = 0.05
    longest: float = 1.0
    silent: float = 0.5
    memory: float = 5.0


class BreakerState(Struct, frozen=True):
    """One state, swapped as a whole."""

    name: str  # "closed" | "open" | "half-open"
    #: When it opened (the newest failure), or closed.
    since: float
    #: No probe before this moment.
    retry_at: float
    strikes: int


class Breaker:
    """Closed, open or half-open.

    Guarded by: the owner serialises the transitions; `closed` and `state` may be read from any thread.
    """

    __slots__ = ("_policy", "_state", "closed")

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._state = BreakerState("closed", -inf, -inf, 0)
        #: Whether reads may go there: a plain attribute for the hot path.
        self.closed = True

    def __repr__(self) -> str:
        return f"<Breaker {self._state.name} strikes={self._state.strikes}>"

    @property
    def state(self) -> BreakerState:
        """The state as one immutable value."""
        return self._state

    def fail(self, now: float) -> None:
        """A read timed out or its connection failed: open at once.

        Many reads that were under way fail together; the later ones only renew the time of the failure.
        """
        before = self._state
        if before.name == "closed":
            self._open(now, now - before.since <= self._policy.memory, self._policy.longest)
        elif now > before.since:
            self._state = replace(before, since=now)

    def probe_failed(self, now: float) -> None:
        """The monitor's question was not answered: open (for twice as long as the last time)."""
        before = self._state
        again = before.name != "closed" or now - before.since <= self._policy.memory
        self._open(now, again, self._policy.silent)

    def _open(self, now: float, again: bool, longest: float) -> None:
        strikes = self._state.strikes + 1 if again else 0
        # The exponent is bounded so that a server that is down for weeks overflows nothing.
        wait = min(self._policy.first * 2.0 ** min(strikes, 30), longest)
        self.closed = False
        self._state = BreakerState("open", now, now + wait, strikes)

    def probe(self, now: float) -> bool:
        """Whether to send a probe now. When open this takes the half-open trial: one at a time."""
        before = self._state
        if before.name == "closed":
            return True
        if before.name == "open" and now >= before.retry_at:
            self._state = replace(before, name="half-open")
            return True
        return False

    def succeed(self, sent: float, now: float) -> None:
        """A probe sent at `sent` was answered; one that left before the newest failure proves nothing."""
        before = self._state
        if before.name != "half-open":
            return
        if sent < before.since:
            self._state = replace(before, name="open")
            return
        self._state = BreakerState("closed", now, -inf, before.strikes)
        self.closed = True
