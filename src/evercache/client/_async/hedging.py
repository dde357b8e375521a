"""A plain read that is late: another node is asked as well, and the first good answer is taken."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from evercache.client.waits import AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.readers import Reader
from evercache.errors import DeadlineExceeded, PoolExhausted, ServerError, UnavailableError
from evercache.net.types import AsyncExchange
from evercache.observe import Counters, events
from evercache.protocol.types import Command

__all__ = ["AsyncHedging"]


class _Leg(NamedTuple):
    """One of the nodes that were asked."""

    reader: Reader
    exchange: AsyncExchange
    sent: float


class AsyncHedging:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._now = engine.state.now

    def __repr__(self) -> str:
        return f"<AsyncHedging of {self._engine!r}>"

    async def late(
        self,
        reader: Reader,
        exchange: AsyncExchange,
        began: float,
        commands: Sequence[Command],
        deadline: float,
        counters: Counters,
    ) -> tuple[list[Any], Reader] | None:
        """The replies to what `reader` was asked at `began`, of itself or of another node, and whose they are.

        The one that loses is left to answer in its time, and has failed only if it never does.
        """
        legs = [_Leg(reader, exchange, began)]
        try:
            # This process may have been late itself, and the answer is here.
            first = await AsyncWaits.first([exchange], 0.0)
            if first is None:
                second = await self._ask_another(reader, commands, deadline, counters)
                if second is not None:
                    legs.append(second)
            while legs:
                if first is None:
                    first = await AsyncWaits.first([leg.exchange for leg in legs], deadline - self._now())
                if first is None:
                    break
                leg = next(leg for leg in legs if leg.exchange is first)
                first = None
                legs.remove(leg)
                try:
                    replies = leg.exchange.result()
                except UnavailableError as error:
                    self.failed(leg.reader, error)
                    continue
                found = self.taken(leg.reader, replies, leg.sent, began)
                if found is not None:
                    counters.hedge_wins += leg.reader is not reader
                    now = self._now()
                    for loser in legs:  # it will take longer than this
                        loser.reader.record(now - loser.sent, now)
                    return found
            return None
        finally:
            for leg in legs:
                leg.exchange.abandon(partial(self._over, leg.reader, counters))

    async def _ask_another(
        self, reader: Reader, commands: Sequence[Command], deadline: float, counters: Counters
    ) -> _Leg | None:
        engine, sent = self._engine, self._now()
        other = engine.routing.reader(sent, reader.address)
        if other is None or other.address == reader.address or not engine.may_hedge():
            return None
        counters.hedged += 1
        engine.events.emit(events.HedgedRead(str(reader.address)))
        endpoint = other.endpoint_async or engine.attach_async(other)
        try:
            answer = await endpoint.begin(commands, deadline, other.expected, 0.0)
        except UnavailableError as error:
            if not isinstance(error, (DeadlineExceeded, PoolExhausted)):  # else no time was given to connect
                self.failed(other, error)
            return None
        assert not isinstance(answer, list)
        return _Leg(other, answer, sent)

    def taken(
        self, reader: Reader, replies: list[Any], sent: float, began: float
    ) -> tuple[list[Any], Reader] | None:
        """What a node answered to what was sent at `sent`; None when that is a failure of the node."""
        for index, reply in enumerate(replies):
            if isinstance(reply, ServerError):
                if reply.code != "WRONGTYPE":
                    self.failed(reader, reply)
                    return None
                replies[index] = None  # a foreign value under one key says nothing of the node
        now = self._now()
        reader.record(now - sent, now)
        self._engine.hedges.record(now - began)
        return replies, reader

    def failed(self, reader: Reader, error: UnavailableError) -> None:
        """A node did not answer, or with an error."""
        reader.fail(self._now(), error)
        if reader.role == "replica":  # of the master, the engine tells
            self._engine.deployment.events.emit(events.ReplicaEjected(str(reader.address), str(error)))

    def _over(self, reader: Reader, counters: Counters, error: UnavailableError | None) -> None:
        if error is not None:
            counters.replica_failures += 1
            self.failed(reader, error)
