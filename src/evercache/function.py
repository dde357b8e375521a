"""Cached functions: what the decorator makes of a function, a method or a coroutine function."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from evercache.api._async.functions import AsyncFunctionFace
from evercache.api._sync.functions import SyncFunctionFace
from evercache.api.core import FunctionCore
from evercache.api.keyspace import Key
from evercache.api.template import make_template
from evercache.client.serving import Unserved
from evercache.client.waits import alone, drive, in_thread

__all__ = ["AsyncCachedFunction", "CachedFunction", "Key"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")


class CachedFunction(SyncFunctionFace[P, R], AsyncFunctionFace[P, R]):
    """A cached function or method. Calling it is calling the function, faster."""

    @classmethod
    def _of(cls, core: FunctionCore, binding: str, find: Callable[[], Any]) -> CachedFunction[Any, Any]:
        """The cached function, with code of its own where that is possible (api/template.py)."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any], seen: Unserved | None = None) -> Any:
            client = core.cache._client_sync()
            if client is None:
                return alone(functools.partial(core.fn, *args, **kwargs))
            return client.operations.steps(core.request(args, kwargs), seen)

        long = functools.partial(drive, begin)
        made: CachedFunction[Any, Any] = cls._made(core, binding, make_template(core, find, long))
        return made

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own."""
        core = self._core
        if self._bound:
            args = self._bound + args  # type: ignore[assignment]
        client = core.cache._client_sync()
        if client is None:
            result: R = core.fn(*args, **kwargs)
            return result
        value: R = drive(client.operations.steps, core.request(args, kwargs))
        return value

    # In order: class methods, by the class, by an object, and static methods by an object.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], R], instance: Any, owner: type[T]
    ) -> CachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> CachedFunction[P, R]: ...
    @overload
    def __get__(self: Callable[Concatenate[T, Q], R], instance: T, owner: Any = None) -> CachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> CachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self._bind(instance, owner)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute now and store, whatever is cached."""
        client = self._core.cache._client_sync()
        if client is None:
            return self.uncached(*args, **kwargs)
        value: R = client.operations.refresh(self._core.request(self._bound + args, kwargs))
        return value

    async def arefresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for tasks; the function runs in a thread."""
        return await in_thread(self.refresh, *args, **kwargs)


class AsyncCachedFunction(SyncFunctionFace[P, R], AsyncFunctionFace[P, R]):
    """A cached coroutine function or method."""

    # asyncio.iscoroutinefunction() of Python 3.11 looks for this mark.
    _is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)

    @classmethod
    def _of(cls, core: FunctionCore, binding: str, find: Callable[[], Any]) -> AsyncCachedFunction[Any, Any]:
        """As `CachedFunction._of`."""

        def long(args: tuple[Any, ...], kwargs: dict[str, Any], seen: Unserved | None = None) -> Any:
            client = core.cache._client_async()
            if client is None:
                return core.fn(*args, **kwargs)
            return client.operations.call(core.request(args, kwargs), seen)

        made: AsyncCachedFunction[Any, Any] = cls._made(core, binding, make_template(core, find, long))
        return made

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own."""
        core = self._core
        if self._bound:
            args = self._bound + args  # type: ignore[assignment]
        client = core.cache._client_async()
        if client is None:
            result: R = await core.fn(*args, **kwargs)
            return result
        value: R = await client.operations.call(core.request(args, kwargs))
        return value

    # In order: class methods, by the class, by an object, and static methods by an object.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], Coroutine[Any, Any, R]], instance: Any, owner: type[T]
    ) -> AsyncCachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[T, Q], Coroutine[Any, Any, R]], instance: T, owner: Any = None
    ) -> AsyncCachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> AsyncCachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self._bind(instance, owner)

    async def arefresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute now and store, whatever is cached."""
        core = self._core
        client = core.cache._client_async()
        if client is None:
            plain: R = await core.fn(*self._bound, *args, **kwargs)
            return plain
        value: R = await client.operations.refresh(core.request(self._bound + args, kwargs))
        return value

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for threads; the function runs in an event loop of its own."""
        self._check_loop("refresh")
        work: Coroutine[Any, Any, R] = self.arefresh(*args, **kwargs)
        return asyncio.run(work)
