"""One blocking socket to a server: requests and their replies, and how it is opened.

How the time of a call is bounded, so that the deadline holds under any rate of signals:

- An ordinary socket never blocks in `send`; where its buffer is full, a `poll` waits. It is read by one `recv` of
  the system's library, which the kernel bounds (`SO_RCVTIMEO`). If a signal interrupts that, a `poll` waits for
  what is left of the time. The kernel counts in ticks of up to 10 ms, so a `poll` waits from the start where the
  time is short, and also where that function is missing (`sockets.interruptible_receive`).
- TLS, gevent and eventlet need the time-out of Python's socket, which takes account of signals by itself.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from math import ceil, inf, nan
from struct import pack
from typing import Any, Final

from hiredis import PushNotification

from evercache.clock import monotonic
from evercache.errors import ConfigurationError, ConnectionFailed, DeadlineExceeded, ProtocolError
from evercache.net.names import resolver
from evercache.net.places import Place, Places
from evercache.net.resp import NOT_RESP, PENDING, Decoder, not_resp, too_much
from evercache.net.sockets import (
    RECEIVE_BYTES,
    blocks_in_kernel,
    from_handler,
    input_check,
    interruptible_receive,
    known_records,
    new_socket,
    tls_context,
    why,
)
from evercache.net.types import ConnectionOptions, Expectation, Greeting
from evercache.process import THREADS
from evercache.protocol.types import Address

__all__ = ["LATE", "Connection", "open_socket"]

#: What `Connection.ask` gives when the reply is not there in time: `settle` takes it.
LATE: Final = object()
#: Seconds that the kernel's clock does not measure well.
_SHORT: Final = 0.02
#: More seconds than `poll` takes are waited for in several turns.
_LONG: Final = 1e6
#: What surely fits into the buffer of a socket whose peer owes nothing.
_FITS: Final = 16384
_NO_PLACE: Final = Place(Places())
_DONT_WAIT: Final = getattr(socket, "MSG_DONTWAIT", 0)


class _Late(Exception):
    """The time is over. No TimeoutError: signal handlers raise that."""


class Connection:
    """One greeted socket. No lock: the pool lends it to one thread at a time.

    It may be dropped at any moment, by a caller that a signal handler interrupted. Nothing that it holds refers to
    it, so the socket is closed and its place in the pool is free at that moment (`sockets.PlainSocket`, `places`).
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_by_kernel",
        "_feed",
        "_gets",
        "_handle",
        "_has_data",
        "_patience",
        "_polled",
        "_put",
        "_receive",
        "_recv",
        "_send",
        "_slack",
        "_torn",
        "_waits",
        "address",
        "check",
        "decoder",
        "epoch",
        "greeting",
        "met",
        "place",
        "replies",
        "sock",
        "used",
    )

    greeting: Greeting

    def __init__(self, address: Address, sock: socket.socket, epoch: int, place: Place) -> None:
        self.address = address
        self.sock = sock
        self.place = place  # in the pool
        self._send, self._receive = sock.send, sock.recv
        self._torn = False  # `settle` was interrupted: what it had read may be lost
        self._patience = inf  # the time-out that the socket has, in seconds
        self._slack = 0.0  # what another one may differ by
        self._waits = (
            nan  # how long `ask` may wait without a look at these two; the kernel bounds its calls by that
        )
        self._by_kernel = blocks_in_kernel(sock)
        #: Waits below so many seconds are made by `poll`.
        self._polled = inf
        self._recv: Callable[[], int] = int
        self._buffer: Any = None
        self._handle: Any = None
        if self._by_kernel:
            sock.settimeout(None)
            if interruptible_receive is not None:
                self._polled = _SHORT
                self._recv, self._buffer, self._handle = interruptible_receive.prepare(sock.fileno())
        self.replies: list[Any] = []  # of a request that is not answered yet
        self.check = input_check(sock)
        self.used = 0.0  # when it was asked last (monotonic seconds)
        self.met: Expectation | None = None  # the last one that its greeting met
        self.decoder = decoder = Decoder()
        self._feed, self._put = decoder.feed, decoder.put
        self._gets, self._has_data = decoder.gets, decoder.has_data
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"<Connection {self.address} fd={self.sock.fileno()}>"

    def meets(self, expect: Expectation) -> bool:
        """Whether it leads to the process that is meant; the hot path looks at `met` first."""
        if not expect(self.greeting):
            return False
        self.met = expect
        return True

    def request(self, data: bytes, count: int, deadline: float, until: float = inf) -> list[Any] | None:
        """Send, and read `count` replies; None when they are not there at `until`: `settle` takes them then.

        After any exception the connection must be closed.
        """
        sent = 0
        replies: list[Any] = []
        patient = limit = until if until < deadline else deadline
        pop, feed = self.decoder.pop, self.decoder.feed
        while True:
            try:
                while sent < len(data):
                    sent += self._write(memoryview(data)[sent:] if sent else data, limit)
                while True:
                    received = self._read(patient)
                    if not received:
                        raise ConnectionFailed(f"{self.address} closed the connection", maybe_run=True)
                    feed(received)
                    while (reply := pop()) is not PENDING:
                        replies.append(reply)
                        if len(replies) == count:
                            self._check_end()
                            return replies
            except _Late:
                if limit < deadline and sent < len(data):
                    limit = deadline  # half a command is no good to anybody
                    continue
                if patient < deadline:
                    self.replies = replies
                    return None
                raise DeadlineExceeded(
                    f"{self.address} did not answer before the deadline", maybe_run=sent > 0
                ) from None
            except (OSError, MemoryError) as error:  # also ssl.SSLError
                if from_handler(error):
                    raise
                raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=sent > 0) from error

    def ask(self, data: bytes, now: float, patience: float, late: float = inf) -> Any:
        """The reply to a short command, by one system call each way when all goes well; `LATE` after `late` s.

        After any exception the connection must be closed.
        """
        wait = late if late < patience else patience
        if wait != self._waits:
            if not self._by_kernel:
                replies = self.request(data, 1, now + patience, now + late)
                return LATE if replies is None else replies[0]
            if wait >= self._polled:
                if not -self._slack < wait - self._patience < self._slack:
                    self._bound(wait)
                self._waits = wait
        self.used = now
        sent = 0
        try:
            sent = self._send(data)
            if sent < len(data):
                raise OSError(errno.EMSGSIZE, "a short command did not fit into an empty buffer")
            if wait < self._polled:
                received = self._poll_and_read(now + wait, wait)
            else:
                size = self._recv()
                received = self._buffer[:size] if size >= 0 else self._read_on(now + wait)
            string = received.startswith(b"$")
            (self._put if string else self._feed)(received)
            reply = self._gets()
        except _Late:
            if late < patience:
                self.replies = []
                return LATE
            raise DeadlineExceeded(f"{self.address} did not answer before the deadline", maybe_run=True) from None
        except (OSError, MemoryError) as error:
            if from_handler(error):
                raise
            raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=sent > 0) from error
        except NOT_RESP as error:
            raise not_resp(error) from None
        if type(reply) is bytes and not self._has_data():
            return reply
        if string:
            self.decoder.began(received)
        if not received:
            raise ConnectionFailed(f"{self.address} closed the connection", maybe_run=True)
        if type(reply) is PushNotification:  # nobody asked for it
            reply = self.decoder.pop()
        if reply is PENDING:
            if self.decoder.broken:
                raise too_much()
            replies = self.request(b"", 1, now + patience, now + late)
            return LATE if replies is None else replies[0]
        self._check_end()
        return reply

    def settle(self, count: int) -> bool:
        """Go on with a request that was not answered in time, without waiting; True when it is answered.

        After any exception the connection must be closed.
        """
        if self._torn:
            raise ConnectionFailed(f"{self.address}: interrupted while a reply was read", maybe_run=True)
        self._torn = True
        answered = self._settle(count)
        self._torn = False
        return answered

    def _settle(self, count: int) -> bool:
        if not self._by_kernel and self._patience:
            self.sock.settimeout(0.0)
            self._patience = self._slack = 0.0
        try:
            while True:
                received = self._receive(RECEIVE_BYTES, _DONT_WAIT if self._by_kernel else 0)
                if not received:
                    raise ConnectionFailed(f"{self.address} closed the connection", maybe_run=True)
                self.decoder.feed(received)
                while (reply := self.decoder.pop()) is not PENDING:
                    self.replies.append(reply)
                    if len(self.replies) == count:
                        self._check_end()
                        return True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, MemoryError) as error:
            if from_handler(error):
                raise
            raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=True) from error

    def _check_end(self) -> None:
        while not self.decoder.is_empty():
            if type(self.decoder.next()) is not PushNotification:
                raise ProtocolError(f"{self.address} sent more replies than were asked for")

    def _write(self, data: bytes | memoryview, limit: float) -> int:
        """Send what goes into the buffer of the socket, waiting until there is room for some of it.

        A peer that reads slowly gains nothing: the limit is that of the whole request. `_Late`, `OSError`.
        """
        if not self._by_kernel:
            self._bound(self._left(limit))
            try:
                return self._send(data)
            except TimeoutError as error:
                raise (error if error.errno is not None or from_handler(error) else _Late) from None
        if len(data) > _FITS:
            self._left(limit)
        while True:
            try:
                return self._send(data, _DONT_WAIT)
            except BlockingIOError:
                room = THREADS.poll()
                room.register(self.sock, select.POLLOUT)
                room.poll(ceil(min(self._left(limit), _LONG) * 1e3))

    def _read(self, limit: float) -> bytes:
        """What has come, waited for until the limit; empty at the end of the stream. `_Late`, `OSError`."""
        left = self._left(limit)
        if self._by_kernel and left < self._polled:
            return self._poll_and_read(limit, left)
        if not -self._slack <= left - self._patience <= self._slack:
            self._bound(left)
        if not self._by_kernel:
            try:
                return self._receive(RECEIVE_BYTES)
            except BlockingIOError:
                raise _Late from None
            except TimeoutError as error:
                raise (error if error.errno is not None or from_handler(error) else _Late) from None
        size = self._recv()
        received: bytes = self._buffer[:size] if size >= 0 else self._read_on(limit)
        return received

    def _read_on(self, limit: float) -> bytes:
        """After a `recv` that ended without data: by its time-out, by a signal, or by an error."""
        assert interruptible_receive is not None
        number = interruptible_receive.error()
        if number in (errno.EINTR, errno.EAGAIN, errno.EWOULDBLOCK):
            return self._poll_and_read(limit, self._left(limit))
        raise OSError(number, os.strerror(number))

    def _poll_and_read(self, limit: float, left: float) -> bytes:
        while True:
            if not self.check(ceil(min(left, _LONG) * 1e3)):
                if left <= _LONG:
                    raise _Late
            else:
                try:
                    return self._receive(RECEIVE_BYTES, _DONT_WAIT)
                except BlockingIOError:
                    pass  # there was nothing after all
            left = self._left(limit)

    def _left(self, limit: float) -> float:
        """The seconds that are left; `_Late`."""
        left = limit - monotonic()
        if left <= 0:
            raise _Late
        return left

    def _bound(self, seconds: float) -> None:
        """Set the time-out of the socket: a system call, which calls of equal budgets need not repeat."""
        self._waits = nan
        if not self._by_kernel:
            if abs(seconds - self._patience) <= self._slack:
                return
            self.sock.settimeout(seconds)
        else:
            whole = int(seconds) if seconds < inf else 0  # 0 and 0: for ever
            value = pack("ll", whole, max(int((seconds - whole) * 1e6), 1) if seconds < inf else 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._patience = seconds
        self._slack = min(0.001, seconds / 4)

    def close(self) -> None:
        """Close the file descriptor, and free its place.

        Nothing is said to the peer, so it is right after a fork, too.
        """
        if self._handle is not None:
            self._handle.value = -1  # the number may be that of another file soon
        self.sock.close()
        self.place.release()

    def give_up(self) -> Place:
        """Close it, and return its place for another one."""
        place, self.place = self.place, _NO_PLACE
        self.close()
        return place


def open_socket(address: Address, options: ConnectionOptions, limit: float) -> socket.socket:
    """A connected socket, TLS done. All address records are tried, each with its share of the time left.

    `OSError` or `TimeoutError`.
    """
    records = known_records(address) or resolver.records(address, limit)
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
            if index + 1 == len(records) or not isinstance(error, OSError) or from_handler(error):
                raise
    raise ConnectionFailed(f"{address.host} has no address record")


def _wrap(sock: socket.socket, address: Address, options: ConnectionOptions) -> ssl.SSLSocket:
    assert options.tls is not None
    try:
        context = tls_context(options.tls)
    except ConfigurationError as error:  # it was right when the endpoint was made: rotated just now, or lost
        raise ConnectionFailed(str(error)) from error
    return context.wrap_socket(sock, server_hostname=address.host)
