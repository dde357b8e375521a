"""When this process, or the whole machine, stood still: what no figure of the cache may contain.

A thread sleeps for a few milliseconds at a time. Where it wakes late, nothing in this process ran. Times are those
of `time.monotonic()`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from evercache.ops.meter import Noise, Overslept

__all__ = ["NAP", "UNJUDGED", "CpuWait", "Stalls", "cpu_wait"]

#: The exit code of a command that broke no promise, and could not judge one as the machine stood still.
UNJUDGED = 10

#: One sleep (s), and how late the thread may wake on a machine that does not stand still (s).
NAP, NOISE = 0.005, 0.002
_PRESSURE, _STAT = Path("/proc/pressure/cpu"), Path("/proc/stat")


class Stalls:
    """The thread, while it is entered, and what it noted in `overslept` (appended to by the thread only).

    `between` is called after each sleep, and its time does not count. Notes of another process can be given, or be
    taken over as they come. `idle_only`: the time in which a thread of this process used the processor is not a
    stall. Without it, code that never releases the interpreter looks like a machine that stands still.
    """

    def __init__(
        self,
        overslept: list[Overslept] | None = None,
        *,
        noise: float = NOISE,
        between: Callable[[], None] | None = None,
        idle_only: bool = False,
    ) -> None:
        self.overslept: list[Overslept] = [] if overslept is None else overslept
        self._noise, self._between = noise, between
        self._used = time.process_time if idle_only else lambda: 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def __repr__(self) -> str:
        return f"<Stalls {len(self.overslept)} noted>"

    def _run(self) -> None:
        while not self._over.is_set():
            due, used = time.monotonic() + NAP, self._used()
            time.sleep(NAP)
            woke = time.monotonic()
            due += self._used() - used
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


class CpuWait(NamedTuple):
    """What the kernel counted until the moment `at`; seconds since the machine started."""

    at: float
    #: Some task was ready to run and had no processor.
    waited: float
    #: The host ran other machines instead of this one, per processor.
    stolen: float


def cpu_wait() -> CpuWait | None:
    """Read the kernel's counters; None where it does not keep them."""
    try:
        (some,) = (line for line in _PRESSURE.read_text().splitlines() if line.startswith("some"))
        stolen = int(_STAT.read_text().split("\n", 1)[0].split()[8])
        waited = int(some.rpartition("total=")[2]) / 1e6
        return CpuWait(time.monotonic(), waited, stolen / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1))
    except (OSError, ValueError, IndexError):
        return None
