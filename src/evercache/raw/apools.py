"""redis-py's asyncio pools for routed connections: for each event loop and each server one."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import ConnectionPool

from evercache.protocol.types import Address
from evercache.raw.aconnections import ARoutedConnection, aconnection_class
from evercache.raw.pools import LEGACY, choose, extras
from evercache.raw.routes import MasterRoute, ReplicaRoute, Route, aim
from evercache.raw.source import Source

__all__ = ["AMasterPool", "ASpreadPool"]


class _ARoutedPool(ConnectionPool):
    """Of connections on one route, in one event loop."""

    #: The clients that it belongs to, if it is the pool of one.
    owner: object = None

    def __init__(self, route: Route, **options: Any) -> None:
        self.route = route
        told = extras(ConnectionPool)
        super().__init__(**{**told, **options, "connection_class": ARoutedConnection, "route": route})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.route!r}>"

    @property
    def source(self) -> Source:
        """Where the servers are known from."""
        return self.route.source

    def change(self, options: Mapping[str, Any]) -> None:
        """Use these options for connections from now on; those that are idle are made anew."""
        self.connection_kwargs.update(options)
        self.reset()  # type: ignore[no-untyped-call]

    @property
    def connection_class(self) -> type[Any]:
        """See `RoutedPool.connection_class`."""
        source = self.route.source
        if not source.attached:
            return ARoutedConnection
        return aconnection_class(source.node_options, source.unix)

    @connection_class.setter
    def connection_class(self, _: Any) -> None:
        """redis-py sets what it was given."""

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """See redis-py."""
        self.source.check()
        if LEGACY:
            return await super().get_connection(command_name or "_")  # type: ignore[no-untyped-call]
        return await super().get_connection()  # type: ignore[no-untyped-call]

    async def release(self, connection: Any) -> None:
        """See redis-py; what follows on the connection is another command."""
        if connection.guard.unanswered:  # see `RoutedPool.release`
            await connection.disconnect(nowait=True)
        connection.guard.doubt = False
        await super().release(connection)


class _AManyPool(_ARoutedPool):
    """Looks like one pool, and has one for each loop and server. Guarded by: each loop uses its own."""

    spread = False

    def __init__(self, source: Source, route: Route, **options: Any) -> None:
        self._options = options
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Address | None, _ARoutedPool]] = (
            weakref.WeakKeyDictionary()
        )
        self._busy: Counter[Address] = Counter()
        super().__init__(route, **options)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """See redis-py."""
        self.source.check()
        fit = self.source.readable(aim().need) if self.spread else []
        address = choose(self.source, fit, self._busy) if fit else None
        pool = self._pool(address)
        if address is not None:
            self._busy[address] += 1
        try:
            connection = await pool.get_connection(command_name)
        except BaseException:
            self._done(address)
            raise
        connection.guard.lent = address, pool
        return connection

    def _pool(self, address: Address | None) -> _ARoutedPool:
        pools = self._pools.setdefault(asyncio.get_running_loop(), {})
        pool = pools.get(address)
        if pool is None:
            route = ReplicaRoute(self.source, address) if self.spread else self.route
            pool = pools[address] = _ARoutedPool(route, **self._options)
        return pool

    def _done(self, address: Address | None) -> None:
        if address is not None:
            self._busy[address] = max(0, self._busy[address] - 1)

    async def release(self, connection: Any) -> None:
        """See redis-py."""
        address, pool = connection.guard.lent
        self._done(address)
        if self.spread and connection.guard.address != address:
            await connection.disconnect(nowait=True)  # it was made anew meanwhile, to another one
        await pool.release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections of the running loop."""
        for pool in list(self._pools.get(asyncio.get_running_loop(), {}).values()):
            await pool.disconnect(inuse_connections)

    def change(self, options: Mapping[str, Any]) -> None:
        """See `_ARoutedPool`."""
        self._options = {**self._options, **options}
        for pools in list(self._pools.values()):
            for pool in list(pools.values()):
                pool.change(options)

    def set_retry(self, retry: Any) -> None:
        """See redis-py."""
        self._options = {**self._options, "retry": retry}
        for pools in list(self._pools.values()):
            for pool in list(pools.values()):
                pool.set_retry(retry)


class AMasterPool(_AManyPool):
    """Of connections to the master."""

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(source, MasterRoute(source), **options)


class ASpreadPool(_AManyPool):
    """Chooses a replica anew each time a connection is taken: for each command."""

    spread = True

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(source, ReplicaRoute(source), **options)
