"""Changes in a database, so that nobody caches what was read before they are there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from evercache.faces.changes import AT_MOST, Change, Changed, longest, scopes_of
from evercache.faces.keyspace import Keyspace
from evercache.policy import OnError, Seconds, check_choice

__all__ = ["AsyncChanging"]


class AsyncChanging(Keyspace):
    """A part of `Cache`."""

    @asynccontextmanager
    async def achanging(
        self,
        *what: Changed,
        tag: str | Iterable[str] = (),
        at_most: Seconds = AT_MOST,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Change]:
        """Put around a change, its commit included: what it covers is invalidated at both ends, and in between
        computed but not cached, in all processes.

        `what`: keys (`f.key(7)`) and cached functions; `tag`: one, or several. If this process is killed in
        between, or the block takes longer, fills are allowed again after `at_most` seconds. Without a master the
        block runs all the same, and the invalidations are queued.
        """
        scopes, seconds = scopes_of(self, what, tag), longest(at_most)
        on_error = on_error or self.settings.on_error
        check_choice("on_error", on_error, ("absorb", "raise"))
        client = self._client_async()
        if client is None:
            yield Change(None, time.monotonic)
            return
        hold, _ = await client.changes.begin(scopes, seconds, self._counters, on_error)
        change = Change(hold, client.engine.state.now)
        try:
            yield change
        finally:
            change.acks = await client.changes.end(hold, self._counters, on_error)
