"""The asynchronous wire: one pipelined connection for each server and event loop."""

from __future__ import annotations

import asyncio
import copy
import random
import socket
import ssl
from collections.abc import Awaitable, Sequence
from contextvars import Context
from functools import partial
from math import inf
from threading import get_ident
from typing import Any, Final
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

from msgspec import Struct, field

from evercache.clock import monotonic
from evercache.errors import (
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    ServerChanged,
    ServerError,
    UnavailableError,
)
from evercache.net.backoff import Backoff
from evercache.net.channel import Channel
from evercache.net.greeting import greet
from evercache.net.loops import running_loop
from evercache.net.mismatch import LONGEST, afind_mismatch
from evercache.net.names import resolver
from evercache.net.places import Place, Places, taken
from evercache.net.requests import Exchange
from evercache.net.sockets import check_options, known_records, new_socket, tls_context, why
from evercache.net.types import HASTE, ConnectionOptions, Expectation, Greeting, OnReply
from evercache.process import living, new_lock
from evercache.protocol.types import Address, Command, Reply

__all__ = ["PipelinedConnection", "PipelinedEndpoint", "PipelinedWire"]

#: Seconds beyond `connect_timeout` after which a connection under way is taken for lost.
_LOST: Final = 0.1
#: Sockets that an event loop may refuse for one connection (see `_connected`).
_MOST_REFUSED: Final = 16


class PipelinedWire:
    """Makes asynchronous endpoints and single connections (`wire.types.AsyncWire`).

    Keeps weak references to them, for forks; no lock: one statement adds, and only the child of a fork looks.
    """

    def __init__(self) -> None:
        self._made: WeakSet[PipelinedEndpoint | PipelinedConnection] = WeakSet()
        #: The servers that `connect` has reached.
        self._met: set[Address] = set()

    def endpoint(self, address: Address, options: ConnectionOptions) -> PipelinedEndpoint:
        """An endpoint; connects at its first use. `ConfigurationError` for options that cannot work."""
        endpoint = PipelinedEndpoint(address, options)
        self._made.add(endpoint)
        return endpoint

    async def connect(self, address: Address, options: ConnectionOptions, deadline: float) -> PipelinedConnection:
        """Open a connection of one's own and greet."""
        check_options(address, options)
        met = address in self._met
        connection = PipelinedConnection(await _open(address, options, deadline, keep_messages=True, met=met))
        self._met.add(address)
        self._made.add(connection)
        return connection

    def forget(self) -> None:
        """After a fork, in the child: close the descriptors of all, and say nothing to the servers."""
        made, self._made = living(self._made), WeakSet()
        for each in made:
            each.forget()

    def __repr__(self) -> str:
        return "<PipelinedWire>"


