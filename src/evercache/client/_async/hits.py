"""The way of nearly every read: one `GET` at one node. Whatever is out of the ordinary goes the long way."""

from __future__ import annotations

from math import inf
from os import getpid
from types import coroutine
from typing import Any

from evercache import process
from evercache.client._async.link import AsyncLink
from evercache.client.request import Plan
from evercache.client.serving import NOT_ASKED, Serving, Unserved
from evercache.client.sharing import join
from evercache.engine.engine import Engine
from evercache.engine.route import NOWHERE
from evercache.errors import UnavailableError
from evercache.net.requests import Question
from evercache.net.resp import PENDING
from evercache.protocol.balance import NOISE

__all__ = ["AsyncHits"]


class AsyncHits:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink) -> None:
        self._engine = engine
        self._state = engine.state
        self._now = engine.state.now
        self._link = link
        self.serving = Serving(engine)
        #: See `Serving`; they wait for nothing.
        self.near, self.near_again = self.serving.near, self.serving.near_again

    def __repr__(self) -> str:
        return f"<AsyncHits of {self._engine!r}>"

    # async-only
    @coroutine  # which may give a question to its task by itself
    # end async-only
    def get(self, plan: Plan, key: str, tags: tuple[bytes, ...]) -> Any:
        """The value of a call, if one look at one node is enough; else what it brought (`Unserved`)."""
        if getpid() != process.pid:
            process.notice_fork()  # before anything is said on a connection of the parent's
        state, clock = self._state, self._now
        obeyed = state.marks.horizon  # before a node is chosen
        began = asked = clock()
        patience, late = plan.patience, inf
        route = state.route
        if began > route.until:
            route = self._engine.routing.route(began)
            if route is NOWHERE:
                return NOT_ASKED
        # async-only
        reading = state.reading
        if key in reading:
            joined = yield from join(state, plan, key, began)
            if isinstance(joined, Unserved):
                if joined.data is None:
                    return joined
                return self.serving.value(
                    plan, key, tags, joined.data, joined.source, joined.resyncs, began, clock(), joined.obeyed
                )
            # It asks for itself after all, in what is left of its time.
            asked = clock()
            patience = began + plan.patience - asked
            if patience <= 0 or state.journal.pending or asked > state.sure_until:
                return Unserved(began, tried=joined)
            another = self._engine.routing.sure_reader(asked, joined)
            if another is None:
                return Unserved(began)
            reader = another
        else:
            reader = next(route.readers)
        # end async-only
        # sync-only:
        # reader = next(route.readers)
        # end sync-only
        endpoint = reader.endpoint_async or self._engine.attach_async(reader)
        if route.even and endpoint.outstanding and asked == began:
            assert route.members is not None
            reader = self._engine.replicas.weigh(route.members, asked)
            endpoint = reader.endpoint_async or self._engine.attach_async(reader)
        hedges = route.hedges
        if hedges is not None:
            late = hedges.delay if hedges.delay < plan.latest else plan.latest
        try:
            answer = endpoint.get(key, asked, patience, reader.expected, late)
            # async-only
            reading[key] = answer, reader, began, plan, obeyed
            if type(answer) is Question and answer.reply is PENDING:
                yield answer  # what `await` does, with nothing made for it
                data: Any = answer.reply
            else:
                data = yield from answer.__await__()
            # end async-only
            # sync-only:
            # data: Any = answer
            # end sync-only
        except UnavailableError as error:
            plan.counters.replica_failures += self._link.read_failed(reader, error)
            return Unserved(began, tried=reader.address)
        except MemoryError:
            return NOT_ASKED
        # async-only
        finally:
            reading.pop(key, None)
        # end async-only
        now = clock()
        if type(data) is not bytes:
            if data is None:
                return Unserved(began, None, reader.role, route.resyncs)
            # async-only
            taken = yield from self._link.odd(reader, data, key, asked, asked + patience, plan.counters)
            # end async-only
            # sync-only:
            # taken = self._link.odd(reader, data, key, asked, asked + patience, plan.counters)
            # end sync-only
            if taken is None:
                plan.counters.replica_failures += 1
                return Unserved(began, tried=reader.address)
            data, reader = taken
            if data is None:
                return Unserved(began, None, reader.role, route.resyncs)
            now = clock()
        elif route.members is not None:
            took = now - asked
            if took >= NOISE or not reader.score.quick:
                reader.record(took, now)
            if hedges is not None:
                hedges.record(took)
        return self.serving.value(plan, key, tags, data, reader.role, route.resyncs, began, now, obeyed)
