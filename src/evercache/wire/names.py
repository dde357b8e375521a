"""Host names to addresses, within a time: the system's resolver knows no deadline."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any, Final

from evercache.clock import monotonic
from evercache.process import new_lock, on_fork
from evercache.wire.sockets import look_up
from evercache.wire.types import Address

__all__ = ["Resolver", "resolver"]

Records = list[tuple[int, Any]]

#: What the system's resolver says where it could not ask: nothing about the name.
_NOT_NOW: Final = frozenset({socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM})


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
        self._asked: dict[Address, Future[Records]] = {}
        self._known: dict[Address, Records] = {}

    def records(self, address: Address, limit: float) -> Records:
        """All address records, by the moment `limit`. `OSError` (`TimeoutError` without an answer)."""
        asked = self._ask(address)
        try:
            return asked.result(self._patience(address, limit))
        except OSError as error:
            return self._instead(address, error)

    async def arecords(self, address: Address, limit: float) -> Records:
        """The same for a task."""
        asked = self._ask(address)
        try:
            async with asyncio.timeout(self._patience(address, limit)):
                return await asyncio.shield(asyncio.wrap_future(asked))
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

    def _ask(self, address: Address) -> Future[Records]:
        with self._lock:
            asked = self._asked.get(address)
            if asked is not None:
                return asked
            asked = self._asked[address] = Future()
            asked.set_running_or_notify_cancel()
        try:
            threading.Thread(
                target=self._answer, args=(address, asked), name="evercache-names", daemon=True
            ).start()
        except BaseException as error:
            self._failed(address, asked, error)
            if not isinstance(error, Exception):
                raise
        return asked

    def _answer(self, address: Address, asked: Future[Records]) -> None:
        try:
            records = look_up(address)
            with self._lock:
                self._known[address] = records
                self._forget(address, asked)
            asked.set_result(records)
        except BaseException as error:
            self._failed(address, asked, error)

    def _failed(self, address: Address, asked: Future[Records], error: BaseException) -> None:
        """There is no answer: callers get an `OSError`, and the next one asks again."""
        with self._lock:
            self._forget(address, asked)
        if not asked.done():
            asked.set_exception(error if isinstance(error, OSError) else OSError(f"{address.host}: {error!r}"))

    def _forget(self, address: Address, asked: Future[Records]) -> None:
        """Under the lock."""
        if self._asked.get(address) is asked:
            del self._asked[address]


#: One for the process: a name is asked for once, however many caches connect.
resolver: Final = Resolver()
on_fork(resolver.reset)
