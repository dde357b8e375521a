"""The way of nearly every read: one `GET` at one node. Whatever is out of the ordinary goes the long way."""

from __future__ import annotations

from math import inf
from typing import Any

from evercache.client._async.link import AsyncLink
from evercache.client.request import Plan
from evercache.client.serving import NOT_ASKED, Serving, Unserved
from evercache.engine.engine import Engine
from evercache.errors import UnavailableError
from evercache.protocol.balance import LATEST

__all__ = ["AsyncHits"]


class AsyncHits:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink) -> None:
        self._engine = engine
        self._state = engine.state
        self._now = engine.state.now
        self._link = link
        self._serving = Serving(engine)
        #: See `Serving`; they wait for nothing.
        self.near, self.near_again = self._serving.near, self._serving.near_again
        self._available = engine.settings.consistency == "available"

    def __repr__(self) -> str:
        return f"<AsyncHits of {self._engine!r}>"

    async def get(self, plan: Plan, key: str, tags: tuple[bytes, ...]) -> Any:
        """The value of a call, if one look at one node is enough; else what it brought (`Unserved`)."""
        engine, state = self._engine, self._state
        began = self._now()
        if plan.near or state.journal.pending or began > state.sure_until or not self._available:
            return NOT_ASKED
        reader = engine.sure_reader(began)
        if reader is None:
            return NOT_ASKED
        resyncs = state.resyncs
        until, replicas = inf, engine.view.replicas
        if replicas and engine.hedges.share:
            until = began + min(engine.hedges.delay, LATEST * plan.patience)
        endpoint = reader.endpoint_async or engine.attach_async(reader)
        try:
            data = await endpoint.get(key, began, began + plan.patience, reader.expected, until)
        except UnavailableError as error:
            plan.counters.replica_failures += self._link.read_failed(reader, error)
            return Unserved(began, tried=reader.address)
        now = self._now()
        if type(data) is not bytes:
            if data is None:
                return Unserved(began, None, reader.role, resyncs)
            taken = await self._link.odd(reader, data, key, began, began + plan.patience, plan.counters)
            if taken is None:
                plan.counters.replica_failures += 1
                return Unserved(began, tried=reader.address)
            data, reader = taken
            if data is None:
                return Unserved(began, None, reader.role, resyncs)
            now = self._now()
        elif replicas:
            reader.record(now - began, now)
            if until != inf:
                engine.hedges.record(now - began)
        return self._serving.value(plan, key, tags, data, reader.role, resyncs, began, now)
