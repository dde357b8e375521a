"""No fork while something is logged.

A child has the locks of its parent as they were, and only the thread that forked: if another thread was just
writing to the error output, the child waits for ever when it writes there. Python renews the locks of `logging`
in the child, and not those of the streams below.
"""

from __future__ import annotations

import os
import threading

__all__ = ["LOGGING", "ForkGate"]

#: A fork waits so long (seconds) for what is being logged, and no longer: a handler may be stuck, or fork itself.
_PATIENCE = 0.2


class ForkGate:
    """A context manager for any number of threads; a fork waits until none is within, and keeps others out.

    `_changed` guards the number of those within, and whether a fork is due.
    """

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(before=self._shut, after_in_parent=self._open, after_in_child=self._renew)

    def __repr__(self) -> str:
        return f"<ForkGate within={self._within}>"

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._due, _PATIENCE)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._within -= 1
            self._changed.notify_all()

    def _shut(self) -> None:
        self._changed.acquire()
        self._due = True
        self._changed.wait_for(lambda: not self._within, _PATIENCE)

    def _open(self) -> None:
        self._due = False
        self._changed.notify_all()
        self._changed.release()

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._within = 0
        self._due = False


#: Of this process: forks know no engine.
LOGGING = ForkGate()
