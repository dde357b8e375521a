"""The log says a thing when it changes, not each time it is met."""

from __future__ import annotations

import logging
import threading

__all__ = ["StateLog"]

_LIMIT = 1_000


class StateLog:
    """Writes to the logger `evercache`: a trouble once, its end once. Guarded by a lock of its own."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("evercache")
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<StateLog open={sorted(self._open)}>"

    def trouble(self, what: str, message: str, *, level: int = logging.WARNING) -> None:
        """Say that `what` began, unless it was said and has not ended."""
        with self._lock:
            if what in self._open:
                return
            if len(self._open) >= _LIMIT:
                self._open.pop(next(iter(self._open)))
            self._open[what] = message
        self._logger.log(level, "%s", message)

    def over(self, what: str, message: str) -> None:
        """Say that `what` is over, if it was said that it began."""
        if what not in self._open:  # the common case, without the lock
            return
        with self._lock:
            if self._open.pop(what, None) is None:
                return
        self._logger.info("%s", message)

    def troubles(self) -> list[str]:
        """What has begun and not ended."""
        with self._lock:
            return list(self._open.values())

    def forget_lock(self) -> None:
        """After a fork, in the child: the lock may have been held by a thread that does not exist here."""
        self._lock = threading.Lock()
