"""The modes, and the stores that stand in for the servers."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from msgspec.structs import replace

from evercache import connect, modes
from evercache.cache import Cache
from evercache.clients import Clients
from evercache.net.memory import MemoryServer
from evercache.policy import Seconds
from evercache.process import new_lock
from evercache.testing._async.batches import AsyncRecordingBatches
from evercache.testing._async.changes import AsyncRecordingChanges
from evercache.testing._async.operations import AsyncRecordingOperations
from evercache.testing._sync.batches import SyncRecordingBatches
from evercache.testing._sync.changes import SyncRecordingChanges
from evercache.testing._sync.operations import SyncRecordingOperations
from evercache.testing.clock import Clock
from evercache.testing.recording import Log, Recording
from evercache.url import parse_url

__all__ = ["MemoryStores", "memory", "off", "record"]


class MemoryStores:
    """One store inside the process for each cache that is used. `_lock` guards which there are."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._lock = new_lock()
        self._clients: dict[Cache, Clients | None] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {list(self._clients)}>"

    def advance(self, by: Seconds) -> None:
        """Let so many seconds pass at once in every store."""
        self._clock.advance(by)

    def clear(self) -> None:
        """Let every cache begin with an empty store again."""
        with self._lock:
            known, self._clients = self._clients, {}
        for clients in known.values():
            if clients is not None:
                clients.close()

    def clients(self, cache: Cache) -> Clients | None:
        """The clients of a cache's store, made at its first use; None once the cache was closed."""
        if cache not in self._clients:
            with self._lock:
                if cache not in self._clients:
                    self._clients[cache] = self._open(cache)
        return self._clients.get(cache)

    def closed(self, cache: Cache) -> None:
        """The cache was closed."""
        with self._lock:
            clients, self._clients[cache] = self._clients.get(cache), None
        if clients is not None:
            clients.close()

    def _open(self, cache: Cache) -> Clients:
        # The spool file belongs to the real servers, and there is one database only.
        settings = replace(cache.settings, spool=None, bookkeeping_db=None)
        entries = cache.location.max_entries
        server = MemoryServer(self._clock.server_us, secrets.token_hex(20), max_entries=entries)
        engine = connect.memory_engine(parse_url("memory://"), settings, server, self._clock.monotonic)
        return Clients(engine, cache._subscribers)


class _RecordedStores(MemoryStores):
    """The same, with clients that write down what they are asked."""

    def __init__(self, *, stored: bool) -> None:
        super().__init__()
        self._stored = stored
        self.recording = Recording(self._clock)

    def _open(self, cache: Cache) -> Clients:
        clients = super()._open(cache)
        log = Log(cache, self.recording, stored=self._stored)
        clients.sync.batches = SyncRecordingBatches(clients.sync.batches, log)
        clients.asynchronous.batches = AsyncRecordingBatches(clients.asynchronous.batches, log)
        clients.sync.changes = SyncRecordingChanges(clients.sync.changes, log)
        clients.asynchronous.changes = AsyncRecordingChanges(clients.asynchronous.changes, log)
        clients.sync.operations = SyncRecordingOperations(clients.sync.operations, log)
        clients.asynchronous.operations = AsyncRecordingOperations(clients.asynchronous.operations, log)
        return clients


class _Off:
    """No clients. Immutable."""

    def clients(self, cache: Cache) -> None:
        """None: the cache is switched off."""

    def closed(self, cache: Cache) -> None:
        """There is nothing to close."""


@contextlib.contextmanager
def _active(mode: modes.Mode) -> Iterator[None]:
    modes.ordinary = False
    before, modes.active = modes.active, mode
    try:
        yield
    finally:
        modes.active = before


@contextlib.contextmanager
def memory() -> Iterator[MemoryStores]:
    """Within it every cache keeps its entries in this process, whatever its URL; each begins empty."""
    stores = MemoryStores()
    try:
        with _active(stores):
            yield stores
    finally:
        stores.clear()


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Within it every cached function runs, and operations on caches do nothing."""
    with _active(_Off()):
        yield


@contextlib.contextmanager
def record(*, store: bool = True) -> Iterator[Recording]:
    """Within it everything that is asked of caches is recorded, on top of `memory()`.

    With `store=False` nothing is kept, so that every cached function runs, as with `off()`.
    """
    stores = _RecordedStores(stored=store)
    try:
        with _active(stores):
            yield stores.recording
    finally:
        stores.clear()
