"""Host names to addresses, within a time: the system's resolver knows no deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from evercache.clock import monotonic
from evercache.net.sockets import look_up
from evercache.process import Wakeup, new_lock, on_fork, thread_runs
from evercache.protocol.types import Address

__all__ = ["Resolver", "resolver"]

Records = list[tuple[int, Any]]

#: What the system's resolver says where it could not ask: nothing about the name.
_NOT_NOW: Final = frozenset({socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM})


#: Seconds after which a thread that waits for an answer looks again, as a wake-up may have been lost.
_LOOK: Final = 0.05


class _Lookup:
    """One question to the system. No lock: its thread sets `outcome` and calls the callbacks; others look again.

    A `Future` would not do: its condition is a lock in Python code, which stays locked when a signal handler raises
    in a caller that has just acquired it.
    """

    __slots__ = ("_callbacks", "_over", "outcome", "thread")

    def __init__(self) -> None:
        self.outcome: Records | OSError | None = None
        self.thread: threading.Thread | None = None
        self._over = Wakeup()
        self._callbacks: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<_Lookup {self.outcome!r}>"

    def lost(self) -> bool:
        """Whether no answer will come of it for those who ask now."""
        return self.outcome is not None or self.thread is None or not thread_runs(self.thread)

    def end(self, outcome: Records | OSError) -> None:
        """It has an outcome."""
        self.outcome = outcome
        self._over.wake()
        for callback in self._callbacks:
            callback()

    def then(self, callback: Callable[[], None]) -> None:
        """Have something called once it has an outcome, from any thread; perhaps twice."""
        self._callbacks.append(callback)
        if self.outcome is not None:
            callback()

    def wait(self, seconds: float) -> None:
        """Until it has an outcome, for so long at most."""
        end = monotonic() + seconds
        while self.outcome is None and (left := end - monotonic()) > 0:
            self._over.wait(min(left, _LOOK))
        if self.outcome is not None:
            self._over.wake()  # the next one that waits

    def result(self) -> Records:
        """The records; `OSError`, or `TimeoutError` while there is no outcome."""
        if self.outcome is None:
            raise TimeoutError
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self.outcome


class Resolver:
    """Asks the system's resolver in a thread, one at a time for each name; who asks waits no longer than its time.

    Where the resolver does not answer, or says that it cannot now, the records that it gave last are used; a
    name that it says does not exist is an error. So it is where no thread can be started to ask it, or where it
    lacks descriptors or memory: the next caller asks again. Safe for threads; guarded by `_lock`.
    """

    def __init__(self) -> None:
        self.reset()

    def __repr__(self) -> str:
        return f"<Resolver {len(self._known)} names known, {len(self._asked)} asked for>"

    def reset(self) -> None:
        """Forget what is under way: after a fork its threads are not here."""
        self._lock = new_lock()
        self._asked: dict[Address, _Lookup] = {}
        self._known: dict[Address, Records] = {}

    def records(self, address: Address, limit: float) -> Records:
        """All address records, by the moment `limit`. `OSError` (`TimeoutError` without an answer)."""
        asked = self._ask(address)
        asked.wait(self._patience(address, limit))  # outside the `try`: a signal handler may raise TimeoutError
        try:
            return asked.result()
        except OSError as error:
            return self._instead(address, error)

    async def arecords(self, address: Address, limit: float) -> Records:
        """The same for a task."""
        asked = self._ask(address)
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def callback() -> None:
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(over.set)

        asked.then(callback)
        try:
            async with asyncio.timeout(self._patience(address, limit)):
                await over.wait()
            return asked.result()
        except OSError as error:
            return self._instead(address, error)

    def _patience(self, address: Address, limit: float) -> float:
        """Who knows an earlier answer keeps time for the connection."""
        left = max(limit - monotonic(), 0.0)
        return left / 2 if address in self._known else left

    def _instead(self, address: Address, error: OSError) -> Records:
        if isinstance(error, socket.gaierror) and error.errno not in _NOT_NOW:
            raise error
        with self._lock:
            known = self._known.get(address)
        if known is None:
            raise error
        return known

    def _ask(self, address: Address) -> _Lookup:
        with self._lock:
            asked = self._asked.get(address)
            if asked is not None and not asked.lost():
                return asked
            asked = _Lookup()
            asked.thread = threading.Thread(
                target=self._answer, args=(address, asked), name="evercache-names", daemon=True
            )
            try:
                asked.thread.start()
            except (RuntimeError, MemoryError) as error:
                asked.end(socket.gaierror(socket.EAI_AGAIN, f"{address.host}: {error!r}"))
            else:
                self._asked[address] = asked
            return asked

    def _answer(self, address: Address, asked: _Lookup) -> None:
        outcome: Records | OSError
        try:
            outcome = look_up(address)
            with self._lock:
                self._known[address] = outcome
        except OSError as error:
            outcome = error
        except BaseException as error:
            outcome = socket.gaierror(socket.EAI_AGAIN, f"{address.host}: {error!r}")
        with self._lock:
            if self._asked.get(address) is asked:
                del self._asked[address]
        asked.end(outcome)


#: One for the process: a name is asked for once, however many caches connect.
resolver: Final = Resolver()
on_fork(resolver.reset)
