"""What a process goes through (forks, its end), and the locks that survive it. Imports nothing of the package."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import re
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, cast

__all__ = [
    "LOGGING",
    "THREADS",
    "ForkGate",
    "Lock",
    "Threads",
    "Wakeup",
    "background_trouble",
    "close_at_exit",
    "from_signal_handler",
    "gevent_patched",
    "living",
    "new_lock",
    "notice_fork",
    "on_fork",
    "pid",
    "reset_after_fork",
    "start_thread",
    "thread_runs",
    "workers",
]


T = TypeVar("T")


class Lock(Protocol):
    """What `new_lock` returns: a re-entrant lock, used by `with`."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def _is_owned(self) -> bool: ...


class Threads:
    """How threads wait, and how they are told apart; the client and the blocking wire use nothing else for that.

    A program that puts other functions in the place of these (on `THREADS`) decides which thread runs when. It does
    so before it makes a cache: locks and polls stay what they were made as. The names are looked up late, since
    gevent may replace them after the import.
    """

    def lock(self) -> Any:
        """Make a re-entrant lock, for `new_lock`."""
        return threading.RLock()

    def gate(self) -> Any:
        """Make a lock that any thread may release, for `Wakeup`."""
        return threading.Lock()

    def sleep(self, seconds: float) -> None:
        """Wait for so long."""
        time.sleep(seconds)

    def poll(self) -> Any:
        """Make what waits for descriptors."""
        return select.poll()

    def ident(self) -> int:
        """Return the number of the thread that runs."""
        return threading.get_ident()

    def current(self) -> Any:
        """Return the thread that runs."""
        return threading.current_thread()

    def main(self) -> Any:
        """Return the thread on which signal handlers run."""
        return threading.main_thread()

    def new(self, work: Callable[[], object], name: str) -> Any:
        """Make a daemon thread that runs a function; `start_thread` starts it."""
        return threading.Thread(target=work, name=name, daemon=True)


#: Those of the system, unless replaced.
THREADS: Final = Threads()


class _Forked(Protocol):
    def after_fork(self) -> None: ...


class _Closed(Protocol):
    def close(self) -> object: ...


#: Every lock of the package, and every object that must be reset in the child of a fork. Both are weak.
_locks: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_resettable: Final[weakref.WeakSet[_Forked]] = weakref.WeakSet()
#: Functions that run in the child of a fork before the objects are reset.
_hooks: Final[list[Callable[[], None]]] = []
#: The process that all of this belongs to.
pid = os.getpid()
#: One thread of a child at a time resets what it inherited.
_resetting = threading.RLock()


def new_lock() -> Lock:
    """Return a lock that is free again in the child of a fork, whichever thread held it in the parent.

    It is re-entrant, so a signal handler or a finalizer that runs inside a critical section of its own thread does
    not deadlock. It is CPython's own type, whose `with` statement cannot be interrupted between acquiring the lock
    and entering the block. Every lock of the package comes from here.
    """
    lock: Any = THREADS.lock()
    _locks.add(lock)
    return cast(Lock, lock)


def living(things: weakref.WeakSet[T]) -> list[T]:
    """Return the members of a weak set, which other threads, finalizers and signal handlers may change meanwhile.

    A loop over the set itself raises RuntimeError then. The copy of its references is made at one moment.
    """
    references: set[weakref.ref[T]] = vars(things)["data"]
    return [thing for reference in list(references) if (thing := reference()) is not None]


def reset_after_fork(thing: _Forked) -> None:
    """Have `thing.after_fork()` called in every child of this process; `thing` is referenced weakly."""
    _resettable.add(thing)


def on_fork(hook: Callable[[], None]) -> None:
    """Have a function called in every child of this process, for as long as it lives."""
    _hooks.append(hook)


def notice_fork() -> None:
    """Reset what was inherited if this is a child whose fork ran no hooks (as in uWSGI)."""
    if os.getpid() == pid:
        return
    # The timeout is for a parent that was itself resetting when it forked: nobody here releases its lock.
    acquired = _resetting.acquire(timeout=1.0)
    try:
        if os.getpid() != pid:
            _after_fork()
    finally:
        if acquired:
            _resetting.release()


def _after_fork() -> None:
    global pid
    for lock in living(_locks):
        reinit = getattr(lock, "_at_fork_reinit", None)  # gevent's locks may have none
        if reinit is not None:
            reinit()
    for hook in list(_hooks):
        hook()
    for thing in living(_resettable):
        thing.after_fork()
    # Last: until then other threads of the child wait in `notice_fork`.
    pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork)