class PipelinedConnection:
    """A connection of one's own, for blocking reads and for pub/sub (`wire.types.AsyncConnection`).

    No lock: it belongs to one event loop.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.greeting = channel.greeting

    def __repr__(self) -> str:
        return f"<PipelinedConnection {self._channel!r}>"

    async def execute(
        self, commands: Sequence[Command], deadline: float, *, first: OnReply | None = None
    ) -> list[Reply | ServerError]:
        """See `wire.types.AsyncConnection.execute`.

        A (P)SUBSCRIBE is answered by the confirmation of its last channel; messages go to `next_push`.
        """
        try:
            return await self._channel.request(commands, deadline, first=first)
        except BaseException:
            self._channel.close()
            raise

    async def next_push(self) -> list[Any]:
        """The next out-of-band message (`[b"message", channel, data]`, ...); waits for it."""
        return await self._channel.message()

    def pushes(self) -> list[list[Any]]:
        """See `wire.types.AsyncConnection.pushes`."""
        return self._channel.messages()

    def close(self) -> None:
        """Close it; whoever waits gets `ConnectionFailed`."""
        self._channel.close()

    def forget(self) -> None:
        """After a fork, in the child: drop it without a word to the server."""
        self._channel.forget()


class _Slot(Struct, eq=False):
    """What one event loop has of an endpoint. No lock: only that loop changes it, except `epoch` checks.

    The channel is held weakly, because it holds the loop, which is the key of the dictionary of slots; while
    it is open, the loop itself holds it.
    """

    channel: ReferenceType[Channel] | None = None
    opening: asyncio.Task[Channel | UnavailableError] | None = None
    opened_by: float = 0.0  # when (monotonic) that is over, or it was interrupted
    waiting: Places = field(default_factory=Places)  # of calls that wait for a connection
    epoch: int = 0

    @property
    def outstanding(self) -> int:
        """Calls under way."""
        channel = self.channel() if self.channel is not None else None
        return taken(self.waiting) + (0 if channel is None else channel.outstanding)

    def current(self, epoch: int) -> Channel | None:
        """The open channel, unless it is older than the last `disconnect`."""
        channel = self.channel() if self.channel is not None else None
        return channel if channel is not None and self.epoch == epoch and channel.usable else None


class PipelinedEndpoint:
    """One server, one pipelined connection for each event loop that uses it (`wire.types.AsyncEndpoint`).

    `_lock` guards the dictionary of slots and the back-off; it is never held during I/O.
    """

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        check_options(address, options)
        self.address = address
        self.options = options
        self._epoch = 0
        #: Whether a connection to it was ever made.
        self._met = False
        self._reset()

    def _reset(self) -> None:
        self._lock = new_lock()
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot] = WeakKeyDictionary()
        #: The channel of the loop that asked last: most processes have one loop. Replaced as a whole.
        self._recent: tuple[ReferenceType[Channel], int] | None = None
        self._backoff = Backoff(random.random)

    def __repr__(self) -> str:
        slots = self._all_slots()
        channels = sum(slot.current(self._epoch) is not None for _, slot in slots)
        return f"<Endpoint {self.address} connections={channels} in_use={self.outstanding}>"

    @property
    def outstanding(self) -> int:
        """Calls under way now, over all open event loops, those that wait for a connection included."""
        return sum(slot.outstanding for loop, slot in self._all_slots() if not loop.is_closed())

    async def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `wire.types.SyncEndpoint.execute`."""
        replies = await self.begin(commands, deadline, expect)
        assert isinstance(replies, list)
        return replies

    async def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None, until: float = inf
    ) -> list[Reply | ServerError] | Exchange:
        """See `wire.types.SyncEndpoint.begin`."""
        if not commands:
            return []
        loop = running_loop()
        slot = self._slots.get(loop) or self._new_slot(loop)
        channel = slot.current(self._epoch)
        if channel is None or (expect is not None and not expect(channel.greeting)):
            if channel is not None:
                channel.retire()
            now = monotonic()
            ready = deadline if until > now else min(deadline, now + HASTE)
            waiter = Place(slot.waiting)
            try:
                channel = await self._fresh(loop, slot, ready)
            finally:
                waiter.release()
            if expect is not None and not expect(channel.greeting):
                channel.retire()
                raise ServerChanged(f"{self.address} is not the server that was verified")
        channel.thread = get_ident()
        self._recent = (ref(channel), slot.epoch)
        exchange = channel.send(commands, deadline, until)
        if until <= exchange.sent_at:
            exchange.until = inf
            return exchange
        answer: list[Reply | ServerError] | Exchange = await exchange.future
        return answer

    def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float = inf
    ) -> Awaitable[Reply | ServerError | Exchange]:
        """See `wire.types.SyncEndpoint.get`."""
        recent = self._recent
        if recent is not None and recent[1] == self._epoch:
            channel = recent[0]()
            if (
                channel is not None
                and channel.thread == get_ident()
                and channel.loop.is_running()  # `get_running_loop` may be a system call
                and (channel.met is expect or channel.meets(expect))
            ):
                answer = channel.get(key, now, now + patience, now + late)
                if answer is not None:
                    return answer
        return self._get(key, now + patience, expect, now + late)

    async def _get(
        self, key: str, deadline: float, expect: Expectation, until: float
    ) -> Reply | ServerError | Exchange:
        answer = await self.begin((("GET", key),), deadline, expect, until)
        return answer if isinstance(answer, Exchange) else answer[0]

    def disconnect(self) -> None:
        """Close every connection once its calls are done; the endpoint stays usable. From any thread."""
        with self._lock:
            self._epoch += 1
            self._backoff.clear()
        for loop, slot in self._all_slots():
            channel = slot.channel() if slot.channel is not None else None
            if channel is None or loop.is_closed():
                continue
            if _running_loop() is loop:
                channel.retire()
                continue
            try:
                loop.call_soon_threadsafe(channel.retire)
            except RuntimeError:  # closed between the question and the call: its sockets went with it
                continue

    def forget(self) -> None:
        """After a fork, in the child: close the descriptors, say nothing to the server, start anew."""
        slots = list(self._slots.values())
        self._epoch += 1
        self._reset()
        for slot in slots:
            channel = slot.channel() if slot.channel is not None else None
            if channel is not None:
                channel.forget()

    def _all_slots(self) -> list[tuple[asyncio.AbstractEventLoop, _Slot]]:
        with self._lock:
            return list(self._slots.items())

    def _new_slot(self, loop: asyncio.AbstractEventLoop) -> _Slot:
        with self._lock:
            for old in [old for old in self._slots if old.is_closed()]:
                del self._slots[old]
            return self._slots.setdefault(loop, _Slot())

    async def _fresh(self, loop: asyncio.AbstractEventLoop, slot: _Slot, deadline: float) -> Channel:
        """The channel that is being opened for this loop; all tasks that want one wait for the same one."""
        channel = slot.current(self._epoch)
        if channel is not None:
            return channel
        left = deadline - monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no time was left to connect to {self.address}")
        opening = slot.opening
        if opening is not None and monotonic() > slot.opened_by:
            opening.cancel()  # the loop has lost what would go on with it, or is very late
            opening = None
        if opening is None or opening.done():  # done: cancelled before it began
            with self._lock:
                pause = self._backoff.check(monotonic(), deadline)
            if pause:
                await asyncio.sleep(pause)
                return await self._fresh(loop, slot, deadline)
            longest = self.options.connect_timeout + (0.0 if self._met else LONGEST)
            slot.opened_by = monotonic() + longest + _LOST
            # In a context of its own: the connection outlives the caller, and all that the caller's holds.
            opening = slot.opening = Context().run(loop.create_task, self._fill(slot))
        await asyncio.wait((opening,), timeout=left)
        if not opening.done():
            raise DeadlineExceeded(f"no connection to {self.address} before the deadline")
        if opening.cancelled():
            raise ConnectionFailed(f"connecting to {self.address} was cancelled: the event loop shuts down")
        outcome = opening.result()
        if isinstance(outcome, Channel):
            return outcome
        raise copy.copy(outcome) from outcome

    async def _fill(self, slot: _Slot) -> Channel | UnavailableError:
        """Open a channel for the slot. An error is returned, for all who wait and nobody in particular."""
        epoch, own = self._epoch, asyncio.current_task()
        try:
            channel = await _open(self.address, self.options, inf, keep_messages=False, met=self._met)
        except UnavailableError as error:
            with self._lock:
                self._backoff.failed(error, monotonic())
            return error
        finally:
            current = slot.opening is own  # else another one was begun, as this one was late
            if current:
                slot.opening = None
        try:
            with self._lock:
                self._backoff.clear()
            self._met = True
            if epoch != self._epoch or not current:
                channel.close()
                return ConnectionFailed(f"{self.address} was disconnected while a connection was made")
            slot.epoch, slot.channel = epoch, ref(channel)
        except BaseException:
            channel.close()
            raise
        return channel


