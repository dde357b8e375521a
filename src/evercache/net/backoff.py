"""When a server that took no connection is tried again: not by every caller at once."""

from __future__ import annotations

import copy
from collections.abc import Callable

from evercache.errors import ConfigurationError, UnavailableError

__all__ = ["Backoff"]

#: Seconds until the next attempt after the second failure (the first may be a blip); doubled each time, up to
#: `LONGEST`. Short, since whoever watches the servers (breakers, the tail) keeps most calls away from a dead one:
#: this bounds what the rest of them does.
FIRST = 0.01
LONGEST = 0.1
#: A caller waits for the next attempt when that takes at most this share of its time: others ask another server.
PATIENCE = 0.1


class Backoff:
    """Two failed attempts stop the others for a while; afterwards one tries, and all when that succeeded.

    The owner serialises the calls. `random` gives floats in [0, 1): a pause lasts half to all of its length.
    """

    __slots__ = ("_again", "_error", "_pause", "_random", "_trial")

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self.clear()

    def __repr__(self) -> str:
        return f"<Backoff {self._pause:.3f} s {self._error!r}>"

    def clear(self) -> None:
        """A connection was made, or the past no longer counts."""
        self._error: UnavailableError | None = None
        self._pause = 0.0
        self._again = 0.0
        self._trial = False

    def check(self, now: float, deadline: float) -> float:
        """0: the caller makes an attempt now. Else it waits so many seconds and asks again.

        Who has little time for that is told at once what the last attempt met, which is raised.
        """
        if self._error is None or not self._pause:
            return 0.0
        left = self._again - now
        if left > 0:
            if left > PATIENCE * (deadline - now):
                raise copy.copy(self._error)
            return left
        self._trial = True
        self._wait(now)
        return 0.0

    def failed(self, error: UnavailableError, now: float) -> None:
        """An attempt met this."""
        if isinstance(error.__cause__, ConfigurationError):
            return  # a file of ours: the server was not asked
        if self._error is None:
            self._pause = 0.0
        elif not self._pause:
            self._pause = FIRST
        elif self._trial:  # of many that were under way together, the first counts
            self._pause = min(2.0 * self._pause, LONGEST)
        # A copy has no traceback, which would keep the frames of the caller, and so its objects, alive.
        self._error, self._trial = copy.copy(error), False
        self._wait(now)

    def _wait(self, now: float) -> None:
        self._again = now + self._pause * (0.5 + 0.5 * self._random())
