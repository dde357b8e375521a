"""The time of the stores of a test: it passes by itself, and in leaps when it is told to."""

from __future__ import annotations

import time

from evercache.clock import monotonic
from evercache.policy import Seconds, seconds

__all__ = ["Clock"]


class Clock:
    """The machine's clocks plus what was leapt over. A leap is one assignment; only one thread should leap."""

    def __init__(self) -> None:
        self._ahead_us = 0

    def __repr__(self) -> str:
        return f"<Clock ahead={self._ahead_us / 1e6} s>"

    def advance(self, by: Seconds) -> None:
        """Let so many seconds pass at once; ConfigurationError unless it is 0 or more."""
        self._ahead_us += round(seconds(by, "the time to pass") * 1e6)

    def monotonic(self) -> float:
        """The clock of the process, in seconds."""
        return monotonic() + self._ahead_us / 1e6

    def server_us(self) -> int:
        """The clock of the server, in microseconds since 1970."""
        return time.time_ns() // 1000 + self._ahead_us