async def _open(
    address: Address, options: ConnectionOptions, deadline: float, *, keep_messages: bool, met: bool
) -> Channel:
    """A greeted channel before the deadline and `connect_timeout`, or an error whose `maybe_run` is False.

    `met`: whether this process has reached the server before; else a failure is looked into.
    """
    loop = asyncio.get_running_loop()
    now = monotonic()
    limit = min(deadline, now + options.connect_timeout)
    channel: Channel | None = None
    try:
        async with asyncio.timeout(limit - now):
            channel = await _connect(loop, address, options, limit, keep_messages=keep_messages)
            await channel.close_with_loop()
            channel.greeting = await _greet(channel, options, limit)
            return channel
    except BaseException as error:
        if channel is not None:
            channel.close()
        if not met and isinstance(error, (OSError, ConnectionFailed, DeadlineExceeded)):
            words = await afind_mismatch(address, options, error, deadline)
            if words:
                raise ConnectionFailed(f"{address}: {words}") from error
        if isinstance(error, (TimeoutError, DeadlineExceeded)):
            if limit < deadline:
                raise ConnectionFailed(
                    f"{address} did not answer within connect_timeout={options.connect_timeout} s"
                ) from None
            raise DeadlineExceeded(f"no connection to {address} before the deadline") from None
        if isinstance(error, UnavailableError):
            error.maybe_run = False  # only the greeting was sent, never the caller's commands
        elif isinstance(error, (OSError, MemoryError, RuntimeError)):
            raise ConnectionFailed(f"{address}: {why(error)}") from error
        raise


