"""redis-py's blocking pools for routed connections: one of the master's, one that spreads over the replicas."""

from __future__ import annotations

import inspect
import os
import random
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

import redis
from redis.connection import ConnectionPool

from evercache.net.places import collect_dropped
from evercache.process import new_lock
from evercache.protocol.types import Address
from evercache.raw.connections import RoutedConnection, connection_class
from evercache.raw.routes import MasterRoute, ReplicaRoute, Route, aim
from evercache.raw.source import Source

__all__ = ["RoutedPool", "SpreadPool", "choose", "extras"]

#: Before 5.3 a pool was told for which command a connection is wanted; later that is warned of.
LEGACY = tuple(int(part) for part in redis.__version__.split(".")[:2] if part.isdigit()) < (5, 3)


def extras(pool: type[Any]) -> dict[str, Any]:
    """What redis-py's pools are told beside: the hints of a proxy about its moves are of no use here."""
    if "maint_notifications_config" not in inspect.signature(pool.__init__).parameters:
        return {}
    from redis.maint_notifications import MaintNotificationsConfig

    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


def choose(source: Source, fit: list[Address], busy: Counter[Address]) -> Address:
    """One of two chosen at random, that with the fewest commands under way; for a scan always the same."""
    wanted = aim()
    server = wanted.server
    if server is not None and (server in fit or source.is_master(server)):
        return server
    if wanted.scan:
        return min(fit, key=str)
    one, two = random.choice(fit), random.choice(fit)
    return one if busy[one] <= busy[two] else two


class RoutedPool(ConnectionPool):
    """Of connections on one route. What is told of the servers is known once the source has its cache."""

    #: The clients that it belongs to, if it is the pool of one.
    owner: object = None

    def __init__(self, route: Route, **options: Any) -> None:
        self.route = route
        told = extras(ConnectionPool)
        super().__init__(**{**told, **options, "connection_class": RoutedConnection, "route": route})

    def __repr__(self) -> str:
        return f"<RoutedPool {self.route!r}>"

    @property
    def source(self) -> Source:
        """Where the servers are known from."""
        return self.route.source

    def change(self, options: Mapping[str, Any]) -> None:
        """Use these options for connections from now on; those that are idle are made anew."""
        self.connection_kwargs.update(options)
        self.reset()

    @property
    def connection_class(self) -> type[Any]:
        """The class of new connections: that for TLS or a unix socket where the URL has it so."""
        source = self.route.source
        if not source.attached:
            return RoutedConnection
        return connection_class(source.node_options, source.unix)

    @connection_class.setter
    def connection_class(self, _: Any) -> None:
        """redis-py sets what it was given."""

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """See redis-py."""
        self.source.check()
        if self._created_connections >= self.max_connections and not self._available_connections:
            collect_dropped()
        if LEGACY:
            return super().get_connection(command_name or "_")
        return super().get_connection()

    def make_connection(self) -> Any:
        """See redis-py, which holds its lock meanwhile.

        A caller that a signal handler interrupted drops its connection, and counts nothing down.
        """
        if self._created_connections >= self.max_connections:
            self._created_connections = len(self._available_connections) + self.in_use
        return super().make_connection()

    def release(self, connection: Any) -> None:
        """See redis-py; what follows on the connection is another command.

        redis-py releases it in a `finally`, also where a signal handler raised before the answer was read.
        """
        if connection.guard.unanswered:
            connection.disconnect()
        connection.guard.doubt = False
        super().release(connection)

    def reset(self) -> None:
        """See redis-py; whoever loses a connection loses its place."""
        super().reset()
        self._in_use_connections: Any = weakref.WeakSet()

    @property
    def in_use(self) -> int:
        """How many of its connections somebody uses."""
        return len(list(self._in_use_connections))


class MasterPool(RoutedPool):
    """Of connections to the master."""

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(MasterRoute(source), **options)


class SpreadPool(RoutedPool):
    """Chooses a replica anew each time a connection is taken: for each command. It has a pool for each of them."""

    def __init__(self, source: Source, **options: Any) -> None:
        self._options = options
        #: Guards the one below.
        self._choosing = new_lock()
        self._pools: dict[Address | None, RoutedPool] = {}
        super().__init__(ReplicaRoute(source), **options)

    def __repr__(self) -> str:
        return f"<SpreadPool {list(self._pools)}>"

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """See redis-py."""
        self.source.check()
        if self.pid != os.getpid():
            self.reset()
        fit = self.source.readable(aim().need)
        with self._choosing:
            busy = Counter({one: pool.in_use for one, pool in self._pools.items() if one is not None})
            address = choose(self.source, fit, busy) if fit else None
            pool = self._pool(address)
        connection = pool.get_connection(command_name)
        connection.guard.lent = address, pool
        return connection

    def _pool(self, address: Address | None) -> RoutedPool:
        pool = self._pools.get(address)
        if pool is None:
            for gone in [a for a in self._pools if a is not None and not self.source.in_view(a)]:
                self._pools.pop(gone).disconnect(inuse_connections=False)
            pool = self._pools[address] = RoutedPool(ReplicaRoute(self.source, address), **self._options)
        return pool

    def release(self, connection: Any) -> None:
        """See redis-py."""
        address, pool = connection.guard.lent
        if connection.guard.address != address:
            connection.disconnect()  # it was made anew meanwhile, to another one
        pool.release(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """See redis-py."""
        for pool in list(self._pools.values()):
            pool.disconnect(inuse_connections)

    def reset(self) -> None:
        """See redis-py."""
        self._pools = {}
        super().reset()

    def change(self, options: Mapping[str, Any]) -> None:
        """See `RoutedPool`."""
        self._options = {**self._options, **options}
        super().change(options)

    def set_retry(self, retry: Any) -> None:
        """See redis-py."""
        self._options = {**self._options, "retry": retry}
        for pool in list(self._pools.values()):
            pool.set_retry(retry)
