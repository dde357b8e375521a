"""The master's time, as a process may know it (rules 11 and 19)."""

from __future__ import annotations

from collections import deque
from math import inf

__all__ = ["ServerClock"]

_SAMPLES = 8
#: An answer that took longer (seconds), its taker's own pauses included, says little about the time.
_ROUGH = 0.05


class ServerClock:
    """Offset from the local monotonic clock (seconds) to the master's time (microseconds).

    Each sample is the server's time minus the local time at *receipt*: at most the true offset, by the time
    that the answer travelled. The least of the last eight is kept, so that a deadline put into the master's
    time is never later than meant; rough ones count only until there is a better one, or entries would live on
    for as long as one answer had waited in a process that stood still. Guarded by the lock of the owner for
    changes; reads need none.
    """

    __slots__ = ("_rough", "_samples", "offset", "offset_us")

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=_SAMPLES)
        self._rough = True
        self.offset_us: int | None = None
        #: The same in seconds, for the hot path.
        self.offset: float | None = None

    def __repr__(self) -> str:
        return f"<ServerClock offset_us={self.offset_us} samples={len(self._samples)}>"

    def observe(self, time_us: int, received: float, sent: float = -inf) -> None:
        """Take in the server's time of an answer to what was `sent` and `received` (monotonic seconds)."""
        rough = received - sent > _ROUGH
        if rough and not self._rough:
            return
        if self._rough and not rough:
            self._samples.clear()
            self._rough = False
        self._samples.append(time_us - int(received * 1e6))
        self.offset_us = min(self._samples)
        self.offset = self.offset_us / 1e6

    def reset(self) -> None:
        """Forget the samples: another master, or a refusal showed that they were wrong."""
        self._samples.clear()
        self._rough = True
        self.offset_us = self.offset = None

    def server_us(self, local: float) -> int | None:
        """The master's time at a local moment, or None while nothing is known."""
        return None if self.offset_us is None else int(local * 1e6) + self.offset_us

    def server_ms(self, local: float) -> float | None:
        """The same in milliseconds."""
        return None if self.offset_us is None else local * 1e3 + self.offset_us / 1e3
