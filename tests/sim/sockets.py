"""Blocking sockets on the simulated network: what the library's own pool, connections and parser run on."""

from __future__ import annotations

import errno
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis
from greenlet import getcurrent

from evercache.errors import ConnectionFailed, DeadlineExceeded, ServerError, UnavailableError
from evercache.net.blocking import BlockingEndpoint
from evercache.net.types import ConnectionOptions
from evercache.protocol.types import Address
from tests.sim.network import Request, Session
from tests.sim.node import Node
from tests.sim.wire import Connection

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.threads import SimThread, Threads

__all__ = ["BlockingSimWire"]


class BlockingSimWire:
    """The library's blocking endpoints, on simulated sockets."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def endpoint(self, address: Address, options: ConnectionOptions) -> BlockingEndpoint:
        return BlockingEndpoint(address, options, partial(_dial, self._process, object()))  # type: ignore[arg-type]


def _dial(process: Process, pool: object, address: Address, options: ConnectionOptions, limit: float) -> SimSocket:
    """A connected socket, as `evercache.net.connection.open_socket`."""
    me: Any = getcurrent()
    me.point()
    threads, tag = me.threads, process.tag
    there = [it for it in threads.sockets.values() if it.pool is pool]
    if len(there) >= options.max_connections:
        threads.bad("pool", f"{tag.name} opens one more connection to {address} beside {there}")
    stream = Stream(threads.world.network, tag, address, options)
    end = limit + tag.behind()
    try:
        me.finish(stream.open(end))
    except ConnectionFailed:
        if threads.loop.now >= end:
            raise DeadlineExceeded(f"no connection to {address} before the deadline") from None
        raise
    return SimSocket(threads, pool, stream)


class SimSocket:
    """A descriptor: the library has it, the network has the stream behind it."""

    def __init__(self, threads: Threads, pool: object, stream: Stream) -> None:
        self._threads, self._stream = threads, stream
        self.pool = pool
        self._number = threads.number()
        self._patience: float | None = None
        self.waiters: list[SimThread] = stream.waiters
        threads.sockets[self._number] = self

    def __repr__(self) -> str:
        return f"<SimSocket {self._number} {self._stream!r}>"

    def __del__(self) -> None:
        self.close()

    def fileno(self) -> int:
        return -1 if self._stream.closed else self._number

    def settimeout(self, seconds: float | None) -> None:
        self._patience = seconds

    def readable(self) -> bool:
        return bool(self._stream.received) or self._stream.failure is not None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        me: Any = getcurrent()
        me.point()
        self._check()
        self._stream.write(bytes(data))
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """BlockingIOError when the time is over, as of a socket that does not block: a TimeoutError that is raised
        here would count as one of a signal handler."""
        me: Any = getcurrent()
        stream, loop = self._stream, self._threads.loop
        until = None if self._patience is None else loop.now + self._patience
        if self._patience != 0:
            me.point()
        while True:
            if stream.received:
                return bytes(stream.received.popleft())
            self._check()
            if until is not None and loop.now >= until:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            self.waiters.append(me)
            try:
                me.wait(until)
            finally:
                self.waiters.remove(me)

    def _check(self) -> None:
        if self._stream.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if self._stream.failure is not None:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    def close(self) -> None:
        stream = self._stream
        if not stream.closed:
            stream.closed = True
            self._threads.sockets.pop(self._number, None)
            stream.close()


class Stream(Connection):
    """The client's end of a connection, in bytes."""

    session: Session | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.received: deque[bytes] = deque()
        self.waiters: list[SimThread] = []
        self.closed = False
        self._reader_of_commands = hiredis.Reader()

    def _greet(self) -> Any:
        """What a server is, it says to the library itself."""
        return self.server.run_id, "", "", 0

    def _accept(self) -> Session:
        return _Session(self.network, self.server, self, 0)

    def write(self, data: bytes) -> None:
        """Commands of one write travel together."""
        reader, commands = self._reader_of_commands, []
        reader.feed(data)
        while (command := reader.gets()) is not False:
            commands.append(command)
        if commands:
            self.travel(Request(commands))

    def _arrived(self, request: Request) -> None:
        if self.failure is None:
            self.received.append(b"".join(map(encoded, request.replies)))
            self._look()

    def fail(self, failure: UnavailableError) -> None:
        super().fail(failure)
        self._look()

    def _look(self) -> None:
        for thread in list(self.waiters):
            thread.wake()


class _Session(Session):
    """The server's end, which answers the greeting as well."""

    def execute(self, words: list[bytes]) -> Any:
        match words[0].upper():
            case b"HELLO":
                return [b"proto", 3]
            case b"CLIENT":
                return b"OK"
            case b"INFO" if words[1] == b"server":
                mode = "standalone" if isinstance(self.server, Node) else "sentinel"
                return f"redis_mode:{mode}\r\nvalkey_version:9.1.2\r\nrun_id:{self.server.run_id}\r\n".encode()
            case _:
                return super().execute(words)


def encoded(reply: Any) -> bytes:
    """A reply as a server sends it (RESP3)."""
    kind = type(reply)
    if kind is bytes:
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if kind is int:
        return b":%d\r\n" % reply
    if kind is list or kind is tuple:
        return b"*%d\r\n%b" % (len(reply), b"".join(map(encoded, reply)))
    if reply is None:
        return b"_\r\n"
    if isinstance(reply, ServerError):
        return b"-%b\r\n" % str(reply).replace("\r\n", " ").encode()
    raise TypeError(f"no reply of a server: {reply!r}")
