"""One blocking socket to a server: requests and their replies, and how it is opened.

How a call is bounded: where the socket is an ordinary one, the kernel bounds each system call (`SO_RCVTIMEO`),
which saves the two `poll` that Python makes for a socket with a time-out. The kernel counts in ticks of up to
10 ms, so what is shorter is waited for by a `poll` of our own. TLS and gevent need the time-out of Python's socket.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from math import ceil, inf, nan
from struct import pack
from typing import Any, Final

from hiredis import PushNotification

from evercache.clock import monotonic
from evercache.errors import ConfigurationError, ConnectionFailed, DeadlineExceeded, ProtocolError
from evercache.wire.names import resolver
from evercache.wire.resp import NOT_RESP, PENDING, Decoder, not_resp, too_much
from evercache.wire.sockets import (
    RECEIVE_BYTES,
    input_check,
    known_records,
    new_socket,
    tls_context,
    why,
)
from evercache.wire.types import Address, ConnectionOptions, Expectation, Greeting

__all__ = ["LATE", "Connection", "open_socket"]

#: What `Connection.ask` gives when the reply is not there in time: `settle` takes it.
LATE: Final = object()
#: Seconds that the kernel's clock does not measure well.
_SHORT: Final = 0.02
#: What surely fits into the buffer of a socket whose peer owes nothing: sending it cannot block.
_FITS: Final = 16384


class Connection:
    """One greeted socket. No lock: the pool lends it to one thread at a time."""

    __slots__ = (
        "_by_kernel",
        "_feed",
        "_gets",
        "_has_data",
        "_patience",
        "_put",
        "_receive",
        "_send",
        "_slack",
        "_waits",
        "address",
        "check",
        "decoder",
        "epoch",
        "greeting",
        "met",
        "replies",
        "sock",
        "used",
    )

    greeting: Greeting

    def __init__(self, address: Address, sock: socket.socket, epoch: int) -> None:
        self.address = address
        self.sock = sock
        self._send, self._receive = sock.send, sock.recv
        self._patience = inf  # the time-out that the socket has, in seconds
        self._slack = 0.0  # what another one may differ by
        self._waits = (
            nan  # how long `ask` may wait without a look at these two; the kernel bounds its calls by that
        )
        self._by_kernel = _kernel_bounds(sock)
        if self._by_kernel:
            sock.settimeout(None)
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
        pop, feed, recv = self.decoder.pop, self.decoder.feed, self._receive
        while True:
            try:
                while sent < len(data):
                    if len(data) > _FITS or not self._by_kernel:
                        self._allow(limit)
                    sent += self._send(memoryview(data)[sent:] if sent else data)
                while True:
                    self._allow(patient, reading=True)
                    received = recv(RECEIVE_BYTES)
                    if not received:
                        raise ConnectionFailed(f"{self.address} closed the connection", maybe_run=True)
                    feed(received)
                    while (reply := pop()) is not PENDING:
                        replies.append(reply)
                        if len(replies) == count:
                            self._check_end()
                            return replies
            except (TimeoutError, BlockingIOError):
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
            if wait >= _SHORT:
                if not -self._slack < wait - self._patience < self._slack:
                    self._bound(wait)
                self._waits = wait
        self.used = now
        sent = 0
        try:
            sent = self._send(data)
            if sent < len(data):
                raise OSError(errno.EMSGSIZE, "a short command did not fit into an empty buffer")
            if wait < _SHORT and not self.check(ceil(wait * 1e3)):
                raise TimeoutError
            received = self._receive(RECEIVE_BYTES)
            string = received.startswith(b"$")
            (self._put if string else self._feed)(received)
            reply = self._gets()
        except (TimeoutError, BlockingIOError):
            if late < patience:
                self.replies = []
                return LATE
            raise DeadlineExceeded(f"{self.address} did not answer before the deadline", maybe_run=True) from None
        except (OSError, MemoryError) as error:
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
        flags = socket.MSG_DONTWAIT if self._by_kernel else 0
        if not self._by_kernel and self._patience:
            self.sock.settimeout(0.0)
            self._patience = self._slack = 0.0
        try:
            while True:
                received = self._receive(RECEIVE_BYTES, flags)
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
            raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=True) from error

    def _check_end(self) -> None:
        while not self.decoder.is_empty():
            if type(self.decoder.next()) is not PushNotification:
                raise ProtocolError(f"{self.address} sent more replies than were asked for")

    def _allow(self, deadline: float, *, reading: bool = False) -> None:
        """Bound the next system call by the time left; a peer that drips gains nothing."""
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        if reading and self._by_kernel and left < _SHORT:
            if not self.check(ceil(left * 1e3)):
                raise TimeoutError
        elif abs(left - self._patience) > self._slack:
            self._bound(left)

    def _bound(self, seconds: float) -> None:
        """Set the time-out of the socket: a system call, which calls of equal budgets need not repeat."""
        if not self._by_kernel:
            self.sock.settimeout(seconds)
        else:
            whole = int(seconds) if seconds < inf else 0  # 0 and 0: for ever
            value = pack("ll", whole, max(int((seconds - whole) * 1e6), 1) if seconds < inf else 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        self._waits = nan
        self._patience = seconds
        self._slack = min(0.001, seconds / 4)

    def close(self) -> None:
        """Close the file descriptor; nothing is said to the peer (so it is right after a fork, too)."""
        self.sock.close()


def _kernel_bounds(sock: socket.socket) -> bool:
    """Whether the kernel keeps the time of this socket: not for TLS, which reads several times for one call of
    ours, and not for those of gevent or eventlet, which never block in the kernel."""
    kind = type(sock)
    return kind is socket.socket and kind.__module__ == "socket" and sys.platform in ("linux", "darwin")


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
