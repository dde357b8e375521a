"""Cached functions of many ids: what `cached_many()` makes of a function, a method or a coroutine function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from evercache.api._async.batches import AsyncBatchFace
from evercache.api._sync.batches import SyncBatchFace
from evercache.client.waits import in_thread

__all__ = ["AsyncCachedMany", "CachedMany"]

P = ParamSpec("P")
Q = ParamSpec("Q")
K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class CachedMany(SyncBatchFace[P, K, V], AsyncBatchFace[P, K, V], Generic[P, K, V]):
    """A cached function of many ids. A call returns a dict in the order of the ids, each of which has an entry; the
    function runs once, with a list of those that are not cached."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """The values of these ids, without those that the function left out."""
        core, everything = self._core, self._bound + args
        client = core.cache._client_sync()
        if client is None:
            return self._in_order(*core.plain(everything, kwargs))
        return client.batches.call(core.batch(everything, kwargs))

    # In order: class methods, by the class, by an object, and static methods by an object.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], dict[K, V]], instance: Any, owner: type[T]
    ) -> CachedMany[Q, K, V]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> CachedMany[P, K, V]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[T, Q], dict[K, V]], instance: T, owner: Any = None
    ) -> CachedMany[Q, K, V]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> CachedMany[P, K, V]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self._bind(instance, owner)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Compute now and store, whatever is cached."""
        core, everything = self._core, self._bound + args
        client = core.cache._client_sync()
        if client is None:
            return self._in_order(*core.plain(everything, kwargs))
        return client.batches.refresh(core.batch(everything, kwargs))

    async def arefresh(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """The same for tasks; the function runs in a thread."""
        return await in_thread(self.refresh, *args, **kwargs)


class AsyncCachedMany(SyncBatchFace[P, K, V], AsyncBatchFace[P, K, V], Generic[P, K, V]):
    """The same for coroutine functions."""

    # asyncio.iscoroutinefunction() of Python 3.11 looks for this mark.
    _is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """The values of these ids, without those that the function left out."""
        core, everything = self._core, self._bound + args
        client = core.cache._client_async()
        if client is None:
            return await self._plain(everything, kwargs)
        return await client.batches.call(core.batch(everything, kwargs))

    async def _plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Any, Any]:
        ids, work = self._core.plain(args, kwargs)
        return self._in_order(ids, await work if ids else {})

    # In order: class methods, by the class, by an object, and static methods by an object.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], Coroutine[Any, Any, dict[K, V]]], instance: Any, owner: type[T]
    ) -> AsyncCachedMany[Q, K, V]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> AsyncCachedMany[P, K, V]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[T, Q], Coroutine[Any, Any, dict[K, V]]], instance: T, owner: Any = None
    ) -> AsyncCachedMany[Q, K, V]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> AsyncCachedMany[P, K, V]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self._bind(instance, owner)

    async def arefresh(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Compute now and store, whatever is cached."""
        core, everything = self._core, self._bound + args
        client = core.cache._client_async()
        if client is None:
            return await self._plain(everything, kwargs)
        return await client.batches.refresh(core.batch(everything, kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """The same for threads; the function runs in an event loop of its own."""
        self._check_loop("refresh")
        work: Coroutine[Any, Any, dict[K, V]] = self.arefresh(*args, **kwargs)
        return asyncio.run(work)
