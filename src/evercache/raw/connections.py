"""redis-py's blocking connections, led by a route instead of a fixed address."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from math import inf
from typing import Any

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

from evercache.clock import monotonic
from evercache.net.resp import numbers_as_text
from evercache.net.types import ConnectionOptions
from evercache.raw.connection_state import (
    BROKEN,
    ERRORS,
    Guard,
    Patience,
    connection_options,
    not_meant,
)
from evercache.raw.errors import NotSent
from evercache.raw.routes import Route
from evercache.raw.scans import scanned

__all__ = ["RoutedConnection", "RoutedSSLConnection", "RoutedUnixConnection", "connection_class"]

#: Since 6.0 the one attempt to connect is apart from `connect`, which repeats it, and is called on its own too.
_LAYERED = hasattr(Connection, "connect_check_health")


class _Routed:
    """A part of each class: `host`, `port` and `path` are set when it connects, each time anew."""

    def __init__(self, *, route: Route, **options: Any) -> None:
        self.guard = Guard(route)
        self._live: socket.socket | None = None
        told = connection_options(route)
        super().__init__(**{**told, "redis_connect_func": _greet, **options})

    # -- connecting

    def _connect(self) -> Any:
        address = self.guard.address = self.guard.route.pick()
        if address.path is not None:
            self.path = address.path
        else:
            self.host, self.port = address.host, address.port
        self._live = super()._connect()  # type: ignore[misc]
        self.guard.route.source.add(self)  # type: ignore[arg-type]
        return self._live

    def connect(self) -> None:
        """See redis-py; a connection to a server that is the wrong one now is replaced.

        A subscription connects when it reads or sends: there it is known for how long it may try.
        """
        if self._live is not None and self.guard.stale():
            self.disconnect()
        if not self.guard.subscriber:
            self._open()

    def _open(self) -> None:
        if _LAYERED:
            super().connect()  # type: ignore[misc]
        else:
            self._patiently(super().connect)  # type: ignore[misc]

    def connect_check_health(self, *arguments: Any, **options: Any) -> None:
        """See redis-py."""
        attempt = super().connect_check_health  # type: ignore[misc]
        self._patiently(lambda: attempt(*arguments, **options))

    def _patiently(self, attempt: Callable[[], None]) -> None:
        if self._live is not None:
            return attempt()
        patience = Patience(self.guard)
        while True:
            self.guard.greeting = True
            try:
                return attempt()
            except BROKEN as error:
                pause = patience.pause(error)
                self.disconnect()
            except BaseException:
                self.disconnect()
                raise
            finally:
                self.guard.greeting = False
            time.sleep(pause)

    def disconnect(self, *arguments: Any, **options: Any) -> None:
        """See redis-py."""
        self._live = None
        self.guard.broken()
        super().disconnect(*arguments, **options)  # type: ignore[misc]

    # -- any thread

    def recheck(self) -> None:
        """The view changed: break, so that whoever waits for an answer hears of it at once."""
        address = self.guard.address
        if address is not None and self.guard.route.left(address):
            self.sever()

    def sever(self) -> None:
        """Break the socket; whoever uses the connection closes it."""
        live = self._live
        if live is not None:
            with contextlib.suppress(OSError):
                # That of TLS would tear the state from under a thread that reads.
                socket.socket.shutdown(live, socket.SHUT_RDWR)

    # -- commands

    def register_connect_callback(self, callback: Any) -> None:
        """See redis-py: a PubSub takes the connection."""
        self.guard.subscriber = True
        super().register_connect_callback(callback)  # type: ignore[misc]

    def deregister_connect_callback(self, callback: Any) -> None:
        """See redis-py: it gives the connection back."""
        self.guard.subscriber = False
        super().deregister_connect_callback(callback)  # type: ignore[misc]

    def send_command(self, *arguments: Any, **options: Any) -> None:
        """See redis-py; a page of a scan is asked of the server that gave its cursor, or the scan begins anew."""
        guard = self.guard
        page = None if guard.greeting or guard.subscriber else scanned(arguments)
        if page is not None and self._live is None:
            self._open()
        guard.page = page
        if page is not None:
            arguments = guard.paged(page, arguments)
        guard.packed = (arguments,)
        super().send_command(*numbers_as_text(arguments), **options)  # type: ignore[misc]

    def pack_commands(self, commands: Any) -> Any:
        """See redis-py: the commands of a pipeline."""
        self.guard.page = None
        commands = self.guard.packed = list(commands)
        return super().pack_commands([numbers_as_text(command) for command in commands])  # type: ignore[misc]

    def pack_command(self, *arguments: Any) -> Any:
        """See redis-py."""
        return super().pack_command(*numbers_as_text(arguments))  # type: ignore[misc]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See redis-py; `Stale` where certainly not all of it was sent, so that it can be sent anew."""
        guard, packed = self.guard, self.guard.packed
        if not guard.greeting:
            if self._live is None:
                if guard.may_miss():
                    return
                self._open()
            elif guard.stale():
                address = guard.address
                self.disconnect()
                raise guard.stale_error(f"{address} is the wrong server now")
            guard.packed = packed
            guard.sending()
        missed = not guard.greeting and guard.may_miss()
        try:
            super().send_packed_command(command, check_health)  # type: ignore[misc]
        except NotSent:
            raise
        except BROKEN as error:
            if missed:
                self.disconnect()
                return
            if guard.greeting or guard.batch:
                raise
            raise guard.stale_error(str(error)) from error

    def can_read(self, timeout: float | None = 0, *arguments: Any, **options: Any) -> Any:
        """See redis-py; it asks this before it reads for a PubSub with a time-out, which holds without a master."""
        if self.guard.greeting or not self.guard.subscriber:
            try:
                return super().can_read(timeout, *arguments, **options)  # type: ignore[misc]
            except BROKEN:
                self.disconnect()
                raise
        end = monotonic() + (timeout or 0)
        attempt = super().can_read  # type: ignore[misc]
        return self._resuming(end, lambda: attempt(max(0.0, end - monotonic()), *arguments, **options)) or False

    def _resuming(self, end: float, attempt: Callable[[], Any]) -> Any:
        """What a subscription gets, at the next master where one dies; None where there is none until `end`."""
        guard = self.guard
        while True:
            try:
                if self._live is not None and guard.stale():
                    self.disconnect()
                if self._live is None:
                    guard.until = end
                    try:
                        self._open()
                    finally:
                        guard.until = None
                return attempt()
            except BROKEN as error:
                resumes = guard.resumes(error)
                self.disconnect()
                if not resumes:
                    raise
            if monotonic() >= end:
                return None

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """See redis-py; the answer to a blocking command may take as long as it asked for."""
        if self.guard.greeting or not self.guard.subscriber:
            return self._read(*arguments, **options)
        timeout = options.get("timeout")
        end = monotonic() + timeout if isinstance(timeout, (int, float)) else inf
        return self._resuming(end, lambda: self._read(*arguments, **options))

    def _read(self, *arguments: Any, **options: Any) -> Any:
        guard, live = self.guard, self._live
        address, reads = guard.address, guard.reads
        usual: float | None = self.socket_timeout  # type: ignore[attr-defined]
        limit = guard.time_out(usual)
        changed = live is not None and limit != usual
        if live is not None and changed:
            live.settimeout(limit)
        try:
            response = super().read_response(*arguments, **options)  # type: ignore[misc]
        except ERRORS as error:
            if guard.greeting or guard.subscriber:
                raise
            verdict = guard.verdict(error, address, reads)
            if verdict is not error:
                self.disconnect()
            if verdict is error:
                raise
            raise verdict from error
        finally:
            if changed and live is not None and live is self._live:
                live.settimeout(usual)
        if guard.page is not None:
            guard.turned(response)
        guard.answered()
        return response


def _greet(connection: Any) -> None:
    """Instead of redis-py's own greeting: that, and then a look at who answers."""
    connection.on_connect()
    guard: Guard = connection.guard
    with contextlib.suppress(ResponseError):  # the user may lack the right to ask
        connection.send_command("INFO", guard.route.section)
        if not guard.accepts(connection.read_response()):
            raise not_meant(guard.address)
    if guard.wants_table():
        try:
            connection.send_command("COMMAND")
            guard.learn(connection.read_response())
        except ResponseError:
            guard.learn(None)


class RoutedConnection(_Routed, Connection):
    """Over TCP."""


class RoutedSSLConnection(_Routed, SSLConnection):
    """Over TLS."""


class RoutedUnixConnection(_Routed, UnixDomainSocketConnection):
    """Over a unix socket."""


def connection_class(options: ConnectionOptions, unix: bool) -> type[Any]:
    """The class for the servers of a URL."""
    if unix:
        return RoutedUnixConnection
    return RoutedConnection if options.tls is None else RoutedSSLConnection
