"""The types that blocking and asynchronous connections, and every topology, share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import Struct

from evercache.errors import PoolExhausted, ServerError, UnavailableError
from evercache.protocol.types import Address, Command, Reply

if TYPE_CHECKING:
    from asyncio import Future

__all__ = [
    "HASTE",
    "AsyncConnection",
    "AsyncEndpoint",
    "AsyncExchange",
    "AsyncWire",
    "ConnectionOptions",
    "Credentials",
    "Expectation",
    "Greeting",
    "OnReply",
    "Over",
    "Overdue",
    "SyncEndpoint",
    "SyncExchange",
    "SyncWire",
    "TLSOptions",
]

#: Told of a reply as soon as it has come.
OnReply: TypeAlias = Callable[[Reply | ServerError], None]


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password; neither is shown by `repr`."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


class TLSOptions(Struct, frozen=True):
    """TLS of one group of servers; paths of PEM files."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True
    verify: bool = True


class ConnectionOptions(Struct, frozen=True):
    """How to talk to one group of servers (nodes, or sentinels). Times are in seconds."""

    credentials: Credentials = Credentials()
    db: int = 0
    tls: TLSOptions | None = None
    connect_timeout: float = 0.2
    max_connections: int = 50
    client_name: str = "evercache"
    #: Sentinels know neither SELECT nor replication: their greeting is shorter.
    sentinel: bool = False


class Greeting(Struct, frozen=True):
    """What a server said of itself when a connection to it was made."""

    run_id: str
    role: str  # "master" | "slave" | "sentinel"
    replid: str
    server: str  # "valkey" | "redis"
    version: tuple[int, ...]
    #: TIME of the server in microseconds (0 for a sentinel), and the local monotonic clock at its receipt.
    time_us: int
    received: float


#: Looks at the greeting of the connection about to be used; False closes it and raises `ServerChanged`.
Expectation: TypeAlias = Callable[[Greeting], bool]


#: Told once when an exchange that was left alone is over: None, or why no whole answer came.
Over: TypeAlias = Callable[[UnavailableError | None], None]


class Overdue(PoolExhausted):
    """All connections of an endpoint wait for answers that are late: ask another server, which costs nothing."""


#: Seconds that `begin` may take to make a connection when it is not to wait for the answer: whoever calls it so has
#: another question under way, and cannot look at that meanwhile.
HASTE = 0.01


class SyncExchange(Protocol):
    """Commands that were sent and not answered yet. One thread uses it; it ends by `result` or by `abandon`."""

    def fileno(self) -> int:
        """Of its socket, to wait for; only before it is over."""
        ...

    def settle(self) -> bool:
        """Take what has come, without waiting; True when it is over (answered, failed or past its deadline)."""
        ...

    def result(self) -> list[Reply | ServerError]:
        """The replies, or the error that `execute` would have raised; only once it is over."""
        ...

    def abandon(self, over: Over) -> None:
        """Nobody wants the answer. Its connection serves no other call before it has come, or is closed."""
        ...


class AsyncExchange(Protocol):
    """The same for tasks."""

    @property
    def future(self) -> Future[list[Any]]:
        """Resolved when it is over."""
        ...

    def result(self) -> list[Reply | ServerError]:
        """See `SyncExchange.result`."""
        ...

    def abandon(self, over: Over) -> None:
        """See `SyncExchange.abandon`."""
        ...


class SyncEndpoint(Protocol):
    """One server address with a pool of blocking connections. Safe for threads."""

    address: Address

    def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """Send the commands in one write on one connection, return one reply for each.

        `deadline` is a point on `clock.monotonic()`. Error replies are returned as `ServerError` values of the
        fitting class. Raises `ConnectionFailed`, `DeadlineExceeded`, `PoolExhausted`, `ServerChanged`, or an
        `AuthenticationFailed` / `Loading` / ... of the greeting.
        """
        ...

    def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None, until: float
    ) -> list[Reply | ServerError] | SyncExchange:
        """The same, but where the replies have not come at `until`, what is under way is returned.

        With an `until` that has passed it only sends, and making a connection may take `HASTE`. With one before the
        deadline, no connection is made beside those whose answers are overdue: that raises `Overdue`.
        """
        ...

    def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float
    ) -> Reply | ServerError | SyncExchange:
        """The same for one `GET` of a key that is not long, which may be sent twice: the hot path.

        `now` is the present time on `clock.monotonic()`. The deadline is `patience` seconds later, and after `late`
        seconds the exchange is returned: the same two numbers from most calls of a function.
        """
        ...

    def sweep(self) -> None:
        """Look at the exchanges that were abandoned. Never waits; any thread may call it, now and then."""
        ...

    @property
    def outstanding(self) -> int:
        """Requests under way now."""
        ...

    def disconnect(self) -> None:
        """Close every connection (those in use when they come back); the endpoint stays usable."""
        ...

    def forget(self) -> None:
        """After a fork, in the child: drop the parent's connections without a word to the server."""
        ...


class AsyncEndpoint(Protocol):
    """The same for tasks: one pipelined connection for each event loop that uses it."""

    address: Address

    async def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply | ServerError]:
        """See `SyncEndpoint.execute`."""
        ...

    async def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None, until: float
    ) -> list[Reply | ServerError] | AsyncExchange:
        """See `SyncEndpoint.begin`."""
        ...

    def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float
    ) -> Awaitable[Reply | ServerError | AsyncExchange]:
        """See `SyncEndpoint.get`; awaited at once."""
        ...

    @property
    def outstanding(self) -> int:
        """Requests under way now, over all event loops."""
        ...

    def disconnect(self) -> None:
        """See `SyncEndpoint.disconnect`; callable from any thread."""
        ...

    def forget(self) -> None:
        """See `SyncEndpoint.forget`."""
        ...


class AsyncConnection(Protocol):
    """One connection of its own, for blocking reads and for pub/sub; belongs to one event loop."""

    greeting: Greeting

    async def execute(
        self, commands: Sequence[Command], deadline: float, *, first: OnReply | None = None
    ) -> list[Reply | ServerError]:
        """See `SyncEndpoint.execute`; after an exception the connection is closed.

        `first` is called with the first of several replies as soon as it is there, where others may block. It may
        close the connection, and must not raise.
        """
        ...

    async def next_push(self) -> list[Any]:
        """The next out-of-band message (`[b"pmessage", pattern, channel, data]`, ...); waits for it."""
        ...

    def pushes(self) -> list[list[Any]]:
        """Take those that have come; without waiting. All that the server sent before a reply came before it."""
        ...

    def close(self) -> None:
        """Close it; whoever waits gets `ConnectionFailed`."""
        ...


class SyncWire(Protocol):
    """Makes blocking endpoints."""

    def endpoint(self, address: Address, options: ConnectionOptions) -> SyncEndpoint:
        """An endpoint; connects at its first use."""
        ...


class AsyncWire(Protocol):
    """Makes asynchronous endpoints and single connections."""

    def endpoint(self, address: Address, options: ConnectionOptions) -> AsyncEndpoint:
        """An endpoint; connects at its first use."""
        ...

    async def connect(self, address: Address, options: ConnectionOptions, deadline: float) -> AsyncConnection:
        """Open a connection of one's own and greet."""
        ...

    def forget(self) -> None:
        """After a fork, in the child: close what the parent has open, and say nothing to the servers."""
        ...
