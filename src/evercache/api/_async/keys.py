"""Operations on keys that the user names, on tags, and on everything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from evercache.api.keyspace import UNCONDITIONAL, Keyspace
from evercache.policy import TTL, WAITED, OnError, Seconds, seconds
from evercache.protocol.scope import EVERYTHING, Scope
from evercache.results import Ack, Health

__all__ = ["AsyncKeys"]

R = TypeVar("R")


class AsyncKeys(Keyspace):
    """A part of `Cache`. `ttl` is in seconds, a timedelta, or a callable of the value.

    `ttl=inf` is for what must not expire: an entry lives for `max_ttl`, and a `get` in the last third of that
    renews it in the background. So one that nobody reads for two thirds of `max_ttl` may leave.
    """

    async def aget(self, key: str, default: Any = None, *, on_error: OnError | None = None) -> Any:
        """The value of a key, or `default` when there is none or no server answers."""
        client = self._client_async()
        if client is None:
            return default
        return await client.operations.get(self._requests((key,), on_error)[0], default)

    async def aget_many(
        self, keys: Iterable[str], default: Any = None, *, on_error: OnError | None = None
    ) -> dict[str, Any]:
        """The values of many keys in one round trip; every key is in the result."""
        keys = list(dict.fromkeys(keys))
        client = self._client_async()
        if client is None:
            return dict.fromkeys(keys, default)
        requests = self._requests(keys, on_error)
        return dict(zip(keys, await client.operations.get_many(requests, default), strict=True))

    # -- explicit writes

    async def aset(
        self,
        key: str,
        value: Any,
        *,
        ttl: TTL | None = None,
        tags: Iterable[str] = (),
        since: int | None = UNCONDITIONAL,
        on_error: OnError | None = None,
    ) -> Ack:
        """Write a value. True when the master has it; on failure an invalidation of the key is queued.

        `since`, a stamp taken with `stamp()` before the value was read, refuses a value that was invalidated
        meanwhile; None, which `stamp()` gives when no master answers, is refused as well. An int below 2**53
        becomes a counter for `incr`.
        """
        if since is None:
            return Ack(False, reason="unavailable")
        client = self._client_async()
        if client is None:
            return self._unsent()
        request = self._request(key, ttl=ttl, tags=tags, on_error=on_error)
        return await client.operations.set(
            request, value, mode="set" if since == UNCONDITIONAL else "since", since=max(since, 0)
        )

    async def aset_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: TTL | None = None,
        tags: Iterable[str] = (),
        on_error: OnError | None = None,
    ) -> dict[str, Ack]:
        """Write many values; one answer for each key."""
        client = self._client_async()
        if client is None:
            return dict.fromkeys(values, self._unsent())
        tags = tuple(tags) if not isinstance(tags, str) else tags
        return await client.operations.set_many(self._writes(values, ttl, tags, on_error))

    async def aadd(
        self,
        key: str,
        value: Any,
        *,
        ttl: TTL | None = None,
        tags: Iterable[str] = (),
        on_error: OnError | None = None,
    ) -> Ack:
        """Write a value if the key has none; `.existed` tells that it had."""
        client = self._client_async()
        if client is None:
            return self._unsent()
        return await client.operations.set(
            self._request(key, ttl=ttl, tags=tags, on_error=on_error), value, mode="add"
        )

    async def adelete(self, key: str, *, on_error: OnError | None = None) -> Ack:
        """Delete a key, everywhere and for whoever computes it now; `.existed` tells whether it was there."""
        return (await self.adelete_many([key], on_error=on_error))[key]

    async def adelete_many(self, keys: Iterable[str], *, on_error: OnError | None = None) -> dict[str, Ack]:
        """Delete many keys in one round trip."""
        keys = list(dict.fromkeys(keys))
        client = self._client_async()
        if client is None:
            return dict.fromkeys(keys, self._unsent())
        scopes = [Scope.of_key(self._request(key).subject.key) for key in keys]
        acks = await client.operations.invalidate(scopes, self._counters, on_error=on_error)
        return dict(zip(keys, acks, strict=True))

    async def atouch(self, key: str, *, ttl: TTL | None = None, on_error: OnError | None = None) -> bool:
        """Give an entry a new time to live; False when there is none."""
        client = self._client_async()
        if client is None:
            return False
        return await client.operations.touch(self._request(key, ttl=ttl, on_error=on_error))

    async def aexpires_in(self, key: str, *, on_error: OnError | None = None) -> float | None:
        """Seconds until an entry expires, `inf` for one with `ttl=inf`; None when there is none."""
        client = self._client_async()
        if client is None:
            return None
        return await client.operations.expires_in(self._request(key, on_error=on_error))

    async def aincr(
        self,
        key: str,
        delta: int = 1,
        *,
        initial: int = 0,
        ttl: TTL | None = None,
        on_error: OnError | None = None,
    ) -> int | None:
        """Add to a counter and return its value; one that is not there begins at `initial` with this TTL.

        None when no master answers. NotACounter when the key holds something else, OverflowError beyond 2**53.
        """
        client = self._client_async()
        if client is None:
            return None
        return await client.operations.incr(self._request(key, ttl=ttl, on_error=on_error), delta, initial)

    # -- computing

    async def aget_or_compute(
        self,
        key: str,
        # async-only
        fn: Callable[[], Coroutine[Any, Any, R]],
        # end async-only
        # sync-only:
        # fn: Callable[[], R],
        # end sync-only
        *,
        ttl: TTL | None = None,
        tags: Iterable[str] = (),
        stale: Seconds = 0,
        stale_if_error: Seconds = 0,
        on_error: OnError | None = None,
    ) -> R:
        """The value of a key, or what `fn()` returns, computed once at a time over all processes."""
        client = self._client_async()
        if client is None:
            return await fn()
        request = self._request(
            key,
            ttl=ttl,
            tags=tags,
            on_error=on_error,
            compute=fn,
            stale=seconds(stale, "stale"),
            stale_if_error=seconds(stale_if_error, "stale_if_error"),
        )
        result: R = await client.operations.call(request)
        return result

    # -- looking around

    async def _ascan(self, pattern: str, count: int) -> AsyncIterator[list[str]]:
        """Keys that fit a glob pattern, as the caller named them; not those that are stored under a hash."""
        client, head = self._client_async(), f"{self.settings.namespace}:k:"
        if client is not None:
            async for names in client.operations.scan(head + pattern, count):
                yield [name.removeprefix(head) for name in names if not name.startswith(f"{head}#")]

    # -- wide invalidations

    async def ainvalidate_tag(self, tag: str, *, on_error: OnError | None = None) -> Ack:
        """Invalidate every entry with this tag, in one step whatever their number."""
        return await self._awide(Scope.of_tag(tag), on_error)

    async def aclear(self, *, on_error: OnError | None = None) -> Ack:
        """Invalidate everything in the namespace, in one step."""
        return await self._awide(EVERYTHING, on_error)

    async def _awide(self, scope: Scope, on_error: OnError | None) -> Ack:
        client = self._client_async()
        if client is None:
            return self._unsent()
        return (await client.operations.invalidate([scope], self._counters, on_error=on_error))[0]

    async def astamp(self) -> int | None:
        """A stamp for `set(..., since=)`: take it before reading the value; None when no master answers."""
        client = self._client_async()
        return None if client is None else await client.operations.stamp(WAITED * self.settings.budget)

    async def ahealth(self) -> Health:
        """How the servers stand, seen from this process; asks each of them."""
        client = self._client_async()
        if client is None:
            return self._no_health()
        from evercache.connect import health  # imported since the URL is known

        return health(client.engine, await client.operations.nodes())
