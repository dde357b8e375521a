"""The master's time, as a process may know it (rules 11 and 19)."""

from __future__ import annotations

from collections import deque

__all__ = ["ServerClock"]

_SAMPLES = 8


class ServerClock:
    """Offset from the local monotonic clock (seconds) to the master's time (microseconds).

    Each sample is the server's time minus the local time at *receipt*: at most the true offset, by the time
    that the answer travelled. The least of the last eight is kept, so that a deadline put into the master's
    time is never later than meant. Guarded by the lock of the owner for changes; reads need none.
    """

    __slots__ = ("_samples", "offset_us")

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=_SAMPLES)
        self.offset_us: int | None = None

    def __repr__(self) -> str:
        return f"<ServerClock offset_us={self.offset_us} samples={len(self._samples)}>"

    def observe(self, time_us: int, received: float) -> None:
        """Take in the server's time of an answer received at `received` (monotonic seconds)."""
        self._samples.append(time_us - int(received * 1e6))
        self.offset_us = min(self._samples)

    def reset(self) -> None:
        """Forget the samples: another master, or a refusal showed that they were wrong."""
        self._samples.clear()
        self.offset_us = None

    def server_us(self, local: float) -> int | None:
        """The master's time at a local moment, or None while nothing is known."""
        return None if self.offset_us is None else int(local * 1e6) + self.offset_us

    def server_ms(self, local: float) -> float | None:
        """The same in milliseconds."""
        return None if self.offset_us is None else local * 1e3 + self.offset_us / 1e3
