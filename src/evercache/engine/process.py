"""What the process allows and goes through: threads, forks, gevent, its end. Said once, never silent."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["ForkLock", "background_trouble", "close_at_exit", "gevent_patched", "reset_after_fork"]


class _Forked(Protocol):
    def after_fork(self) -> None: ...


class _Closed(Protocol):
    def close(self) -> object: ...


#: Who must be told in the child of a fork; weak, so that nobody is kept alive by it.
_told: weakref.WeakSet[_Forked] = weakref.WeakSet()


def reset_after_fork(engine: _Forked) -> None:
    """Have `engine.after_fork()` called in every child of this process."""
    _told.add(engine)


def _after_fork() -> None:
    for engine in list(_told):
        engine.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class ForkLock:
    """A lock that is a new one in the child of a fork: a thread that is not there may have held the old one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<ForkLock {'held' if self._lock.locked() else 'free'}>"

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """In the child."""
        self._lock = threading.Lock()


def background_trouble() -> str | None:
    """Why no background thread can run here, with the mend, or None."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        options = getattr(uwsgi, "opt", {})
        names = {key.decode() if isinstance(key, bytes) else key for key in options}
        if not names & {"enable-threads", "threads"}:
            return (
                "uWSGI runs without threads, so invalidations cannot be followed: every call computes. "
                "Set `enable-threads = true`."
            )
    return None


def gevent_patched() -> bool:
    """Whether gevent has replaced threads and sockets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def close_at_exit(engine: _Closed) -> Callable[[], None]:
    """Have `engine.close()` called at the end of the process, unless it is gone by then; what was registered."""
    reference = weakref.ref(engine)

    def close() -> None:
        living = reference()
        if living is not None:
            living.close()

    atexit.register(close)
    return close
