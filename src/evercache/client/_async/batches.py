"""What the public methods of functions do that take many ids at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evercache.client import telling
from evercache.client._async.batch_leads import AsyncBatchLeads
from evercache.client._async.batch_reads import AsyncBatchReads
from evercache.client.request import Batch
from evercache.client.shortage import ENOUGH_MEMORY
from evercache.client.values import value_of
from evercache.engine.engine import Engine
from evercache.engine.flights import ABSENT, UNSET, Outcome
from evercache.errors import CorruptEnvelope, ResourceExhausted, UnavailableError

__all__ = ["AsyncBatches"]


class AsyncBatches:
    """No state of its own; safe for threads and tasks. Results are in the order of the ids."""

    def __init__(self, engine: Engine, reads: AsyncBatchReads, leads: AsyncBatchLeads) -> None:
        self._engine = engine
        self._reads = reads
        self._leads = leads

    def __repr__(self) -> str:
        return f"<AsyncBatches of {self._engine!r}>"

    async def call(self, batch: Batch) -> dict[Any, Any]:
        """The results of a cached call."""
        if self._engine.hot.armed:
            self._engine.hot.take_one(batch)
        if not batch.ids:
            return {}
        try:
            with ENOUGH_MEMORY:
                outcomes = await self._reads.fetch_many(batch)
        except ResourceExhausted as error:
            outcomes = await self._without_memory(batch, range(len(batch.ids)), error)
        return await self._values(batch, outcomes)

    async def refresh(self, batch: Batch) -> dict[Any, Any]:
        """Compute now and store."""
        if not batch.ids:
            return {}
        return await self._values(batch, await self._refresh(batch, range(len(batch.ids))))

    async def _refresh(self, batch: Batch, indexes: Sequence[int]) -> list[Outcome]:
        try:
            with ENOUGH_MEMORY:
                outcomes = await self._leads.refresh_many_now(batch, indexes)
                return [outcomes[index] for index in sorted(outcomes)]
        except ResourceExhausted as error:
            return await self._without_memory(batch, indexes, error)

    async def _without_memory(
        self, batch: Batch, indexes: Sequence[int], error: ResourceExhausted
    ) -> list[Outcome]:
        """The function runs, as where there are no servers."""
        self._engine.failed(error, batch.requests[0].counters)
        if batch.requests[0].policy.on_error == "raise":
            raise error
        outcomes: dict[int, Outcome] = {}
        await self._leads.compute_many(batch, {}, indexes, outcomes)
        return [outcomes[index] for index in indexes]

    async def _values(self, batch: Batch, outcomes: list[Outcome]) -> dict[Any, Any]:
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        values: dict[Any, Any] = {}
        damaged, lacking = [], []
        again: dict[int, Outcome] = {}
        for index, (id, outcome) in enumerate(zip(batch.ids, outcomes, strict=True)):
            values[id] = outcome.value
            if outcome.value is UNSET:
                assert outcome.envelope is not None
                request = batch.requests[index]
                try:
                    with ENOUGH_MEMORY:
                        values[id] = value_of(request, outcome.envelope)
                except CorruptEnvelope as error:
                    telling.corrupt(self._engine, request.subject, request.counters, error)
                    damaged.append(index)
                except ResourceExhausted as error:
                    self._engine.failed(error, request.counters)
                    lacking.append(index)
        if lacking:
            await self._leads.compute_many(batch, {}, lacking, again)
        if damaged:
            again |= zip(damaged, await self._refresh(batch, damaged), strict=True)
        for index, outcome in again.items():
            if outcome.error is not None:
                raise outcome.error
            values[batch.ids[index]] = outcome.value
        return {id: value for id, value in values.items() if value is not ABSENT}

    async def peek(self, batch: Batch) -> dict[Any, Any]:
        """What is cached, stale values within the policy included."""
        if not batch.ids:
            return {}
        policy, counters = batch.requests[0].policy, batch.requests[0].counters
        try:
            with ENOUGH_MEMORY:
                founds = await self._reads.peek_many([r.subject for r in batch.requests], policy.budget, counters)
        except UnavailableError as error:
            self._engine.failed(error, counters)
            if policy.on_error == "raise":
                raise
            return {}
        values = {}
        for id, request, found in zip(batch.ids, batch.requests, founds, strict=True):
            if found is None or (found.stale and -found.left > max(policy.stale, policy.stale_if_error)):
                continue
            try:
                with ENOUGH_MEMORY:
                    values[id] = value_of(request, found.envelope)
            except CorruptEnvelope as error:
                telling.corrupt(self._engine, request.subject, counters, error)
            except ResourceExhausted as error:
                self._engine.failed(error, counters)
                if policy.on_error == "raise":
                    raise
        return values
