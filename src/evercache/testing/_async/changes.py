"""Changes that a client writes down."""

from __future__ import annotations

from evercache.client._async.changes import AsyncChanges
from evercache.engine.state import Hold
from evercache.observe import Counters
from evercache.policy import OnError
from evercache.results import Ack
from evercache.testing.recording import Log

__all__ = ["AsyncRecordingChanges"]


class AsyncRecordingChanges(AsyncChanges):
    """No state of its own; safe for threads and tasks. What is changed counts as invalidated, once, at the end."""

    def __init__(self, plain: AsyncChanges, log: Log) -> None:
        super().__init__(plain._engine, plain._link, plain._writes)
        self._log = log

    def __repr__(self) -> str:
        return f"<AsyncRecordingChanges {self._log!r}>"

    async def end(self, hold: Hold, counters: Counters, on_error: OnError) -> list[Ack]:
        """See `AsyncChanges.end`."""
        acks = await super().end(hold, counters, on_error)
        for scope in hold.scopes:
            self._log.invalidation(scope, "")
        return acks
