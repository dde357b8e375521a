"""What can be done with a cached function of many ids besides calling it."""

from __future__ import annotations

from typing import Any, Generic, ParamSpec, TypeVar

from evercache.api.batch_face import BatchFace
from evercache.protocol.scope import Scope
from evercache.results import Ack, Explanation

__all__ = ["AsyncBatchFace"]

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")


class AsyncBatchFace(BatchFace[P, K, V], Generic[P, K, V]):
    """A part of every function under `cached_many()`. Each method takes the arguments of a call."""

    async def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, Ack]:
        """Invalidate the entries of these ids, in one round trip; one answer for each.

        Never raises for a server's failure unless `on_error="raise"`.
        """
        # sync-only:
        # self._check_loop("invalidate")
        # end sync-only
        core = self._core
        args, kwargs = self._bound + args, kwargs  # type: ignore[assignment]
        ids = core.ids(args, kwargs)
        subjects = core.subjects(ids, args, kwargs)
        client = core.cache._client_async()
        if client is None:
            return dict.fromkeys(ids, core.cache._unsent())
        acks = await client.operations.invalidate(
            [Scope.of_key(subject.key) for subject in subjects],
            core.counters,
            function=core.name,
            on_error=core.policy.on_error,
        )
        return dict(zip(ids, acks, strict=True))

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

    async def apeek(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """The values that are cached; never computes."""
        # sync-only:
        # self._check_loop("peek")
        # end sync-only
        client = self._core.cache._client_async()
        if client is None:
            return {}
        return await client.batches.peek(self._core.batch(self._bound + args, kwargs))

    async def aexplain(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, Explanation]:
        """Why each of these ids hits or misses now; asks the servers for one after the other."""
        # sync-only:
        # self._check_loop("explain")
        # end sync-only
        batch = self._core.batch(self._bound + args, kwargs)
        client = self._core.cache._client_async()
        explanations: dict[Any, Explanation] = {}
        for id, request in zip(batch.ids, batch.requests, strict=True):
            if client is None:
                explanations[id] = Explanation(request.subject.key, "miss: the cache is switched off")
            else:
                explanations[id] = await client.operations.explain(request)
        return explanations
