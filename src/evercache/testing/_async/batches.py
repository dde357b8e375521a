"""What the client does for many ids at once, and writes down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from evercache.client._async.batches import AsyncBatches
from evercache.client.request import Batch
from evercache.testing.recording import Log, served

__all__ = ["AsyncRecordingBatches"]


class AsyncRecordingBatches(AsyncBatches):
    """As `AsyncRecordingOperations`: each id counts as a call of its own."""

    def __init__(self, plain: AsyncBatches, log: Log) -> None:
        super().__init__(plain._engine, plain._reads, plain._leads)
        self._log = log

    def __repr__(self) -> str:
        return f"<AsyncRecordingBatches {self._log!r}>"

    def _watched(self, batch: Batch) -> Batch:
        places = dict(zip(batch.ids, batch.requests, strict=True))

        async def compute(ids: list[Any]) -> Any:
            outcome = "raised"
            try:
                values = await batch.compute(ids)
                outcome = "returned"
                return values
            finally:
                for id in ids:
                    self._log.add("compute", outcome, places[id].subject)

        return replace(batch, compute=compute)

    async def _plain(self, batch: Batch) -> dict[Any, Any]:
        """Without a store: what the function returns."""
        values: Mapping[Any, Any] = await batch.compute(list(batch.ids)) if batch.ids else {}
        return {id: values[id] for id in batch.ids if id in values}

    async def call(self, batch: Batch) -> dict[Any, Any]:
        """See `AsyncBatches.call`."""
        watched = self._watched(batch)
        if not self._log.stored:
            for request in batch.requests:
                self._log.add("call", "miss", request.subject)
            return await self._plain(watched)
        if not batch.ids:
            return {}
        outcomes = await self._reads.fetch_many(watched)
        for request, outcome in zip(batch.requests, outcomes, strict=False):
            self._log.add("call", served(outcome), request.subject)
        return await self._values(watched, outcomes)

    async def refresh(self, batch: Batch) -> dict[Any, Any]:
        """See `AsyncBatches.refresh`."""
        watched, outcome = self._watched(batch), "raised"
        try:
            values = await (super().refresh(watched) if self._log.stored else self._plain(watched))
            outcome = "done"
            return values
        finally:
            for request in batch.requests:
                self._log.add("refresh", outcome, request.subject)

    async def peek(self, batch: Batch) -> dict[Any, Any]:
        """See `AsyncBatches.peek`."""
        values = await super().peek(batch) if self._log.stored else {}
        for id, request in zip(batch.ids, batch.requests, strict=True):
            self._log.add("peek", "hit" if id in values else "miss", request.subject)
        return values
