"""A signal handler that raises at random moments."""

from __future__ import annotations

import itertools
import random
import signal
import sys
from typing import Any

__all__ = ["KINDS", "Alarms", "SoftLimit"]


class SoftLimit(Exception):
    """As Celery's soft time limit: an `Exception`."""


KINDS: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, SoftLimit)


class Alarms:
    """`arm` sets one off, 0.1 to 2 ms later. For the main thread."""

    def __init__(self, seed: int) -> None:
        self.raised = 0
        self._rng = random.Random(seed)
        self._kinds = itertools.cycle(KINDS)
        self._armed = False
        signal.signal(signal.SIGALRM, self._raise)
        # In a finalizer or a callback of the collector nobody can catch it: Python writes it to the error output.
        before = sys.unraisablehook
        sys.unraisablehook = lambda what: None if what.exc_type in KINDS else before(what)

    def __repr__(self) -> str:
        return f"<Alarms raised={self.raised}>"

    def _raise(self, _signal: int, _frame: Any) -> None:
        if self._armed:
            self._armed = False
            self.raised += 1
            raise next(self._kinds)

    def arm(self) -> None:
        """Raise soon, unless that is due already."""
        if not self._armed:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, self._rng.uniform(1e-4, 2e-3))

    def disarm(self) -> None:
        """Raise no more."""
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
