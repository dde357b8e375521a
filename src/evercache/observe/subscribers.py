"""Callbacks of the application that are told each event, on a thread of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from evercache.observe.event import Event
from evercache.process import new_lock, start_thread, thread_runs

__all__ = ["Callback", "Subscribers"]

Callback: TypeAlias = Callable[[Event], Any]
Dropped: TypeAlias = Callable[[Callback, BaseException], None]

_LIMIT = 1_000
#: Those with callbacks, and the cache that they keep alive.
_kept: Final[dict[Subscribers, object]] = {}


class Subscribers:
    """The thread begins when there is something to tell and ends after it: who is slow holds up nobody but the
    other callbacks. `_lock` guards the rest; it is never held while a callback runs.
    """

    def __init__(self) -> None:
        self._lock = new_lock()
        self._callbacks: tuple[Callback, ...] = ()
        self._waiting: deque[tuple[Event, Dropped]] = deque()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Subscribers {len(self._callbacks)} waiting={len(self._waiting)}>"

    def add(self, callback: Callback, keep: object = None) -> Callable[[], None]:
        """Notify a callback of every event from now on; returns what ends that. `keep` is kept alive until then."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)
            _kept[self] = keep
        return lambda: self.remove(callback)

    def remove(self, callback: Callback) -> None:
        """Tell it nothing any more."""
        with self._lock:
            self._callbacks = tuple(other for other in self._callbacks if other is not callback)
            if not self._callbacks:
                _kept.pop(self, None)

    def tell(self, event: Event, dropped: Dropped) -> bool:
        """Have all callbacks called soon; False when the oldest event had to give way. Never waits for them.

        `dropped` is called with a callback that raised and its error.
        """
        if not self._callbacks:
            return True
        with self._lock:
            fits = len(self._waiting) < _LIMIT
            if not fits:
                self._waiting.popleft()
            self._waiting.append((event, dropped))
            if self._thread is not None and thread_runs(self._thread):
                return fits
            # None, or one that an exception of a signal handler kept from starting.
            thread = self._thread = threading.Thread(target=self._work, name="evercache-events", daemon=True)
            try:
                # Under the lock, so that it cannot end before it is known.
                start_thread(thread)
            except (RuntimeError, MemoryError):  # or the interpreter ends: with the next event, perhaps
                self._thread = None
        return fits

    def flush(self, timeout: float) -> None:
        """Wait until everything was told, `timeout` seconds at most."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                if self._thread is not me or not self._waiting:
                    if self._thread is me:
                        self._thread = None
                    return
                event, dropped = self._waiting.popleft()
                callbacks = self._callbacks
            for callback in callbacks:
                try:
                    callback(event)
                except BaseException as error:  # also SystemExit: it would end this thread, unseen
                    self.remove(callback)
                    dropped(callback, error)

    def after_fork(self) -> None:
        """In the child: the thread is not here, and what waited is told by the parent."""
        self._waiting = deque()
        self._thread = None
