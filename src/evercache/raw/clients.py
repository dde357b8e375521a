"""Whole redis-py clients on the servers of a cache: `master` and `replica`, and their twins for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import EqualJitterBackoff
from redis.client import Pipeline
from redis.retry import Retry

from evercache.client.waits import in_thread
from evercache.errors import ConfigurationError
from evercache.raw.apools import AMasterPool, ASpreadPool
from evercache.raw.connection_state import BROKEN
from evercache.raw.errors import Stale
from evercache.raw.pools import MasterPool, SpreadPool
from evercache.raw.routes import Aim, aiming
from evercache.raw.scans import scanned
from evercache.raw.source import RawOptions, Source

if TYPE_CHECKING:
    from evercache.cache import Cache

__all__ = ["RawClients"]

#: Options of redis-py that the URL of the cache decides, or the route.
_DECIDED = (
    "connection_class",
    "connection_pool",
    "db",
    "host",
    "password",
    "path",
    "port",
    "redis_connect_func",
    "retry_on_error",
    "retry_on_timeout",
    "route",
    "unix_socket_path",
    "username",
)
#: How often a command is begun anew that did not run, or only read.
_ANEW = 5


class RawClients:
    """Redis clients that follow the master and the replicas of a cache; they can be made before it.

    `master` and `replica` are `redis.Redis`, `amaster` and `areplica` are `redis.asyncio.Redis`; they stay the same
    objects. `wait`: for how long (seconds) a command waits for a server that takes it, through a failover (None:
    `down-after-milliseconds` of the sentinels and 5 s for their election, at most 30; 5 s without sentinels).
    `socket_timeout`: for how long for an answer, beyond what a blocking command asks for. `retry`: how often a
    command is repeated that failed and may have run (0: never). `read_your_writes`: what was written through
    `master` is read from a replica only once that has it. `missing`: called where a command comes and no cache is
    attached; it may attach one, else it says what to do. Other `options` go to redis-py's connections
    (`decode_responses`, `max_connections`, `health_check_interval`, ...). Raises ConfigurationError.
    """

    def __init__(
        self,
        cache: Cache | None = None,
        *,
        wait: float | None = None,
        socket_timeout: float | None = 5.0,
        retry: int = 0,
        read_your_writes: bool = False,
        missing: Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        decided = sorted(set(options) & set(_DECIDED)) + [name for name in options if name.startswith("ssl")]
        if decided:
            raise ConfigurationError(f"{', '.join(decided)}: the URL of the cache decides this, leave it out here")
        if type(retry) is not int or retry < 0:
            raise ConfigurationError(f"retry={retry!r}: give how often a command that may have run is repeated")
        self._source = Source(RawOptions(wait, read_your_writes), missing)
        self._options: Mapping[str, Any] = {"socket_timeout": socket_timeout, **options}
        once, anew = self._told(retry, Retry), self._told(_ANEW, Retry)
        #: For everything: commands go to the master.
        self.master = redis.Redis(connection_pool=MasterPool(self._source, **once))
        #: For reads: each command goes to a replica in sync, or to the master where there is none.
        self.replica: redis.Redis = _ReplicaRedis(connection_pool=SpreadPool(self._source, **anew))
        once, anew = self._told(retry, AsyncRetry), self._told(_ANEW, AsyncRetry)
        #: `master` for tasks, of any event loop.
        self.amaster = redis.asyncio.Redis(connection_pool=AMasterPool(self._source, **once))
        #: `replica` for tasks, of any event loop.
        self.areplica: redis.asyncio.Redis = _AsyncReplicaRedis(connection_pool=ASpreadPool(self._source, **anew))
        clients: tuple[Any, ...] = (self.master, self.replica, self.amaster, self.areplica)
        for client in clients:
            client.connection_pool.owner = self  # who keeps one of them has all closed with the cache
        if cache is not None:
            self.attach(cache)

    def __repr__(self) -> str:
        return f"<RawClients {self._source!r}>"

    def attach(self, cache: Cache) -> None:
        """Use the servers of this cache from now on. ConfigurationError for memory://."""
        self._source.attach(cache)
        cache._follow_life(self)

    @property
    def wait(self) -> float:
        """For how long (seconds) a command that was not sent waits for a server that takes it."""
        return self._source.wait()

    def change(self, *, socket_timeout: float | None, retry: int, wait: float | None) -> None:
        """Take other options, as they are described above; what is under way keeps its own."""
        self._options = {**self._options, "socket_timeout": socket_timeout}
        self._source.change_wait(wait)
        for client, kind, repeat in (
            (self.master, Retry, retry),
            (self.replica, Retry, _ANEW),
            (self.amaster, AsyncRetry, retry),
            (self.areplica, AsyncRetry, _ANEW),
        ):
            pool: Any = client.connection_pool
            pool.change(self._told(repeat, kind))

    def follows(self, cache: Cache) -> bool:
        """Whether this is the cache that was attached last."""
        return self._source.follows(cache)

    def _told(self, repeat: int, kind: Any) -> dict[str, Any]:
        """With `repeat`, any command that failed is sent again; without, only what certainly did not run."""
        errors = BROKEN if repeat else (Stale,)
        retry = kind(EqualJitterBackoff(cap=0.5, base=0.004), repeat or _ANEW, errors)
        return {**self._options, "retry": retry, "retry_on_error": list(errors)}

    def close(self) -> None:
        """Break every connection; a command from now on raises `ClientsClosed`. The cache's `close` does it too."""
        self._source.close()
        for client in (self.master, self.replica):
            client.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """`close`, with the connections of the running loop."""
        for client in (self.amaster, self.areplica):
            await client.connection_pool.disconnect(inuse_connections=False)
        await in_thread(self.close)


def _aim(client: Any, *commands: Any) -> Aim:
    source = client.connection_pool.source
    page = scanned(commands[0]) if len(commands) == 1 else None
    if page is not None and not page.begins:
        # SCAN promises nothing of what is written after it began.
        return Aim(scan=True, server=source.cursors.server(page))
    need = -inf if source.writes is None else float(source.writes.needed(commands))
    return Aim(need, scan=page is not None)


class _ReplicaRedis(redis.Redis):
    """Says for each command which replicas have what it may read."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        with aiming(_aim(self, args)):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _ReplicaPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _ReplicaPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with aiming(_aim(self, *(command[0] for command in self.command_stack))):
            return super().execute(raise_on_error)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        with aiming(_aim(self, ("KEYS", "*"), args)):  # more will follow on the same connection
            return super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]


class _AsyncReplicaRedis(redis.asyncio.Redis):
    """The same for tasks."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        with aiming(_aim(self, args)):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> AsyncPipeline:
        return _AsyncReplicaPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _AsyncReplicaPipeline(AsyncPipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        with aiming(_aim(self, *(command[0] for command in self.command_stack))):
            return await super().execute(raise_on_error)

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        with aiming(_aim(self, ("KEYS", "*"), args)):  # more will follow on the same connection
            return await super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]
