"""Changes in a database, so that nobody caches what was read before they are there."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from evercache.api.changes import AT_MOST, Change, Changed, longest, scopes_of
from evercache.api.keyspace import Keyspace
from evercache.engine.flights import Owner
from evercache.observe import Counters
from evercache.policy import OnError, Seconds, check_choice
from evercache.protocol.scope import Scope

if TYPE_CHECKING:
    from evercache.client._async.client import AsyncClient

__all__ = ["AsyncChangeBlock", "AsyncChanging"]


class AsyncChangeBlock:
    """What `achanging` returns; for one `async with`."""

    def __init__(
        self,
        client: AsyncClient | None,
        scopes: list[Scope],
        seconds: float,
        counters: Counters,
        on_error: OnError,
    ) -> None:
        self._client = client
        self._scopes, self._seconds = scopes, seconds
        self._counters, self._on_error = counters, on_error
        self._change = Change()
        #: Kept by this block, and so by the frame of its `async with`.
        self._owner = Owner()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._change!r}>"

    async def __aenter__(self) -> Change:
        client = self._client
        if client is not None:
            try:
                hold, _ = await client.changes.begin(
                    self._scopes, self._seconds, self._counters, self._on_error, self._owner
                )
                self._change.begun(hold, client.engine.state)
            except BaseException:
                self._owner.over = True
                raise
        return self._change

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        client, change = self._client, self._change
        try:
            if client is not None and change.hold is not None:
                change.acks = await client.changes.end(change.hold, self._counters, self._on_error)
        finally:
            self._owner.over = True


class AsyncChanging(Keyspace):
    """A part of `Cache`."""

    def achanging(
        self,
        *what: Changed,
        tag: str | Iterable[str] = (),
        at_most: Seconds = AT_MOST,
        on_error: OnError | None = None,
    ) -> AsyncChangeBlock:
        """Put around a change, its commit included: what it covers is invalidated at both ends, and in between
        computed but not cached, in all processes.

        `what`: keys (`f.key(7)`) and cached functions; `tag`: one, or several. If this process is killed in
        between, or the block takes longer, fills are allowed again after `at_most` seconds. Without a master the
        block runs all the same, and the invalidations are queued.
        """
        chosen = on_error or self.settings.on_error
        check_choice("on_error", chosen, ("absorb", "raise"))
        scopes, seconds = scopes_of(self, what, tag), longest(at_most)
        return AsyncChangeBlock(self._client_async(), scopes, seconds, self._counters, chosen)
