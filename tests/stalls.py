"""When this process, or the whole machine, stood still: what a figure of the product leaves out.

A thread sleeps for a few milliseconds at a time, all the time. Where it wakes late, nobody here ran. Times are
those of `time.monotonic()`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from evercache.ops.meter import Noise, Overslept

__all__ = ["NAP", "Stalls"]

#: It sleeps for so long at a time (s); and may wake so much late (s) on a machine that does not stand still.
NAP, NOISE = 0.005, 0.002


class Stalls:
    """The thread, while it is entered, and what it noted in `overslept` (appended to by the thread only).

    `between` is called after each sleep. Notes of another process can be given, or be taken over as they come.
    """

    def __init__(
        self,
        overslept: list[Overslept] | None = None,
        *,
        noise: float = NOISE,
        between: Callable[[], None] | None = None,
    ) -> None:
        self.overslept: list[Overslept] = [] if overslept is None else overslept
        self._noise, self._between = noise, between
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def __repr__(self) -> str:
        return f"<Stalls {len(self.overslept)} noted>"

    def _run(self) -> None:
        while not self._over.is_set():
            due = time.monotonic() + NAP
            time.sleep(NAP)
            woke = time.monotonic()
            if woke - due > self._noise:
                self.overslept.append(Overslept(due, woke))
            if self._between is not None:
                self._between()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def within(self, begin: float, end: float) -> float:
        """The seconds of an interval in which this process did not run when it wanted to."""
        return Noise(list(self.overslept)).within(begin, end)

    def without(self, begin: float, end: float) -> float:
        """The seconds of an interval in which it did."""
        return end - begin - self.within(begin, end)