async def _connect(
    loop: asyncio.AbstractEventLoop,
    address: Address,
    options: ConnectionOptions,
    limit: float,
    *,
    keep_messages: bool,
) -> Channel:
    """A connected channel. All address records are tried, each with its share of the time left."""
    records = known_records(address)
    if records is None:
        records = await resolver.arecords(address, limit)
    tls: ssl.SSLContext | None = None
    if options.tls is not None:
        try:
            tls = tls_context(options.tls)
        except ConfigurationError as error:  # it was right before: rotated just now, or lost
            raise ConnectionFailed(str(error)) from error
    for index, (family, where) in enumerate(records):
        sock = None
        try:
            async with asyncio.timeout((limit - monotonic()) / (len(records) - index)):
                sock = await _connected(loop, family, where)
            _, channel = await loop.create_connection(
                partial(Channel, address, sock, loop, keep_messages=keep_messages),
                sock=sock,
                ssl=tls,
                server_hostname=address.host if tls is not None else None,
            )
            return channel
        except BaseException as error:
            if sock is not None:
                sock.close()
            if index + 1 == len(records) or not isinstance(error, OSError):
                raise
    raise ConnectionFailed(f"{address.host} has no address record")


async def _connected(loop: asyncio.AbstractEventLoop, family: int, where: Any) -> socket.socket:
    """A connected socket.

    A signal handler that raises in the loop can make it lose a transport. Until the collector finds that, the loop
    refuses (RuntimeError) every socket that gets the number of its descriptor: such sockets are kept here until one
    has another number.
    """
    refused: list[socket.socket] = []
    try:
        while True:
            sock = new_socket(family)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, where)
                return sock
            except RuntimeError:
                refused.append(sock)
                if len(refused) == _MOST_REFUSED:
                    raise
            except BaseException:
                sock.close()
                raise
    finally:
        for sock in refused:
            sock.close()


async def _greet(channel: Channel, options: ConnectionOptions, limit: float) -> Greeting:
    greeter = greet(options)
    commands = next(greeter)
    try:
        while True:
            replies = await channel.request(commands, limit)
            commands = greeter.send((replies, monotonic()))
    except StopIteration as end:
        greeting: Greeting = end.value
        return greeting


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