class Wakeup:
    """Lets a thread wait, for a bounded time, until another one wakes it; a wake-up that comes before is kept.

    The time is kept under any rate of signals. `queue.SimpleQueue.get` does not keep it: a signal that arrives at
    the end of its time-out makes it wait for ever (seen with Python 3.11).
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = THREADS.gate()
        self._lock.acquire()

    def __repr__(self) -> str:
        return f"<Wakeup {'waits' if self._lock.locked() else 'woken'}>"

    def wait(self, seconds: float) -> bool:
        """Wait for so long at most; whether it was woken."""
        woken: bool = self._lock.acquire(timeout=max(0.0, seconds))
        return woken

    def wake(self) -> None:
        """Wake the thread that waits, or the next one that will."""
        try:
            self._lock.release()
        except RuntimeError:  # it is awake already
            return


def from_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler raised this error (Celery's soft time limit, say) in code that knows nothing of it.

    Then it is for the interrupted caller, and says nothing of the function that it was raised in.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return False  # handlers run on the main thread
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. RuntimeError or MemoryError when there can be none.

    `Thread.start` waits for the new thread in code written in Python. If a signal handler raises there, a lock that
    the new thread needs stays held, and it never gets to work. Handlers run on the main thread only, so there
    another thread starts it.
    """
    if THREADS.current() is not THREADS.main():
        thread.start()
        return
    failed: list[RuntimeError | MemoryError] = []
    over = Wakeup()

    def start() -> None:
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            failed.append(error)
        finally:
            over.wake()

    _thread.start_new_thread(start, ())
    over.wait(1.0)  # on a machine that is very slow, it starts later
    if failed:
        raise failed[0]


class ForkGate:
    """Keeps forks out while something is logged: `with LOGGING.entered():`, by any number of threads.

    A child inherits the locks of its parent, but only the thread that forked. If another thread was writing to the
    error output at that moment, the child waits for ever when it writes there. Python renews the locks of `logging`
    in the child, but not those of the streams below.

    Each thread has a lock of its own, so that an exception of a signal handler leaves none held (see `new_lock`),
    and one handler that is stuck holds up nobody else. A fork takes all of them, waiting for up to 0.2 s.
    """

    _PATIENCE = 0.2

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(before=self._shut, after_in_parent=self._open)
        on_fork(self._renew)

    def __repr__(self) -> str:
        return f"<ForkGate threads={len(self._locks)} taken={len(self._taken)}>"

    def entered(self) -> Lock:
        """The lock of this thread, to be held while something is logged."""
        lock = getattr(self._own, "lock", None)
        if lock is not None and lock.acquire(timeout=self._PATIENCE):
            lock.release()
        else:  # the first time, or a fork never gave it back
            end = time.monotonic() + self._PATIENCE
            while self._due and time.monotonic() < end:
                time.sleep(0.001)
            lock = self._own.lock = threading.RLock()
            for one in [one for one in list(self._locks) if one() is None]:
                self._locks.discard(one)
            self._locks.add(weakref.ref(lock))
        return cast(Lock, lock)

    def _shut(self) -> None:
        self._due = True
        end = time.monotonic() + self._PATIENCE
        for one in list(self._locks):
            lock = one()
            if lock is not None and lock.acquire(timeout=max(0.0, end - time.monotonic())):
                self._taken.append(lock)

    def _open(self) -> None:
        self._due = False
        while self._taken:
            with contextlib.suppress(RuntimeError):  # released already, before an exception
                self._taken[-1].release()
            self._taken.pop()

    def _renew(self) -> None:
        self._own = threading.local()
        self._locks = set[weakref.ref[Any]]()
        self._taken: list[Any] = []
        self._due = False


#: Of this process: forks know no engine.
LOGGING: Final = ForkGate()


def thread_runs(thread: threading.Thread) -> bool:
    """Whether a thread has been started and has not ended.

    `Thread.is_alive` alone must not be asked where a signal handler may raise: up to Python 3.12, an exception
    within it marks a living thread as ended, for ever.
    """
    active: dict[int, threading.Thread] = vars(threading)["_active"]
    if thread.ident is not None and active.get(thread.ident) is thread:
        return True
    return thread.is_alive()  # one that has just been started is not in the table yet


def background_trouble() -> str | None:
    """Return why no background thread can run here, with the remedy, or None."""
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


def workers() -> str:
    """Return what shows that this process is one of several that run the application, in words, or "".

    Only what is certain enough for a warning: a server with one worker, or one that reloads, is not named.
    """
    if "gunicorn.arbiter" in sys.modules:
        return "gunicorn forks workers"
    for name, numbers in (("uwsgi", "numproc"), ("mod_wsgi", "maximum_processes")):
        if int(getattr(sys.modules.get(name), numbers, 1) or 1) > 1:
            return f"{name} runs several processes"
    for name in ("uvicorn", "hypercorn", "granian"):
        if name in sys.modules and _workers_wanted() > 1:
            return f"{name} runs several workers"
    return ""


def _workers_wanted() -> int:
    """The number of workers on the command line, which worker processes inherit, or in the environment."""
    words = " ".join(map(str, getattr(sys, "argv", ())))  # an embedded interpreter may have none
    found = re.search(r"--workers[ =](\d{1,6})", words)
    number = found[1] if found else os.environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdecimal() else 1


def gevent_patched() -> bool:
    """Return whether gevent has replaced threads and sockets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def close_at_exit(thing: _Closed) -> Callable[[], None]:
    """Have `thing.close()` called at the end of the process, unless it is collected before; what was registered."""
    reference = weakref.ref(thing)

    def close() -> None:
        notice_fork()
        there = reference()
        if there is not None:
            there.close()

    atexit.register(close)
    return close
