"""The same as `connections`, for redis-py's asyncio connections: other sockets, and other ways to break them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

from evercache.clock import monotonic
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

__all__ = ["ARoutedConnection", "ARoutedSSLConnection", "ARoutedUnixConnection", "aconnection_class"]

_LAYERED = hasattr(Connection, "connect_check_health")


class _Routed:
    """A part of each class."""

    socket_timeout: float | None

    def __init__(self, *, route: Route, **options: Any) -> None:
        self.guard = Guard(route)
        self.pid = os.getpid()
        #: Its loop and its transport, while there is one.
        self._live: tuple[asyncio.AbstractEventLoop, Any] | None = None
        told = connection_options(route)
        super().__init__(**{**told, "redis_connect_func": _greet, **options})

    # -- connecting

    async def _connect(self) -> None:
        address = self.guard.address = self.guard.route.pick()
        if address.path is not None:
            self.path = address.path
        else:
            self.host, self.port = address.host, address.port
        await super()._connect()  # type: ignore[misc]
        self._live = asyncio.get_running_loop(), self._writer.transport  # type: ignore[attr-defined]
        self.guard.route.source.add(self)

    async def connect(self) -> None:
        """See redis-py; a connection to a server that is the wrong one now is replaced.

        A subscription connects when it reads or sends: there it is known for how long it may try.
        """
        if self._live is not None and self.guard.stale():
            await self.disconnect()
        if not self.guard.subscriber:
            await self._open()

    async def _open(self) -> None:
        if _LAYERED:
            await super().connect()  # type: ignore[misc]
        else:
            await self._patiently(super().connect)  # type: ignore[misc]

    async def connect_check_health(self, *arguments: Any, **options: Any) -> None:
        """See redis-py."""
        attempt = super().connect_check_health  # type: ignore[misc]
        await self._patiently(lambda: attempt(*arguments, **options))

    async def _patiently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        if self._live is not None:
            return await attempt()
        patience = Patience(self.guard)
        while True:
            self.guard.greeting = True
            try:
                return await attempt()
            except BROKEN as error:
                pause = patience.pause(error)
                await self.disconnect(nowait=True)
            except BaseException:
                await self.disconnect(nowait=True)
                raise
            finally:
                self.guard.greeting = False
            await asyncio.sleep(pause)

    async def disconnect(self, *arguments: Any, **options: Any) -> None:
        """See redis-py."""
        self._live = None
        self.guard.broken()
        await super().disconnect(*arguments, **options)  # type: ignore[misc]

    # -- any thread

    def recheck(self) -> None:
        """The view changed: break, so that whoever waits for an answer hears of it at once."""
        address = self.guard.address
        if address is not None and self.guard.route.left(address):
            self.sever()

    def sever(self) -> None:
        """Break the transport; whoever uses the connection closes it."""
        live = self._live
        if live is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed, and so is the transport
                live[0].call_soon_threadsafe(live[1].abort)

    # -- commands

    def register_connect_callback(self, callback: Any) -> None:
        """See redis-py: a PubSub takes the connection."""
        self.guard.subscriber = True
        super().register_connect_callback(callback)  # type: ignore[misc]

    def deregister_connect_callback(self, callback: Any) -> None:
        """See redis-py: it gives the connection back."""
        self.guard.subscriber = False
        super().deregister_connect_callback(callback)  # type: ignore[misc]

    async def send_command(self, *arguments: Any, **options: Any) -> None:
        """See redis-py; a page of a scan is asked of the server that gave its cursor, or the scan begins anew."""
        guard = self.guard
        page = None if guard.greeting or guard.subscriber else scanned(arguments)
        if page is not None and self._live is None:
            await self._open()
        guard.page = page
        if page is not None:
            arguments = guard.paged(page, arguments)
        guard.packed = (arguments,)
        await super().send_command(*arguments, **options)  # type: ignore[misc]

    def pack_commands(self, commands: Any) -> Any:
        """See redis-py: the commands of a pipeline."""
        self.guard.page = None
        commands = self.guard.packed = list(commands)
        return super().pack_commands(commands)  # type: ignore[misc]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See redis-py; `Stale` where certainly not all of it was sent, so that it can be sent anew."""
        guard, packed = self.guard, self.guard.packed
        if not guard.greeting:
            if self._live is None:
                if guard.may_miss():
                    return
                await self._open()
            elif guard.stale():
                address = guard.address
                await self.disconnect(nowait=True)
                raise guard.stale_error(f"{address} is the wrong server now")
            guard.packed = packed
            guard.sending()
        missed = not guard.greeting and guard.may_miss()
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except NotSent:
            raise
        except BROKEN as error:
            if missed:
                await self.disconnect(nowait=True)
                return
            if guard.greeting or guard.batch:
                raise
            raise guard.stale_error(str(error)) from error

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """See redis-py; the answer to a blocking command may take as long as it asked for."""
        if self.guard.greeting or not self.guard.subscriber:
            return await self._read(*arguments, **options)
        timeout = options.get("timeout")
        return await self._resuming(inf if timeout is None else monotonic() + timeout, arguments, options)

    async def _resuming(self, end: float, arguments: Any, options: dict[str, Any]) -> Any:
        """What a subscription gets, at the next master where one dies; None where there is none until `end`."""
        guard = self.guard
        while True:
            try:
                if self._live is not None and guard.stale():
                    await self.disconnect(nowait=True)
                if self._live is None:
                    guard.until = end
                    try:
                        await self._open()
                    finally:
                        guard.until = None
                return await self._read(*arguments, **options)
            except BROKEN as error:
                resumes = guard.resumes(error)
                await self.disconnect(nowait=True)
                if not resumes:
                    raise
            left = end - monotonic()
            if left <= 0:
                return None
            if left < inf:
                options = {**options, "timeout": left}

    async def _read(self, *arguments: Any, **options: Any) -> Any:
        guard = self.guard
        usual, address, reads = self.socket_timeout, guard.address, guard.reads
        self.socket_timeout = guard.time_out(usual)
        try:
            response = await super().read_response(*arguments, **options)  # type: ignore[misc]
        except ERRORS as error:
            if guard.greeting or guard.subscriber:
                raise
            verdict = guard.verdict(error, address, reads)
            if verdict is not error:
                await self.disconnect(nowait=True)
            if verdict is error:
                raise
            raise verdict from error
        finally:
            self.socket_timeout = usual
        if guard.page is not None:
            guard.turned(response)
        guard.answered()
        return response


async def _greet(connection: Any) -> None:
    """Instead of redis-py's own greeting: that, and then a look at who answers."""
    await connection.on_connect()
    guard: Guard = connection.guard
    with contextlib.suppress(ResponseError):  # the user may lack the right to ask
        await connection.send_command("INFO", guard.route.section)
        if not guard.accepts(await connection.read_response()):
            raise not_meant(guard.address)
    if guard.wants_table():
        try:
            await connection.send_command("COMMAND")
            guard.learn(await connection.read_response())
        except ResponseError:
            guard.learn(None)


class ARoutedConnection(_Routed, Connection):
    """Over TCP."""


class ARoutedSSLConnection(_Routed, SSLConnection):
    """Over TLS."""


class ARoutedUnixConnection(_Routed, UnixDomainSocketConnection):
    """Over a unix socket."""


def aconnection_class(options: ConnectionOptions, unix: bool) -> type[Any]:
    """The class for the servers of a URL."""
    if unix:
        return ARoutedUnixConnection
    return ARoutedConnection if options.tls is None else ARoutedSSLConnection
