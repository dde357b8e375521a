"""What must be left after a burst of exceptions: nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Failed", "clean", "descriptors", "threads"]


class Failed(AssertionError):
    """Something is left, a value is wrong, or a call is slow."""


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def threads() -> list[str]:
    """The names of the threads of the library."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("evercache"))


def left(engine: Any) -> dict[str, int]:
    """What is under way, by name; empty for nothing."""
    state = engine.state
    with state.lock:
        counts = {
            "flights": state.flights.under_way,
            "leases": len(state.leases),
            "refreshes": len(state.refreshing),
            "holds": len(state.holds),
            "being sent": sum(item.due is None for item in state.journal.pending.values()),
            "pending": len(state.journal.pending),
            "shared reads": len(state.reading),
            "waiting readers": len(state.joining),
            "torn": int(state.torn),
        }
    for endpoints in (engine.sync_endpoints, engine.async_endpoints, engine.deployment.waiting_endpoints):
        for address, endpoint in list(endpoints._by_address.items()):
            name = f"requests under way at {address}"
            counts[name] = counts.get(name, 0) + endpoint.outstanding
    return {name: count for name, count in counts.items() if count}


def clean(engine: Any, seconds: float, most: Callable[[], str | None]) -> float:
    """Wait until nothing is left, and return for how long; `most` says what else there is too much of."""
    began = time.monotonic()
    while True:
        found: Any = left(engine) or most()
        took = time.monotonic() - began
        if not found:
            return took
        if took > seconds:
            raise Failed(f"{seconds} s after the last exception there is: {found}")
        time.sleep(0.01)
