"""The one clock of all ages and deadlines: seconds that go on while the machine is suspended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final

__all__ = ["monotonic"]


def _clock() -> Callable[[], float]:
    # CLOCK_MONOTONIC, which `time.monotonic` reads on Linux, stands still while a machine is suspended. By it,
    # entries near and the standing of replicas would count as current on waking, hours later (rules 7 and 14).
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is not None:
        with contextlib.suppress(OSError):  # a sandbox that does not know it
            time.clock_gettime(boottime)
            return partial(time.clock_gettime, boottime)
    return time.monotonic


#: In the place of `time.monotonic`, everywhere in this package: the two differ by the time spent suspended, so a
#: moment of one clock means nothing on the other. An event loop has a clock of its own; it is only given durations.
monotonic: Final = _clock()
