"""The warning that a cache is of one process only, where nobody chose that."""

from __future__ import annotations

import os
from typing import Final

from evercache.observe import EventHub, events
from evercache.process import workers

__all__ = ["Alone"]

#: The processes and namespaces that were warned about: an application factory may make hundreds of caches.
_warned: Final[set[tuple[int, str]]] = set()
_MOST: Final = 1_000


class Alone:
    """Of a store in the memory of this process that is there for want of a URL. No lock: a line may come twice."""

    def __init__(self, hub: EventHub, namespace: str) -> None:
        self._events = hub
        self._namespace = namespace
        self._looked = self._forked = False

    def __repr__(self) -> str:
        return f"<Alone {self.others() or 'as far as is known'}>"

    def others(self) -> str:
        """What shows that other processes run the application, in words, or ""."""
        return workers() or ("the process that used the cache was forked" if self._forked else "")

    def problem(self) -> str:
        """What `health()` says: nothing where there is one process, as far as is known."""
        others = self.others()
        return events.OnlyThisProcess(others).message if others else ""

    def used(self) -> None:
        """Warn if there are other processes. Cheap after the first time."""
        if not self._looked:
            self._looked = True
            if self.others():
                self._tell()

    def invalidated(self) -> None:
        """Warn: if there are other processes, they keep the old value."""
        self._looked = True
        self._tell()

    def after_fork(self) -> None:
        """In the child: there is another process, which had used the cache."""
        self._looked, self._forked = False, True

    def _tell(self) -> None:
        key = os.getpid(), self._namespace
        if key in _warned or len(_warned) >= _MOST:
            return
        _warned.add(key)
        self._events.emit(events.OnlyThisProcess(self.others()))
