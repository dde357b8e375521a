"""The blocking wire: pooled sockets to one server, for threads (and greenlets: it starts no thread)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from math import inf
from threading import Condition, Lock
from time import monotonic
from typing import Any

from evercache.errors import (
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    PoolExhausted,
    ProtocolError,
    ServerChanged,
    ServerError,
    UnavailableError,
)
from evercache.wire.greeting import greet
from evercache.wire.resp import PENDING, Decoder, encode
from evercache.wire.sockets import (
    RECEIVE_BYTES,
    check_options,
    input_check,
    known_records,
    look_up,
    new_socket,
    tls_context,
    why,
)
from evercache.wire.types import Address, Command, ConnectionOptions, Expectation, Greeting, Reply

__all__ = ["BlockingEndpoint", "BlockingWire"]


class BlockingWire:
    """Makes blocking endpoints (`evercache.wire.types.SyncWire`). Holds nothing."""

    def endpoint(self, address: Address, options: ConnectionOptions) -> BlockingEndpoint:
        """An endpoint; connects at its first use. `ConfigurationError` for options that cannot work."""
        return BlockingEndpoint(address, options)

    def __repr__(self) -> str:
        return "<BlockingWire>"


class _Connection:
    """One greeted socket. No lock: the pool lends it to one thread at a time."""

    __slots__ = ("address", "check", "decoder", "epoch", "greeting", "patience", "sock")

    greeting: Greeting

    def __init__(self, address: Address, sock: socket.socket, epoch: int) -> None:
        self.address = address
        self.sock = sock
        self.patience = inf  # the time-out that the socket has, in seconds
        self.check = input_check(sock)
        self.decoder = Decoder()
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"<_Connection {self.address} fd={self.sock.fileno()}>"

    def request(self, data: bytes, count: int, deadline: float) -> list[Any]:
        """Send, and read `count` replies. After any exception the connection must be closed."""
        sent = 0
        try:
            while sent < len(data):
                self._allow(deadline)
                sent += self.sock.send(memoryview(data)[sent:] if sent else data)
            replies: list[Any] = []
            pop, feed, recv = self.decoder.pop, self.decoder.feed, self.sock.recv
            while True:
                self._allow(deadline)
                received = recv(RECEIVE_BYTES)
                if not received:
                    raise ConnectionFailed(f"{self.address} closed the connection", maybe_run=True)
                feed(received)
                while (reply := pop()) is not PENDING:
                    replies.append(reply)
                    if len(replies) == count:
                        if not self.decoder.is_empty() and (pop() is not PENDING or not self.decoder.is_empty()):
                            raise ProtocolError(f"{self.address} sent more replies than were asked for")
                        return replies
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.address} did not answer before the deadline", maybe_run=sent > 0
            ) from None
        except OSError as error:  # also ssl.SSLError
            raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=sent > 0) from error

    def _allow(self, deadline: float) -> None:
        """Bound the next system call by the time left; a peer that drips gains nothing."""
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        if abs(left - self.patience) > 0.001:  # a system call, which calls of equal budgets need not repeat
            self.sock.settimeout(left)
            self.patience = left

    def close(self) -> None:
        """Close the file descriptor; nothing is said to the peer (so it is right after a fork, too)."""
        self.sock.close()


class BlockingEndpoint:
    """One server with a pool of connections, the most recently used first (`wire.types.SyncEndpoint`).

    `_lock` guards the counters and lists; it is held for a few instructions, never during I/O.
    """

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        check_options(address, options)
        self.address = address
        self.options = options
        self._epoch = 0
        self._reset()

    def _reset(self) -> None:
        self._lock = Lock()
        self._returned = Condition(self._lock)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._places = 0  # connections that exist or are being made
        self._calls = 0

    def __repr__(self) -> str:
        idle = len(self._idle)
        return f"<Endpoint {self.address} idle={idle} in_use={self._places - idle}>"

    @property
    def outstanding(self) -> int:
        """Calls under way now, those that wait for a connection included."""
        return self._calls

    def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `evercache.wire.types.SyncEndpoint.execute`."""
        if not commands:
            return []
        data = encode(commands)
        if deadline <= monotonic():
            raise DeadlineExceeded(f"the deadline had passed before {self.address} was asked")
        connection = self._take(deadline)
        try:
            while True:
                fresh = connection is None
                if connection is None:
                    connection = self._connect(deadline)
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
                    replies = connection.request(data, len(commands), deadline)
                except ConnectionFailed as error:
                    # Refused by the kernel before a single byte left: an old connection is replaced.
                    if fresh or error.maybe_run:
                        raise
                    connection = self._replace(connection)
                    continue
                break
        except BaseException:
            self._give(connection, broken=True)
            raise
        self._give(connection, broken=connection.epoch != self._epoch)
        return replies

    def disconnect(self) -> None:
        """Close the idle connections now, those in use when they come back; the endpoint stays usable."""
        with self._lock:
            self._epoch += 1
            idle, self._idle = self._idle, []
            self._places -= len(idle)
            self._all.difference_update(idle)
            self._returned.notify_all()
        for connection in idle:
            connection.close()

    def forget(self) -> None:
        """After a fork, in the child: close the descriptors, say nothing to the server, start anew.

        The parent's threads do not exist here, so the old lock, which one of them may have held, is dropped.
        """
        connections = list(self._all)
        self._epoch += 1
        self._reset()
        for connection in connections:
            connection.close()

    def _take(self, deadline: float) -> _Connection | None:
        """An idle connection, or the right to make one (None). Waits until the deadline."""
        with self._lock:
            self._calls += 1
            try:
                while True:
                    if self._idle:
                        return self._idle.pop()
                    if self._places < self.options.max_connections:
                        self._places += 1
                        return None
                    left = deadline - monotonic()
                    if left <= 0:
                        raise PoolExhausted(
                            f"all {self._places} connections to {self.address} were in use until the "
                            "deadline: raise max_connections in the URL"
                        )
                    self._returned.wait(left)
            except BaseException:
                self._calls -= 1
                # A wake-up that came together with the exception belongs to somebody else.
                self._returned.notify()
                raise

    def _give(self, connection: _Connection | None, *, broken: bool) -> None:
        with self._lock:
            self._calls -= 1
            if connection is None or broken:
                self._places -= 1
                if connection is not None:
                    self._all.discard(connection)
            else:
                self._idle.append(connection)
            self._returned.notify()
        if connection is not None and broken:
            connection.close()

    def _discard(self, connection: _Connection) -> None:
        """Close it and keep its place."""
        with self._lock:
            self._all.discard(connection)
        connection.close()

    def _replace(self, connection: _Connection) -> _Connection | None:
        """Swap a stale connection for the next idle one, or for the right to make one."""
        self._discard(connection)
        with self._lock:
            if not self._idle:
                return None
            self._places -= 1
            self._returned.notify()
            return self._idle.pop()

    def _connect(self, deadline: float) -> _Connection:
        """A greeted connection, within the deadline and `connect_timeout`."""
        now = monotonic()
        if deadline <= now:
            raise DeadlineExceeded(f"no time was left to connect to {self.address}")
        limit = min(deadline, now + self.options.connect_timeout)
        connection: _Connection | None = None
        epoch = self._epoch
        try:
            connection = _Connection(self.address, open_socket(self.address, self.options, limit), epoch)
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
            elif isinstance(error, OSError):
                raise ConnectionFailed(f"{self.address}: {why(error)}") from error
            raise
        return connection

    def _greet(self, connection: _Connection, limit: float) -> None:
        greeter = greet(self.options)
        commands = next(greeter)
        try:
            while True:
                replies = connection.request(encode(commands), len(commands), limit)
                commands = greeter.send((replies, monotonic()))
        except StopIteration as end:
            connection.greeting = end.value


def open_socket(address: Address, options: ConnectionOptions, limit: float) -> socket.socket:
    """A connected socket, TLS done. All address records are tried, each with its share of the time left.

    The look-up of a name blocks as long as the system's resolver does. `OSError` or `TimeoutError`.
    """
    records = known_records(address) or look_up(address)
    for index, (family, where) in enumerate(records):
        left = limit - monotonic()
        if left <= 0:
            raise TimeoutError
        sock = None
        try:
            sock = new_socket(family)
            sock.settimeout(left / (len(records) - index))
            sock.connect(where)
            if options.tls is None:
                return sock
            sock.settimeout(max(limit - monotonic(), 0.001))
            return _wrap(sock, address, options)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if index + 1 == len(records) or not isinstance(error, OSError):
                raise
    raise ConnectionFailed(f"{address.host} has no address record")


def _wrap(sock: socket.socket, address: Address, options: ConnectionOptions) -> ssl.SSLSocket:
    assert options.tls is not None
    try:
        context = tls_context(options.tls)
    except ConfigurationError as error:  # it was right when the endpoint was made: rotated just now, or lost
        raise ConnectionFailed(str(error)) from error
    return context.wrap_socket(sock, server_hostname=address.host)
