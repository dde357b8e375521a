"""What serves the calls of one cache: its clients, for threads and for tasks, on an engine."""

from __future__ import annotations

from evercache import connect
from evercache.api.keyspace import Hot
from evercache.client._async.client import AsyncClient
from evercache.client._sync.client import SyncClient
from evercache.engine.alone import Alone
from evercache.engine.engine import Engine
from evercache.observe import Subscribers
from evercache.policy import Settings
from evercache.topology import AddressMap
from evercache.url import Location

__all__ = ["Clients", "prepare"]

prepare = connect.prepare


class Clients:
    """One cache's part of an engine: as long as one of them is referenced, the engine lives."""

    def __init__(self, engine: Engine, subscribers: Subscribers | None = None) -> None:
        self.engine = engine
        self._hot: Hot | None = None
        self._subscribers = subscribers
        self._attach()
        self.sync = SyncClient(engine)
        self.asynchronous = AsyncClient(engine)
        engine.users.add(self)

    @classmethod
    def at(
        cls, location: Location, settings: Settings, address_map: AddressMap | None, subscribers: Subscribers
    ) -> Clients:
        """Clients on the engine for these servers and settings; nothing is opened yet."""
        return connect.use(location, settings, address_map, lambda engine: cls(engine, subscribers))

    def __repr__(self) -> str:
        return f"<Clients of {self.engine!r}>"

    def _attach(self) -> None:
        if self._subscribers is not None:
            for hub in (self.engine.deployment.events, self.engine.events):
                hub.attach(self._subscribers)

    def warn_of_others(self, namespace: str) -> None:
        """Warn if other processes may exist: nobody chose the memory of this one."""
        self.engine.alone = Alone(self.engine.events, namespace)

    def lead(self, hot: Hot) -> None:
        """Publish these clients to the generated code of cached functions."""
        self._hot = hot
        self._attach()
        hot.take(self.sync.hits, self.asynchronous.hits)

    def divert(self, wanted: bool) -> None:
        """Send the next call the slow path, which looks at it, or let calls take the fast path again."""
        hot = self._hot
        if hot is None:
            return
        if wanted:
            hot.take(None, None)
        else:
            hot.take(self.sync.hits, self.asynchronous.hits)

    def after_fork(self) -> None:
        """In the child: no refresh of the parent is under way here."""
        self.sync.after_fork()
        self.asynchronous.after_fork()

    def close(self) -> None:
        """Leave the engine, which is closed if no other cache uses it."""
        hot, self._hot = self._hot, None
        if hot is not None:
            hot.take(None, None)
        self.sync.close()
        self.asynchronous.close()
        self.engine.leave(self)
        if self._subscribers is not None:
            for hub in (self.engine.deployment.events, self.engine.events):
                hub.detach(self._subscribers)
        if hot is not None:
            hot.take(None, None)  # it may have been on its way back from a diversion
