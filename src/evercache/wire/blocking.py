"""The blocking wire: pooled sockets to one server, for threads (and greenlets: it starts no thread)."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from math import inf
from threading import Condition
from typing import Any, Final

from evercache.clock import monotonic
from evercache.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    PoolExhausted,
    ServerChanged,
    ServerError,
    UnavailableError,
)
from evercache.process import new_lock
from evercache.wire.backoff import Backoff
from evercache.wire.connection import LATE, Connection, open_socket
from evercache.wire.greeting import greet
from evercache.wire.resp import encode, encode_get
from evercache.wire.sockets import check_options, why
from evercache.wire.types import HASTE, Address, Command, ConnectionOptions, Expectation, Over, Overdue, Reply

__all__ = ["BlockingEndpoint", "BlockingExchange", "BlockingWire"]

#: Seconds after which an idle connection is looked at before it is used.
_QUIET = 0.005
#: No connection was fit to be asked.
_UNASKED: Final = object()


class BlockingWire:
    """Makes blocking endpoints (`evercache.wire.types.SyncWire`). Holds nothing."""

    def endpoint(self, address: Address, options: ConnectionOptions) -> BlockingEndpoint:
        """An endpoint; connects at its first use. `ConfigurationError` for options that cannot work."""
        return BlockingEndpoint(address, options)

    def __repr__(self) -> str:
        return "<BlockingWire>"


class BlockingExchange:
    """Commands that were sent on a connection and not answered yet (`wire.types.SyncExchange`).

    No lock: one thread has it at a time, whoever began it or, once abandoned, the one that took it from the
    endpoint's list.
    """

    __slots__ = ("_connection", "_count", "_deadline", "_endpoint", "_outcome", "_over")

    def __init__(self, endpoint: BlockingEndpoint, connection: Connection, count: int, deadline: float) -> None:
        self._endpoint, self._connection, self._count, self._deadline = endpoint, connection, count, deadline
        self._outcome: list[Any] | UnavailableError | None = None
        self._over: Over | None = None

    def __repr__(self) -> str:
        return f"<BlockingExchange {self._connection!r} {'over' if self._outcome is not None else 'waits'}>"

    def fileno(self) -> int:
        """See `SyncExchange.fileno`."""
        return self._connection.sock.fileno()

    def settle(self) -> bool:
        """See `SyncExchange.settle`."""
        if self._outcome is not None:
            return True
        connection = self._connection
        try:
            if connection.settle(self._count):
                self._end(connection.replies)
            elif monotonic() >= self._deadline:
                raise DeadlineExceeded(f"{connection.address} did not answer before the deadline", maybe_run=True)
        except UnavailableError as error:
            self._end(error)
        except MemoryError as error:
            self._end(ConnectionFailed(f"{connection.address}: {why(error)}", maybe_run=True))
        except BaseException as error:
            self._end(ConnectionFailed(f"{connection.address}: interrupted", maybe_run=True))
            raise error
        return self._outcome is not None

    def result(self) -> list[Any]:
        """See `SyncExchange.result`."""
        assert self._outcome is not None
        if isinstance(self._outcome, list):
            return self._outcome
        raise self._outcome

    def abandon(self, over: Over) -> None:
        """See `SyncExchange.abandon`: it is left to drain, and looked at by `BlockingEndpoint.sweep`."""
        self._over = over
        if self._outcome is not None or self.settle():
            self._tell()
        else:
            self._endpoint.leave(self)

    def sweep(self) -> bool:
        """Look at it again after it was abandoned; True when it is over."""
        if self.settle():
            self._tell()
            return True
        return False

    def cut(self) -> None:
        """Close it before its time, which says nothing about the server; its place is the endpoint's matter."""
        self._endpoint.cut(self._connection)
        self._outcome = []
        self._tell()

    def _end(self, outcome: list[Any] | UnavailableError) -> None:
        self._outcome = outcome
        self._endpoint.give(self._connection, broken=not isinstance(outcome, list))

    def _tell(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(self._outcome if isinstance(self._outcome, UnavailableError) else None)


class BlockingEndpoint:
    """One server with a pool of connections, the most recently used first (`wire.types.SyncEndpoint`).

    `_lock` guards the counters, the list of those left and the back-off; it is held for a few instructions, never
    during I/O. An idle connection is taken and given back without it, by one call of its list: who waits says so
    in `_waiting` before a last look.
    """

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        check_options(address, options)
        self.address = address
        self.options = options
        self._epoch = 0
        self._reset()

    def _reset(self) -> None:
        self._lock = new_lock()
        self._returned = Condition(self._lock)  # type: ignore[arg-type]
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._left: list[BlockingExchange] = []  # abandoned, their answers still to come; the oldest first
        self._places = 0  # connections that exist or are being made
        self._waiting = 0  # callers that wait for one
        self._backoff = Backoff(random.random)

    def __repr__(self) -> str:
        idle = len(self._idle)
        return f"<Endpoint {self.address} idle={idle} in_use={self._places - idle}>"

    @property
    def outstanding(self) -> int:
        """Calls under way now, those that wait for a connection included: no counter, so that none can drift."""
        return self._places - len(self._idle) + self._waiting

    def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `evercache.wire.types.SyncEndpoint.execute`."""
        replies = self.begin(commands, deadline, expect)
        assert isinstance(replies, list)
        return replies

    def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float = inf
    ) -> Reply | ServerError | BlockingExchange:
        """See `evercache.wire.types.SyncEndpoint.get`."""
        command = encode_get(key)
        idle = self._idle
        try:
            connection = idle.pop()
        except IndexError:
            return self._get(command, now + patience, expect, now + late)
        reply: Any = _UNASKED
        try:
            # One that was used just now is not looked at: if it was closed since, the question is asked again.
            if (
                (now - connection.used <= _QUIET or not connection.check(0))
                and connection.epoch == self._epoch
                and (connection.met is expect or connection.meets(expect))
            ):
                reply = connection.ask(command, now, patience, late)
        except BaseException as error:
            self.give(connection, broken=True)
            # It was closed meanwhile, or could not be looked at; a question may be asked again.
            if isinstance(error, (ConnectionFailed, OSError, MemoryError)):
                return self._get(command, now + patience, expect, now + late)
            raise
        if reply is LATE:
            return BlockingExchange(self, connection, 1, now + patience)
        if reply is _UNASKED:
            self.give(connection, broken=False)
            return self._get(command, now + patience, expect, now + late)
        if connection.epoch == self._epoch:
            idle.append(connection)
            if self._waiting:
                self._notify()
        else:
            self.give(connection, broken=False)
        answer: Reply | ServerError = reply
        return answer

    def _get(
        self, command: bytes, deadline: float, expect: Expectation, until: float
    ) -> Reply | ServerError | BlockingExchange:
        answer = self._begin(command, 1, deadline, expect, until)
        return answer if isinstance(answer, BlockingExchange) else answer[0]

    def _notify(self) -> None:
        with self._lock:
            self._returned.notify()

    def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None, until: float = inf
    ) -> list[Reply | ServerError] | BlockingExchange:
        """See `evercache.wire.types.SyncEndpoint.begin`."""
        if not commands:
            return []
        return self._begin(encode(commands), len(commands), deadline, expect, until)

    def _begin(
        self, data: bytes, count: int, deadline: float, expect: Expectation | None, until: float
    ) -> list[Reply | ServerError] | BlockingExchange:
        now = monotonic()
        if deadline <= now:
            raise DeadlineExceeded(f"the deadline had passed before {self.address} was asked")
        ready = deadline if until > now else min(deadline, now + HASTE)
        if self._left and until < deadline and not self._idle:
            self.sweep()
            if self._left and not self._idle:
                raise Overdue(f"{self.address} owes answers: no more is asked of it now")
        connection = self._take(ready)
        try:
            while True:
                fresh = connection is None
                if connection is None:
                    connection = self._connect(ready)
                elif connection.epoch != self._epoch or connection.check(0):
                    connection = self._replace(connection)
                    continue
                if expect is not None and not expect(connection.greeting):
                    self._discard(connection)
                    if fresh:
                        raise ServerChanged(f"{self.address} is not the server that was verified")
                    connection = None
                    continue
                try:
                    replies = connection.request(data, count, deadline, until)
                except ConnectionFailed as error:
                    # Refused by the kernel before a single byte left: an old connection is replaced.
                    if fresh or error.maybe_run:
                        raise
                    connection = self._replace(connection)
                    continue
                break
        except BaseException as error:
            self.give(connection, broken=True)
            if isinstance(error, (OSError, MemoryError)):  # an idle one could not be looked at
                raise ConnectionFailed(f"{self.address}: {why(error)}") from error
            raise
        if replies is None:
            return BlockingExchange(self, connection, count, deadline)
        self.give(connection, broken=False)
        return replies

    def disconnect(self) -> None:
        """Close the idle connections now, and those whose answers nobody waits for; those in use when they come
        back. The endpoint stays usable."""
        with self._lock:
            self._epoch += 1
            self._backoff.clear()
            idle = []
            while self._idle:  # the list stays the same: who has taken from it without the lock gives back to it
                with contextlib.suppress(IndexError):
                    idle.append(self._idle.pop())
            left, self._left = self._left, []
            self._places -= len(idle) + len(left)
            self._all.difference_update(idle)
            self._returned.notify_all()
        for connection in idle:
            connection.close()
        for exchange in left:
            exchange.cut()

    def forget(self) -> None:
        """After a fork, in the child: close the descriptors, say nothing to the server, start anew.

        The parent's threads do not exist here, so the old lock, which one of them may have held, is dropped.
        """
        connections = list(self._all)
        self._epoch += 1
        self._reset()
        for connection in connections:
            connection.close()

    def leave(self, exchange: BlockingExchange) -> None:
        """An exchange was abandoned: its connection comes back when the answer has."""
        with self._lock:
            self._left.append(exchange)
            self._returned.notify()

    def sweep(self) -> None:
        """See `evercache.wire.types.SyncEndpoint.sweep`."""
        if not self._left:
            return
        with self._lock:
            mine, self._left = self._left, []
        mine = [exchange for exchange in mine if not exchange.sweep()]
        with self._lock:
            self._left = mine + self._left

    def cut(self, connection: Connection) -> None:
        """Close a connection in use; its place is the caller's matter."""
        self._discard(connection)

    def _take(self, deadline: float) -> Connection | None:
        """An idle connection, or the right to make one (None). Waits until the deadline."""
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._lock:
            self._waiting += 1
            try:
                while True:
                    with contextlib.suppress(IndexError):
                        return self._idle.pop()
                    if self._places < self.options.max_connections:
                        self._places += 1
                        return None
                    if self._left:  # an answer that nobody waits for keeps no caller waiting
                        oldest = self._left.pop(0)
                        break
                    left = deadline - monotonic()
                    if left <= 0:
                        raise PoolExhausted(
                            f"all {self._places} connections to {self.address} were in use until the "
                            "deadline: raise max_connections in the URL"
                        )
                    self._returned.wait(left)
            except BaseException:
                # A wake-up that came together with the exception belongs to somebody else.
                self._returned.notify()
                raise
            finally:
                self._waiting -= 1
        oldest.cut()
        return None

    def give(self, connection: Connection | None, *, broken: bool) -> None:
        """A call is over: the connection is idle again, or closed when it is broken or older than `disconnect`."""
        if connection is not None and connection.epoch != self._epoch:
            broken = True
        if connection is not None and not broken:
            self._idle.append(connection)
            if self._waiting:
                self._notify()
            return
        with self._lock:
            self._places -= 1
            if connection is not None:
                self._all.discard(connection)
            self._returned.notify()
        if connection is not None:
            connection.close()

    def _discard(self, connection: Connection) -> None:
        """Close it and keep its place."""
        with self._lock:
            self._all.discard(connection)
        connection.close()

    def _replace(self, connection: Connection) -> Connection | None:
        """Swap a stale connection for the next idle one, or for the right to make one."""
        self._discard(connection)
        try:
            other = self._idle.pop()
        except IndexError:
            return None
        with self._lock:
            self._places -= 1
            self._returned.notify()
        return other

    def _connect(self, deadline: float) -> Connection:
        """A greeted connection, within the deadline and `connect_timeout`."""
        now = monotonic()
        if deadline <= now:
            raise DeadlineExceeded(f"no time was left to connect to {self.address}")
        with self._lock:
            pause = self._backoff.check(now, deadline)
        if pause:
            time.sleep(pause)
            return self._connect(deadline)
        try:
            connection = self._open(now, deadline)
        except UnavailableError as error:
            if not isinstance(error, DeadlineExceeded):  # a caller in a hurry learns nothing about the server
                with self._lock:
                    self._backoff.failed(error, monotonic())
            raise
        with self._lock:
            self._backoff.clear()
        return connection

    def _open(self, now: float, deadline: float) -> Connection:
        limit = min(deadline, now + self.options.connect_timeout)
        connection: Connection | None = None
        epoch = self._epoch
        try:
            connection = Connection(self.address, open_socket(self.address, self.options, limit), epoch)
            with self._lock:
                self._all.add(connection)
            self._greet(connection, limit)
        except BaseException as error:
            if connection is not None:
                self._discard(connection)
            if isinstance(error, (TimeoutError, DeadlineExceeded)):
                if limit < deadline:
                    raise ConnectionFailed(
                        f"{self.address} did not answer within connect_timeout={self.options.connect_timeout} s"
                    ) from None
                raise DeadlineExceeded(f"no connection to {self.address} before the deadline") from None
            if isinstance(error, UnavailableError):
                error.maybe_run = False  # only the greeting was sent, never the caller's commands
            elif isinstance(error, (OSError, MemoryError, RuntimeError)):
                raise ConnectionFailed(f"{self.address}: {why(error)}") from error
            raise
        return connection

    def _greet(self, connection: Connection, limit: float) -> None:
        greeter = greet(self.options)
        commands = next(greeter)
        try:
            while True:
                replies = connection.request(encode(commands), len(commands), limit)
                assert replies is not None
                commands = greeter.send((replies, monotonic()))
        except StopIteration as end:
            connection.greeting = end.value
