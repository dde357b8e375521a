"""The blocking wire: pooled sockets to one server, for threads (and greenlets: it starts no thread)."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, TypeAlias
from weakref import ref

from evercache.clock import monotonic
from evercache.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    PoolExhausted,
    ServerChanged,
    ServerError,
    UnavailableError,
)
from evercache.net.backoff import Backoff
from evercache.net.connection import LATE, Connection, open_socket
from evercache.net.greeting import greet
from evercache.net.mismatch import find_mismatch
from evercache.net.places import Place, Places, collect_dropped, taken
from evercache.net.resp import encode, encode_get
from evercache.net.sockets import check_options, from_handler, why
from evercache.net.types import HASTE, ConnectionOptions, Expectation, Over, Overdue
from evercache.process import THREADS, Wakeup, new_lock
from evercache.protocol.types import Address, Command, Reply

__all__ = ["BlockingEndpoint", "BlockingExchange", "BlockingWire"]

#: Seconds after which an idle connection is looked at before it is used.
_QUIET = 0.005
#: Seconds after which a caller that waits for a connection looks again. The place of a caller that a signal handler
#: interrupted becomes free without a word, and a wake-up may be lost in the same way.
_LOOK: Final = 0.05
#: No connection was fit to be asked.
_UNASKED: Final = object()
#: Connects to a server before a moment, as `open_socket` does.
Dial: TypeAlias = Callable[[Address, ConnectionOptions, float], socket.socket]


class BlockingWire:
    """Makes blocking endpoints (`evercache.net.types.SyncWire`). Holds nothing."""

    def endpoint(self, address: Address, options: ConnectionOptions) -> BlockingEndpoint:
        """An endpoint; connects at its first use. `ConfigurationError` for options that cannot work."""
        return BlockingEndpoint(address, options)

    def __repr__(self) -> str:
        return "<BlockingWire>"


class BlockingExchange:
    """Commands that were sent on a connection and not answered yet (`wire.types.SyncExchange`).

    No lock: one thread has it at a time, whoever began it or, once abandoned, the one that took it from the
    endpoint's list. It has its connection until it is over: whoever drops it drops that.
    """

    __slots__ = ("_address", "_connection", "_count", "_deadline", "_endpoint", "_outcome", "_over")

    def __init__(self, endpoint: BlockingEndpoint, connection: Connection, count: int, deadline: float) -> None:
        self._endpoint, self._count, self._deadline = endpoint, count, deadline
        self._address = connection.address
        self._connection: Connection | None = connection
        self._outcome: list[Any] | UnavailableError | None = None
        self._over: Over | None = None

    def __repr__(self) -> str:
        return f"<BlockingExchange {self._address} {'over' if self._outcome is not None else 'waits'}>"

    def fileno(self) -> int:
        """See `SyncExchange.fileno`."""
        return -1 if self._connection is None else self._connection.sock.fileno()

    def settle(self) -> bool:
        """See `SyncExchange.settle`."""
        if self._outcome is not None:
            return True
        connection = self._connection
        if connection is None:  # it was interrupted while it ended
            self._outcome = self._interrupted()
            return True
        try:
            if connection.settle(self._count):
                outcome = connection.replies
            elif monotonic() >= self._deadline:
                raise DeadlineExceeded(f"{self._address} did not answer before the deadline", maybe_run=True)
            else:
                return False
        except UnavailableError as error:
            # Its traceback would refer to this frame, and that to the exchange: a cycle that keeps the connection.
            self._end(error.with_traceback(None))
        except MemoryError as error:
            self._end(ConnectionFailed(f"{self._address}: {why(error)}", maybe_run=True))
        except BaseException:
            self._end(self._interrupted())
            raise
        else:
            # Outside the `try`: from the next instructions on, the connection may belong to another caller.
            self._outcome, self._connection = outcome, None
            self._endpoint.give(connection)
        return True

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
        """Close it before its time, which says nothing about the server."""
        self._end([])
        self._tell()

    def _end(self, outcome: list[Any] | UnavailableError) -> None:
        """It is over, and its connection is closed."""
        connection = self._connection
        self._outcome, self._connection = outcome, None
        if connection is not None:
            self._endpoint.drop(connection)

    def _interrupted(self) -> UnavailableError:
        return ConnectionFailed(f"{self._address}: interrupted", maybe_run=True)

    def _tell(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(self._outcome if isinstance(self._outcome, UnavailableError) else None)


class BlockingEndpoint:
    """One server with a pool of connections, the most recently used first (`wire.types.SyncEndpoint`).

    A signal handler may raise in a caller after any instruction, also in a `finally`. So nothing of the pool is
    counted up and down: a connection, or the right to make one, holds a `Place`, and one that is dropped frees it.
    A connection comes back to `_idle` by the line after its reply was read completely, and in no other way.

    `_lock` guards the granting of places, the list of those left, that of all and the back-off; it is held for a
    few instructions, never during I/O. An idle connection is taken and given back without it, by one call of its
    list.
    """

    def __init__(self, address: Address, options: ConnectionOptions, dial: Dial = open_socket) -> None:
        check_options(address, options)
        self._dial = dial
        self.address = address
        self.options = options
        self._epoch = 0
        #: Whether a connection to it was ever made.
        self._met = False
        self._reset()

    def _reset(self) -> None:
        self._lock = new_lock()
        self._idle: list[Connection] = []
        self._all: list[ref[Connection]] = []  # for forks; those that are gone leave when another is made
        self._left: list[BlockingExchange] = []  # abandoned, their answers still to come; the oldest first
        self._places = Places()  # of connections that exist or are being made
        self._waiting = Places()  # of callers that wait for one
        self._returned = Wakeup()  # one of those who wait may look again
        self._backoff = Backoff(random.random)

    def __repr__(self) -> str:
        idle = len(self._idle)
        return f"<Endpoint {self.address} idle={idle} in_use={len(self._places) - idle}>"

    @property
    def outstanding(self) -> int:
        """Calls under way now, those that wait for a connection included."""
        return taken(self._places) - len(self._idle) + taken(self._waiting)

    def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `evercache.net.types.SyncEndpoint.execute`."""
        replies = self.begin(commands, deadline, expect)
        assert isinstance(replies, list)
        return replies

    def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float = inf
    ) -> Reply | ServerError | BlockingExchange:
        """See `evercache.net.types.SyncEndpoint.get`."""
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
        except (ConnectionFailed, OSError, MemoryError) as error:
            # It was closed meanwhile, or could not be looked at; a question may be asked again.
            self.drop(connection)
            if from_handler(error):
                raise
            return self._get(command, now + patience, expect, now + late)
        except BaseException:
            self.drop(connection)
            raise
        if reply is LATE:
            return BlockingExchange(self, connection, 1, now + patience)
        if reply is _UNASKED:
            self.give(connection)
            return self._get(command, now + patience, expect, now + late)
        if connection.epoch == self._epoch:
            idle.append(connection)
            if taken(self._waiting):
                self._returned.wake()
        else:
            self.drop(connection)
        answer: Reply | ServerError = reply
        return answer

    def _get(
        self, command: bytes, deadline: float, expect: Expectation, until: float
    ) -> Reply | ServerError | BlockingExchange:
        answer = self._begin(command, 1, deadline, expect, until)
        return answer if isinstance(answer, BlockingExchange) else answer[0]

    def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None, until: float = inf
    ) -> list[Reply | ServerError] | BlockingExchange:
        """See `evercache.net.types.SyncEndpoint.begin`."""
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
        place, connection = self._take(ready)
        try:
            while True:
                fresh = connection is None
                if connection is None:
                    connection = self._connect(ready, place)
                elif connection.epoch != self._epoch or connection.check(0):
                    place, connection = self._replace(connection)
                    continue
                if expect is not None and not expect(connection.greeting):
                    place = connection.give_up()
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
                    place, connection = self._replace(connection)
                    continue
                break
        except BaseException as error:
            if connection is not None:
                connection.close()
            place.release()
            self._wake()
            # An idle one could not be looked at.
            if isinstance(error, (OSError, MemoryError)) and not from_handler(error):
                raise ConnectionFailed(f"{self.address}: {why(error)}") from error
            raise
        if replies is None:
            return BlockingExchange(self, connection, count, deadline)
        self.give(connection)
        return replies

    def disconnect(self) -> None:
        """Close the idle connections now, and those whose answers nobody waits for; those in use when they come
        back. The endpoint stays usable."""
        with self._lock:
            self._epoch += 1
            self._backoff.clear()
            left, self._left = self._left, []
        with contextlib.suppress(IndexError):
            while True:  # the list stays the same: who has taken from it without the lock gives back to it
                self.drop(self._idle.pop())
        for exchange in left:
            exchange.cut()

    def forget(self) -> None:
        """After a fork, in the child: close the descriptors, say nothing to the server, start anew.

        The parent's threads do not exist here, so the old lock, which one of them may have held, is dropped.
        """
        connections = [connection for made in self._all if (connection := made()) is not None]
        self._epoch += 1
        self._reset()
        for connection in connections:
            connection.close()

    def leave(self, exchange: BlockingExchange) -> None:
        """An exchange was abandoned: its connection comes back when the answer has."""
        with self._lock:
            self._left.append(exchange)
        self._wake()

    def sweep(self) -> None:
        """See `evercache.net.types.SyncEndpoint.sweep`."""
        if not self._left:
            return
        with self._lock:
            mine, self._left = self._left, []
        mine = [exchange for exchange in mine if not exchange.sweep()]
        with self._lock:
            self._left = mine + self._left

    def give(self, connection: Connection) -> None:
        """Its reply was read completely: the connection is idle again, unless it is older than `disconnect`."""
        if connection.epoch != self._epoch:
            self.drop(connection)
            return
        self._idle.append(connection)
        self._wake()

    def drop(self, connection: Connection) -> None:
        """Close a connection; its place is free."""
        connection.close()
        self._wake()

    def _wake(self) -> None:
        """Have one of those who wait for a connection look again."""
        if taken(self._waiting):
            self._returned.wake()

    def _take(self, deadline: float) -> tuple[Place, Connection | None]:
        """An idle connection with its place, or a place for a new one. Waits until the deadline."""
        waiter: Place | None = None
        try:
            while True:
                with contextlib.suppress(IndexError):
                    connection = self._idle.pop()
                    return connection.place, connection
                oldest = None
                with self._lock:
                    if taken(self._places) < self.options.max_connections:
                        return Place(self._places), None
                    if self._left:  # an answer that nobody waits for keeps no caller waiting
                        oldest = self._left.pop(0)
                if oldest is not None:
                    oldest.cut()
                elif waiter is None:
                    waiter = Place(self._waiting)  # and a last look: who gives one back from now on says so
                else:
                    self._await_one(deadline)
        finally:
            if waiter is not None:
                waiter.release()
                if self._idle:
                    self._wake()  # two wake-ups in a row count as one

    def _await_one(self, deadline: float) -> None:
        left = deadline - monotonic()
        if left <= 0:
            raise PoolExhausted(
                f"all {self.options.max_connections} connections to {self.address} were in use until the "
                "deadline: raise max_connections in the URL"
            )
        if not self._returned.wait(min(left, _LOOK)):
            collect_dropped()

    def _replace(self, connection: Connection) -> tuple[Place, Connection | None]:
        """Swap a stale connection for the next idle one, or keep its place for a new one."""
        place = connection.give_up()
        try:
            other = self._idle.pop()
        except IndexError:
            return place, None
        place.release()
        self._wake()
        return other.place, other

    def _connect(self, deadline: float, place: Place) -> Connection:
        """A greeted connection, within the deadline and `connect_timeout`."""
        now = monotonic()
        if deadline <= now:
            raise DeadlineExceeded(f"no time was left to connect to {self.address}")
        with self._lock:
            pause = self._backoff.check(now, deadline)
        if pause:
            THREADS.sleep(pause)
            return self._connect(deadline, place)
        try:
            connection = self._open(now, deadline, place)
        except UnavailableError as error:
            if not isinstance(error, DeadlineExceeded):  # a caller in a hurry learns nothing about the server
                with self._lock:
                    self._backoff.failed(error, monotonic())
            raise
        with self._lock:
            self._backoff.clear()
        self._met = True
        return connection

    def _open(self, now: float, deadline: float, place: Place) -> Connection:
        limit = min(deadline, now + self.options.connect_timeout)
        connection: Connection | None = None
        epoch = self._epoch
        try:
            connection = Connection(self.address, self._dial(self.address, self.options, limit), epoch, place)
            with self._lock:
                self._all = [made for made in self._all if made() is not None] + [ref(connection)]
            self._greet(connection, limit)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if from_handler(error):
                raise
            if not self._met and isinstance(error, (OSError, ConnectionFailed, DeadlineExceeded)):
                words = find_mismatch(self.address, self.options, error, deadline)
                if words:
                    raise ConnectionFailed(f"{self.address}: {words}") from error
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
