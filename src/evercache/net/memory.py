"""A server inside the process, for `memory://`: tests and first steps.

It knows the scripts (ported to Python in `memory_scripts`), `GET`, `SCAN`, `TIME` and `PING`, and answers what a
real server answers. It has no replicas and survives nothing.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct, field

from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, ServerChanged, ServerError, UnavailableError
from evercache.net.memory_call import Book, Call
from evercache.net.memory_scripts import PORTS
from evercache.net.types import AsyncConnection, ConnectionOptions, Expectation, Greeting
from evercache.process import new_lock
from evercache.protocol.scripts import SCRIPTS
from evercache.protocol.types import Address, Argument, Command, Reply

__all__ = ["AsyncMemoryEndpoint", "AsyncMemoryWire", "MemoryServer", "SyncMemoryEndpoint", "SyncMemoryWire"]

_BY_SHA = {script.sha: script.name for script in SCRIPTS.values()}
_BY_TEXT = {script.text: script.name for script in SCRIPTS.values()}


def _fits(key: bytes, pattern: bytes) -> bool:
    """Whether a key fits a glob pattern as servers write it: `[^a]`, and a backslash before what is no sign."""
    plain = re.sub(rb"\\(.)", rb"[\1]", pattern.replace(b"[^", b"[!"))
    return fnmatchcase(key.decode("latin-1"), plain.decode("latin-1"))


def _encoded(argument: Argument) -> bytes:
    if isinstance(argument, bytes):
        return argument
    return argument.encode("utf-8", "surrogateescape") if isinstance(argument, str) else b"%r" % argument


class MemoryServer:
    """Entries, leases and bookkeeping in dictionaries. One lock guards all of it, for one script at a time.

    `now_us` is the server's clock (microseconds since 1970). Of more than `max_entries` values, the least
    recently used leave. Expired ones leave when they are met, and a few with each write.
    """

    def __init__(self, now_us: Callable[[], int], replid: str, *, max_entries: int = 10_000) -> None:
        self._now_us = now_us
        self._max_entries = max_entries
        self.replid = replid
        self.forget()

    def __repr__(self) -> str:
        return f"<MemoryServer {len(self._values)} values, {len(self._books)} namespaces, {self.replid[:8]}>"

    def forget(self) -> None:
        """After a fork, in the child: start empty, with a lock that nobody holds."""
        self._lock = new_lock()
        self._values: OrderedDict[bytes, tuple[bytes, int | None]] = OrderedDict()
        self._books: dict[bytes, Book] = {}
        self._calls = 0

    def busy_here(self) -> bool:
        """Whether this code runs inside a command of its own thread: in a signal handler or a finalizer."""
        return self._lock._is_owned()

    def now_us(self) -> int:
        """The server's clock."""
        return self._now_us()

    # What the scripts use, under the lock.

    def get(self, key: bytes, now_ms: int) -> bytes | None:
        """The value under a key, unless it has expired."""
        held = self._values.get(key)
        if held is None:
            return None
        if held[1] is not None and held[1] <= now_ms:
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return held[0]

    def expiry(self, key: bytes) -> int | None:
        """When a key that is there expires, in ms; None: never."""
        return self._values[key][1]

    def put(self, key: bytes, value: bytes, expires_ms: int | None) -> None:
        """Write a value, and let something go if there are too many."""
        self._values[key] = (value, expires_ms)
        self._values.move_to_end(key)
        while len(self._values) > self._max_entries:
            self._values.popitem(last=False)

    def unlink(self, key: bytes) -> None:
        """Remove a key."""
        self._values.pop(key, None)

    def book(self, state_key: bytes) -> Book:
        """The bookkeeping that goes by this key of its state."""
        return self._books.setdefault(state_key, Book())

    def held(self) -> dict[bytes, float]:
        """The keys of what has not expired, oldest first, and when it does (seconds since 1970; 0: never)."""
        with self._lock:
            now_ms = self._now_us() // 1000
            return {
                key: 0.0 if expires is None else expires / 1000
                for key, (_, expires) in self._values.items()
                if expires is None or expires > now_ms
            }

    # Commands.

    def execute(self, commands: Sequence[Command]) -> list[Reply | ServerError]:
        """Run the commands in order, each at once and whole."""
        return [self._run([_encoded(word) for word in command]) for command in commands]

    def _run(self, words: list[bytes]) -> Reply | ServerError:
        name = words[0].upper() if words else b""
        with self._lock:
            now_us = self._now_us()
            if name in (b"EVALSHA", b"EVAL") and len(words) > 2:
                return self._script(name, words, now_us)
            if name == b"GET" and len(words) == 2:
                return self.get(words[1], now_us // 1000)
            if name == b"SCAN" and len(words) > 3:
                return [b"0", [key for key in list(self._values) if _fits(key, words[3])]]
            if name == b"MGET" and len(words) > 1:
                return [self.get(word, now_us // 1000) for word in words[1:]]
            if name == b"TIME":
                return [b"%d" % (now_us // 1_000_000), b"%d" % (now_us % 1_000_000)]
            if name == b"PING":
                return b"PONG"
        return ServerError(f"ERR unknown command '{name.decode('ascii', 'replace')}'")

    def _script(self, name: bytes, words: list[bytes], now_us: int) -> Reply | ServerError:
        text = words[1].decode("utf-8", "replace")
        script = _BY_SHA.get(text.lower()) if name == b"EVALSHA" else _BY_TEXT.get(text)
        if script is None:
            return ServerError("ERR the server inside the process runs only the scripts of this library")
        self._calls += 1
        if self._calls % 16 == 0:
            self._sweep(now_us // 1000)
        count = int(words[2])
        return PORTS[script](Call(self, tuple(words[3 : 3 + count]), words[3 + count :], now_us))

    def _sweep(self, now_ms: int) -> None:
        """Look at the oldest 32 values and drop the expired ones."""
        oldest = [key for key, _ in zip(self._values, range(32), strict=False)]
        for key in oldest:
            expires = self._values[key][1]
            if expires is not None and expires <= now_ms:
                del self._values[key]

    def greeting(self) -> Greeting:
        """What a connection would be told."""
        return Greeting(
            run_id=self.replid,
            role="master",
            replid=self.replid,
            server="valkey",
            version=(0,),
            time_us=self._now_us(),
            received=monotonic(),
        )


class _MemoryEndpoint(Struct):
    """What both endpoints have in common. It holds no mutable state of its own."""

    server: MemoryServer
    address: Address = field(default=Address("memory", 0))

    @property
    def outstanding(self) -> int:
        """Always 0: every command is done when it returns."""
        return 0

    def disconnect(self) -> None:
        """Nothing to close."""

    def forget(self) -> None:
        """After a fork, in the child: an empty server."""
        self.server.forget()

    def _execute(self, commands: Sequence[Command], expect: Expectation | None) -> list[Reply | ServerError]:
        if self.server.busy_here():
            raise UnavailableError("the server inside the process is in the middle of a command of this thread")
        if expect is not None and not expect(self.server.greeting()):
            raise ServerChanged("the server inside the process is not the one that was expected")
        return self.server.execute(commands)


class SyncMemoryEndpoint(_MemoryEndpoint):
    """A `SyncEndpoint` of a `MemoryServer`."""

    def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `SyncEndpoint.execute`; never waits."""
        return self._execute(commands, expect)

    def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None, until: float
    ) -> list[Reply | ServerError]:
        """See `SyncEndpoint.begin`; never waits."""
        return self._execute(commands, expect)

    def get(self, key: str, now: float, patience: float, expect: Expectation, late: float) -> Reply | ServerError:
        """See `SyncEndpoint.get`; never waits."""
        return self._execute((("GET", key),), expect)[0]

    def sweep(self) -> None:
        """Nothing is ever under way."""


class AsyncMemoryEndpoint(_MemoryEndpoint):
    """An `AsyncEndpoint` of a `MemoryServer`."""

    async def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `AsyncEndpoint.execute`; never waits."""
        return self._execute(commands, expect)

    async def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None, until: float
    ) -> list[Reply | ServerError]:
        """See `AsyncEndpoint.begin`; never waits."""
        return self._execute(commands, expect)

    async def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float
    ) -> Reply | ServerError:
        """See `AsyncEndpoint.get`; never waits."""
        return self._execute((("GET", key),), expect)[0]


class SyncMemoryWire(Struct, frozen=True):
    """A `SyncWire` on which every address is the one server inside the process."""

    server: MemoryServer

    def endpoint(self, address: Address, options: ConnectionOptions) -> SyncMemoryEndpoint:
        """The endpoint."""
        return SyncMemoryEndpoint(self.server, address)


class AsyncMemoryWire(Struct, frozen=True):
    """An `AsyncWire` on which every address is the one server inside the process."""

    server: MemoryServer

    def endpoint(self, address: Address, options: ConnectionOptions) -> AsyncMemoryEndpoint:
        """The endpoint."""
        return AsyncMemoryEndpoint(self.server, address)

    async def connect(self, address: Address, options: ConnectionOptions, deadline: float) -> AsyncConnection:
        """There is no log to follow and nothing to subscribe to."""
        raise ConnectionFailed("the server inside the process has no connections of its own")

    def forget(self) -> None:
        """Nothing is open."""
