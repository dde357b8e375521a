"""Which node a read may go to now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from evercache.errors import ServerChanged, UnavailableError
from evercache.net.types import AsyncEndpoint, Expectation, Greeting, SyncEndpoint
from evercache.protocol.balance import LatencyScore
from evercache.protocol.types import Address

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["MasterReader", "Reader"]


class Reader(Protocol):
    """A node chosen for one read. The caller says how it went: `record` or `fail`.

    Its endpoints are attached by the engine when they are first used, and again after each change of the view.
    """

    address: Address
    role: str
    score: LatencyScore
    #: Whether a connection leads to the process that was verified (rule 7). The same object as long as that is the
    #: same process, so that a connection remembers that it did.
    expected: Expectation
    endpoint_sync: SyncEndpoint | None
    endpoint_async: AsyncEndpoint | None

    def record(self, latency: float, now: float) -> None:
        """A read was answered, in so many seconds."""
        ...

    def fail(self, now: float, error: UnavailableError) -> None:
        """It was not."""
        ...


class MasterReader:
    """The master read by a plain `GET`, as the replica that never lags, where there is no other.

    Sound under the same conditions as a replica: the tail is sure of the present generation, and the connection
    leads to the process that the tail follows. Immutable but for the endpoints.
    """

    role = "master"
    #: Not looked at: nothing is chosen by it.
    score = LatencyScore()
    endpoint_sync: SyncEndpoint | None = None
    endpoint_async: AsyncEndpoint | None = None

    def __init__(self, engine: Engine, address: Address, run_id: str) -> None:
        self.address = address
        self._engine = engine
        self.run_id = run_id
        self.expected: Expectation = self._expected

    def __repr__(self) -> str:
        return f"<MasterReader {self.address}>"

    def _expected(self, greeting: Greeting) -> bool:
        return greeting.run_id == self.run_id and greeting.role == "master"

    def record(self, latency: float, now: float) -> None:
        """See `Reader`."""

    def fail(self, now: float, error: UnavailableError) -> None:
        """See `Reader`."""
        if isinstance(error, ServerChanged):
            self._engine.changed_generation()
        elif not self._engine.heard_lately():
            self._engine.master_trouble(self.address, error)
