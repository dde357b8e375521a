"""One blocking socket to a server: requests and their replies, and how it is opened."""

from __future__ import annotations

import socket
import ssl
from math import inf
from time import monotonic
from typing import Any

from evercache.errors import ConfigurationError, ConnectionFailed, DeadlineExceeded, ProtocolError
from evercache.wire.names import resolver
from evercache.wire.resp import PENDING, Decoder
from evercache.wire.sockets import (
    RECEIVE_BYTES,
    input_check,
    known_records,
    new_socket,
    tls_context,
    why,
)
from evercache.wire.types import Address, ConnectionOptions, Greeting

__all__ = ["Connection", "open_socket"]


class Connection:
    """One greeted socket. No lock: the pool lends it to one thread at a time."""

    __slots__ = ("address", "check", "decoder", "epoch", "greeting", "patience", "replies", "slack", "sock")

    greeting: Greeting

    def __init__(self, address: Address, sock: socket.socket, epoch: int) -> None:
        self.address = address
        self.sock = sock
        self.patience = inf  # the time-out that the socket has, in seconds
        self.slack = 0.0  # what another one may differ by
        self.replies: list[Any] = []  # of a request that is not answered yet
        self.check = input_check(sock)
        self.decoder = Decoder()
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"<Connection {self.address} fd={self.sock.fileno()}>"

    def request(self, data: bytes, count: int, deadline: float, until: float = inf) -> list[Any] | None:
        """Send, and read `count` replies; None when they are not there at `until`: `settle` takes them then.

        After any exception the connection must be closed.
        """
        sent = 0
        replies: list[Any] = []
        patient = limit = until if until < deadline else deadline
        pop, feed, recv = self.decoder.pop, self.decoder.feed, self.sock.recv
        while True:
            try:
                while sent < len(data):
                    self._allow(limit)
                    sent += self.sock.send(memoryview(data)[sent:] if sent else data)
                while True:
                    self._allow(patient)
                    received = recv(RECEIVE_BYTES)
                    if not received:
                        raise ConnectionFailed(f"{self.address} closed the connection", maybe_run=True)
                    feed(received)
                    while (reply := pop()) is not PENDING:
                        replies.append(reply)
                        if len(replies) == count:
                            self._check_end()
                            return replies
            except TimeoutError:
                if limit < deadline and sent < len(data):
                    limit = deadline  # half a command is no good to anybody
                    continue
                if patient < deadline:
                    self.replies = replies
                    return None
                raise DeadlineExceeded(
                    f"{self.address} did not answer before the deadline", maybe_run=sent > 0
                ) from None
            except OSError as error:  # also ssl.SSLError
                raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=sent > 0) from error

    def settle(self, count: int) -> bool:
        """Go on with a request that was not answered in time, without waiting; True when it is answered.

        After any exception the connection must be closed.
        """
        if self.patience:
            self.sock.settimeout(0.0)
            self.patience = self.slack = 0.0
        try:
            while True:
                received = self.sock.recv(RECEIVE_BYTES)
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
        except OSError as error:
            raise ConnectionFailed(f"{self.address}: {why(error)}", maybe_run=True) from error

    def _check_end(self) -> None:
        if not self.decoder.is_empty() and (self.decoder.pop() is not PENDING or not self.decoder.is_empty()):
            raise ProtocolError(f"{self.address} sent more replies than were asked for")

    def _allow(self, deadline: float) -> None:
        """Bound the next system call by the time left; a peer that drips gains nothing."""
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        if abs(left - self.patience) > self.slack:  # a system call, which calls of equal budgets need not repeat
            self.sock.settimeout(left)
            self.patience = left
            self.slack = min(0.001, left / 4)

    def close(self) -> None:
        """Close the file descriptor; nothing is said to the peer (so it is right after a fork, too)."""
        self.sock.close()


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
