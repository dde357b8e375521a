"""The raw Redis clients of a cache, made when they are first asked for."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from evercache.process import living

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from evercache.raw import RawClients

__all__ = ["RawFace"]


class _Living(Protocol):
    def follows(self, cache: Any) -> bool: ...
    def close(self) -> None: ...
    async def aclose(self) -> None: ...


class RawFace:
    """A part of `Cache`. Needs the extra `redis`; PackageMissing says so."""

    _raw: RawClients | None = None

    def __init__(self) -> None:
        self._followers: weakref.WeakSet[_Living] = weakref.WeakSet()

    def raw(self, **options: Any) -> RawClients:
        """Redis clients with options of their own, on the servers of this cache: see `RawClients`."""
        from evercache.raw import RawClients

        return RawClients(self, **options)  # type: ignore[arg-type]

    def _usual_raw(self) -> RawClients:
        raw = self._raw
        if raw is None:
            raw = self.__dict__.setdefault("_raw", self.raw())
        return raw

    @property
    def master(self) -> redis.Redis:
        """A `redis.Redis` whose commands go to the master of this cache, through failovers."""
        return self._usual_raw().master

    @property
    def replica(self) -> redis.Redis:
        """A `redis.Redis` for reads, each at a replica in sync (the master where there is none)."""
        return self._usual_raw().replica

    @property
    def amaster(self) -> redis.asyncio.Redis:
        """`master` for tasks: a `redis.asyncio.Redis`."""
        return self._usual_raw().amaster

    @property
    def areplica(self) -> redis.asyncio.Redis:
        """`replica` for tasks: a `redis.asyncio.Redis`."""
        return self._usual_raw().areplica

    def _forget_raw(self) -> None:
        """Make them anew when they are next asked for: those there are were closed with the cache."""
        self.__dict__.pop("_raw", None)

    def _follow_life(self, clients: _Living) -> None:
        """Have clients closed with this cache."""
        self._followers.add(clients)

    def _living(self) -> list[_Living]:
        return [clients for clients in living(self._followers) if clients.follows(self)]

    def _close_raw(self) -> None:
        for clients in self._living():
            clients.close()

    async def _aclose_raw(self) -> None:
        for clients in self._living():
            with contextlib.suppress(OSError):
                await clients.aclose()
