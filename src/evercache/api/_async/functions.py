"""What can be done with a cached function besides calling it."""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar, overload

from evercache.api.function import FunctionFace
from evercache.protocol.scope import Scope
from evercache.results import Ack, Explanation

__all__ = ["AsyncFunctionFace"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncFunctionFace(FunctionFace[P, R]):
    """A part of every cached function, whether it is a coroutine function or not."""

    async def ainvalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> Ack:
        """Invalidate this call's entry. Never raises for a server's failure unless `on_error="raise"`."""
        # sync-only:
        # self._check_loop("invalidate")
        # end sync-only
        core = self._core
        subject = core.subject(self._bound + args, kwargs)
        client = core.cache._client_async()
        if client is None:
            return core.cache._unsent()
        scope = Scope.of_key(subject.key)
        (ack,) = await client.operations.invalidate(
            [scope], core.counters, function=core.name, on_error=core.policy.on_error
        )
        return ack

    async def ainvalidate_all(self) -> Ack:
        """Invalidate every entry of the function, in one step whatever their number."""
        # sync-only:
        # self._check_loop("invalidate_all")
        # end sync-only
        core = self._core
        client = core.cache._client_async()
        if client is None:
            return core.cache._unsent()
        scope = Scope.of_function(core.name)
        (ack,) = await client.operations.invalidate([scope], core.counters, on_error=core.policy.on_error)
        return ack

    @overload
    async def apeek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | None: ...
    @overload
    async def apeek(self, /, *args: Any, default: T, **kwargs: Any) -> R | T: ...
    async def apeek(self, /, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """The cached value or `default`; never computes."""
        # sync-only:
        # self._check_loop("peek")
        # end sync-only
        client = self._core.cache._client_async()
        if client is None:
            return default
        return await client.operations.peek(self._core.request(self._bound + args, kwargs), default)

    async def aexplain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Why this call hits or misses now."""
        # sync-only:
        # self._check_loop("explain")
        # end sync-only
        request = self._core.request(self._bound + args, kwargs)
        client = self._core.cache._client_async()
        if client is None:
            return Explanation(request.subject.key, "miss: the cache is switched off")
        return await client.operations.explain(request)
