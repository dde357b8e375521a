"""The cache: the decorator, and the operations on keys that the user names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar

from evercache import modes
from evercache.api._async.changes import AsyncChanging
from evercache.api._async.keys import AsyncKeys
from evercache.api._sync.changes import SyncChanging
from evercache.api._sync.keys import SyncKeys
from evercache.api.changes import AT_MOST, Changed
from evercache.api.core import Functions
from evercache.api.keyspace import Hot
from evercache.api.raw import RawFace
from evercache.client.request import Usual
from evercache.codecs import Codec, Compression, Encoder, TypeRegistry
from evercache.decorators import Decorators
from evercache.errors import ConfigurationError
from evercache.observe import Counters, Event, EventHub, Subscribers, events
from evercache.policy import Consistency, OnError, Seconds, Settings, seconds
from evercache.process import new_lock, notice_fork, reset_after_fork
from evercache.protocol.keys import Naming, ReadableNaming
from evercache.results import Ack, Stats
from evercache.url import Location, parse_url

if TYPE_CHECKING:
    from evercache.client._async.client import AsyncClient
    from evercache.client._async.hits import AsyncHits
    from evercache.client._sync.client import SyncClient
    from evercache.client._sync.hits import SyncHits
    from evercache.clients import Clients
    from evercache.engine.engine import Engine
    from evercache.integrations.sqlalchemy import AnySession
    from evercache.topology.base import AddressMap

__all__ = ["Cache"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

#: The caches that are switched off in this thread or task.
_switched_off: ContextVar[frozenset[Cache]] = ContextVar("evercache_switched_off", default=frozenset())


class Cache(Decorators, SyncKeys, AsyncKeys, SyncChanging, AsyncChanging, RawFace):
    """A cache on the servers of a URL; nothing is opened before the first use. Safe for threads and tasks.

    `url` (default: the environment variable `EVERCACHE_URL`, else `memory://`) is described in docs/urls.md.
    Times are in seconds: `budget` is the most that a call spends on the cache, `default_ttl` the life of an
    entry that names none, `max_ttl` the longest possible, `max_staleness` how long an invalidation may go
    unheard before reads go to the master, `lag_bound` the lag above which a replica is not read, `hedge` the
    share of reads that may be sent to a second node when the first is late. `share_reads`: tasks that read one key
    at the same moment share one round trip. `hot_samples`: calls a second that each process adds to the sample of
    what is hot (`evercache warm --from-hot`). `on_error`: "absorb" (a failure of the servers never reaches the
    caller) or "raise". `consistency`: "available" or "strict". `fallback_codec` writes what `codec` cannot hold.
    `bookkeeping_db`: another database number of the same servers for marks and log. `spool`: a file for
    invalidations that no master had when the process ended. Raises ConfigurationError.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "evercache",
        budget: Seconds = 0.25,
        default_ttl: Seconds = 300,
        max_ttl: Seconds = 30 * 86400,
        max_compute: Seconds = 300,
        max_staleness: Seconds = 1.0,
        lag_bound: Seconds = 10.0,
        hedge: float = 0.05,
        share_reads: bool = True,
        hot_samples: float = 0.0,
        gutter: Seconds = 1.5,
        jitter: float = 0.05,
        beta: float = 1.0,
        on_error: OnError = "absorb",
        consistency: Consistency = "available",
        codec: Codec | None = None,
        also_read: Iterable[Codec] = (),
        fallback_codec: Codec | None = None,
        compress_above: int = 1024,
        max_value_bytes: int = 1 << 20,
        near_bytes: int = 16 << 20,
        bookkeeping_db: int | None = None,
        naming: Naming | None = None,
        address_map: AddressMap | None = None,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        RawFace.__init__(self)
        source = url if url is not None else os.environ.get("EVERCACHE_URL")
        #: Whether nobody chose the memory of this process: then other processes are worth a warning.
        self._assumed = not source and url is None
        self.location: Location = parse_url("memory://" if self._assumed else source or "")
        # What this URL needs is imported now: before the process forks, and not within the first call.
        from evercache import clients

        clients.prepare(self.location)
        self.settings = Settings(
            namespace=namespace,
            budget=seconds(budget, "budget"),
            default_ttl=seconds(default_ttl, "default_ttl"),
            max_ttl=seconds(max_ttl, "max_ttl"),
            max_compute=seconds(max_compute, "max_compute"),
            max_staleness=seconds(max_staleness, "max_staleness"),
            lag_bound=seconds(lag_bound, "lag_bound"),
            hedge=hedge,
            share_reads=share_reads,
            hot_samples=hot_samples,
            gutter=seconds(gutter, "gutter"),
            jitter=jitter,
            beta=beta,
            max_value_bytes=max_value_bytes,
            near_bytes=near_bytes,
            bookkeeping_db=bookkeeping_db,
            on_error=on_error,
            consistency=consistency,
            spool=None if spool is None else os.fspath(spool),
        )
        self.naming: Naming = naming if naming is not None else ReadableNaming()
        self._types = TypeRegistry()
        encoder = Encoder(
            types=self._types,
            compression=Compression(above=compress_above),
            max_value_bytes=max_value_bytes,
            also_read=tuple(also_read),
            fallback=fallback_codec,
        )
        self._encoder = encoder if codec is None else encoder.with_codec(codec)
        self._address_map = address_map
        self._counters = Counters()
        self._subscribers = Subscribers()
        reset_after_fork(self._subscribers)
        self._usual = Usual()
        self._functions = Functions()
        #: Guards the creation of the clients.
        self._lock = new_lock()
        self._clients: Clients | None = None
        self._hot = Hot()
        #: Behind raw clients while the cache is switched off: `_clients` would switch it on.
        self._apart: Clients | None = None
        self._closed = self._closed_warned = False
        self._disabled = os.environ.get("EVERCACHE_DISABLED", "") not in ("", "0")

    def __repr__(self) -> str:
        return f"<Cache {self.location.redacted()} namespace={self.settings.namespace!r}>"

    def __copy__(self) -> Self:
        """Itself: it is a handle, and a second one would close what the first one uses."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: make a Cache with the same URL and settings in each process")

    # -- the machinery behind

    def _find(self) -> Clients | None:
        """The clients, made at the first use; None when the cache is switched off."""
        if self in _switched_off.get():
            return None
        mode = modes.active
        if mode is not None:
            return mode.clients(self)  # type: ignore[no-any-return]
        clients = self._clients
        if self._disabled:
            return None
        if self._closed:
            self._warn_closed()
            return None
        if clients is None:
            notice_fork()
            with self._lock:
                clients = self._clients
                if clients is None and not self._closed:
                    clients = self._begin()
        if clients is not None and clients.engine.alone is not None:
            clients.engine.alone.used()
        return clients

    def _connect(self, location: Location) -> Clients:
        from evercache.clients import Clients  # imported since the URL is known

        return Clients.at(location, self.settings, self._address_map, self._subscribers)

    def _begin(self) -> Clients:
        """Under the lock."""
        clients = self._connect(self.location)
        if self._assumed:
            clients.warn_of_others(self.settings.namespace)
        if self._clients is not None:  # a signal handler or a finalizer of this thread was quicker
            return self._clients
        self._clients = clients
        clients.lead(self._hot)
        return clients

    def _raw_engine(self) -> Engine:
        """For raw clients, which work whether or not the cache is switched off; ConfigurationError when closed."""
        notice_fork()
        with self._lock:
            if self._closed:
                raise ConfigurationError(f"{self!r} was closed")
            if self._disabled:
                if self._apart is None:
                    self._apart = self._connect(self.location)
                return self._apart.engine
            return (self._clients or self._begin()).engine

    def _unsent(self) -> Ack:
        """The answer to a write that is sent nowhere: as asked for when switched off, not done when closed."""
        closed = self._closed and modes.active is None
        return Ack(False, reason="closed") if closed else Ack(True)

    def _client_sync(self) -> SyncClient | None:
        clients = self._find()
        return None if clients is None else clients.sync

    def _client_async(self) -> AsyncClient | None:
        clients = self._find()
        return None if clients is None else clients.asynchronous

    def _hits_sync(self) -> SyncHits | None:
        if not modes.ordinary and (modes.active is not None or _switched_off.get()):
            return None  # the long way finds out
        return self._hot.sync

    def _hits_async(self) -> AsyncHits | None:
        if not modes.ordinary and (modes.active is not None or _switched_off.get()):
            return None
        return self._hot.asynchronous

    # -- transactions

    def invalidate_on_commit(
        self, session: AnySession, *what: Changed, tag: str | Iterable[str] = (), at_most: Seconds = AT_MOST
    ) -> None:
        """Have these invalidated when a session of SQLAlchemy (for threads or tasks, scoped ones too) commits.

        Fills are refused from right before the COMMIT, as by `changing`. After a rollback nothing is invalidated.
        """
        from evercache.integrations.sqlalchemy import invalidate_on_commit

        invalidate_on_commit(self, session, *what, tag=tag, at_most=at_most)

    # -- how it stands

    def stats(self) -> Stats:
        """Counts of all functions and direct operations since the process began, and what is held in memory."""
        counters = self._counters + self._functions.counters()
        clients = self._clients if modes.active is None else self._find()
        if clients is None:
            return Stats(counters)
        state = clients.engine.state
        marks = state.marks
        return Stats(
            counters,
            near_entries=len(state.near),
            near_bytes=state.near.size,
            marks=len(marks.functions) + len(marks.tags) + len(marks.keys),
            journal=len(state.journal),
            pending=len(state.journal.pending),
            resyncs=state.resyncs,
        )

    def subscribe(self, callback: Callable[[Event], Any]) -> Callable[[], None]:
        """Have a callback called with each event that is told (docs/events.md); returns what ends that.

        It runs soon after, on a thread of its own, and holds up nothing. One that raises is called no more.
        """
        notice_fork()
        return self._subscribers.add(callback, self)

    # -- life

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it, in this thread or task, the functions of this cache run and its operations do nothing."""
        modes.ordinary = False
        token = _switched_off.set(_switched_off.get() | {self})
        try:
            yield
        finally:
            _switched_off.reset(token)

    def close(self) -> None:
        """Send what is queued once more, and release the servers at once; cached functions go on, uncached.

        Connections that other caches of this process use too stay open. A cache that is merely dropped releases
        everything by itself. Entering a closed cache (`with`, `async with`) opens it again.
        """
        notice_fork()
        with self._lock:
            self._closed, self._closed_warned = True, False
            clients, self._clients = self._clients, None
            apart, self._apart = self._apart, None
        self._close_raw()
        for one in (clients, apart):
            if one is not None:
                one.close()
        self._lead_again()
        if modes.active is not None:
            modes.active.closed(self)

    def _lead_again(self) -> None:
        """Publish the present clients again, if another thread entered the cache while it was being closed."""
        with self._lock:
            if self._clients is not None:
                self._clients.lead(self._hot)

    async def aclose(self) -> None:
        """`close` for tasks."""
        await self._aclose_raw()
        from evercache.client.waits import in_thread  # with asyncio

        await in_thread(self.close)

    def _open(self) -> None:
        notice_fork()
        with self._lock:
            if self._closed:
                self._forget_raw()
            self._closed = False

    def _warn_closed(self) -> None:
        if not self._closed_warned:
            self._closed_warned = True
            namespace = self.settings.namespace
            EventHub(subscribers=self._subscribers, namespace=namespace).emit(events.UsedAfterClose(namespace))

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
