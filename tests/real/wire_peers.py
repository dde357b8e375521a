"""Peers that misbehave on purpose, and one way to call both wires, for the tests of the wires."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import hiredis

from evercache.clock import monotonic
from evercache.net.blocking import BlockingWire
from evercache.net.pipelined import PipelinedWire
from evercache.net.types import ConnectionOptions, Expectation
from evercache.protocol.types import Address, Command

__all__ = ["Caller", "Peer", "answer_greeting", "commands_of", "relay"]

_callers = itertools.count()


class Peer:
    """A TCP server on loopback that runs `handler(connection)` in a thread for each connection."""

    def __init__(self, handler: Callable[[socket.socket], None]) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> int:
        return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._handler(connection)
        connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A shutdown wakes a thread that waits in accept or recv; a close alone does not.
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for thread in self._threads:
            thread.join(5)


def commands_of(connection: socket.socket) -> Iterator[list[bytes]]:
    """The commands that come in, until the peer closes."""
    reader = hiredis.Reader()
    while data := connection.recv(65536):
        reader.feed(data)
        while (command := reader.gets()) is not False:
            yield command


def answer_greeting(connection: socket.socket, command: list[bytes], run_id: str = "r1") -> bool:
    """Answer a command of the greeting as Redis 7 would; False if it is none."""
    match [part.upper() for part in command[:2]]:
        case [b"HELLO", _]:
            reply = b"%1\r\n+server\r\n+redis\r\n"
        case [b"CLIENT", _]:
            reply = b"+OK\r\n"
        case [b"INFO", b"SERVER"]:
            reply = bulk(f"redis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\n".encode())
        case [b"INFO", b"REPLICATION"]:
            reply = bulk(b"role:master\r\nmaster_replid:abc\r\n")
        case [b"TIME"]:
            reply = b"*2\r\n$10\r\n1700000000\r\n$1\r\n5\r\n"
        case _:
            return False
    connection.sendall(reply)
    return True


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def relay(
    target: int,
    *,
    tls: ssl.SSLContext | None = None,
    refuse: Callable[[list[bytes]], bytes | None] = lambda command: None,
) -> Callable[[socket.socket], None]:
    """A handler that forwards to the server on `target`: behind TLS, or refusing some commands itself.

    A refused command is answered at once, so it must come first in what is written together.
    """

    def handler(connection: socket.socket) -> None:
        near = tls.wrap_socket(connection, server_side=True) if tls is not None else connection
        with near, socket.create_connection(("127.0.0.1", target)) as far:
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            try:
                for command in commands_of(near):
                    if (refusal := refuse(command)) is not None:
                        near.sendall(refusal)
                    else:
                        far.sendall(hiredis.pack_command(tuple(command)))
            finally:
                with contextlib.suppress(OSError):
                    far.shutdown(socket.SHUT_RDWR)
                back.join(5)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    return handler


class Caller:
    """Calls a blocking endpoint, or an asynchronous one from an event loop of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._runner = asyncio.Runner() if kind == "pipelined" else None
        self._endpoints: list[Any] = []
        #: Of its own, as a server sees the end of another test's connections a little later.
        self.name = f"evercache-{next(_callers)}-"

    def endpoint(self, address: Address, **options: Any) -> Any:
        wire = BlockingWire() if self._runner is None else PipelinedWire()
        endpoint = wire.endpoint(
            address, ConnectionOptions(**{"connect_timeout": 2.0, "client_name": self.name} | options)
        )
        self._endpoints.append(endpoint)
        return endpoint

    def execute(
        self, endpoint: Any, *commands: Command, timeout: float = 5.0, expect: Expectation | None = None
    ) -> Sequence[Any]:
        deadline = monotonic() + timeout
        if self._runner is None:
            return endpoint.execute(commands, deadline, expect)
        return self._runner.run(endpoint.execute(commands, deadline, expect))

    def settle(self) -> None:
        """Let the event loop do what is due (closing, for instance)."""
        if self._runner is not None:
            self._runner.run(asyncio.sleep(0.01))

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.disconnect()
        if self._runner is not None:
            self._runner.close()
