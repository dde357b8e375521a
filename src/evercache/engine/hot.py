"""The sample of the calls that a site makes most, from which `evercache warm --from-hot` fills a cache.

At random moments one call is caught: the next ones go the long way, which looks whether one is wanted. So a hit
costs nothing for it, not even a comparison, and each call is caught in proportion to how often it is made. What was
caught is kept at the master in a sorted set of bounded size, brought there twice a minute by each process that
caught something. A score is the logarithm of a count that halves every hour: it never overflows, and old ones need
no visit to sink.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from math import log2
from typing import TYPE_CHECKING, Any

from evercache.codecs import StrictCodec, TypeRegistry
from evercache.errors import CannotEncode, UnavailableError

if TYPE_CHECKING:
    from evercache.client.request import Batch, Request
    from evercache.engine.engine import Engine

__all__ = ["LOST", "MOST", "TAKEN", "HotSample", "member", "weight"]

#: Calls kept at the master, and in a process for the case that the master loses them.
MOST, _KEPT = 10_000, 1_000
#: A sample that nobody adds to is gone after so many milliseconds.
_LIFE_MS = 30 * 86_400 * 1000
_HALF_LIFE_MS = 3_600_000.0
#: Seconds between two visits at the master, and how long one may take.
_EVERY, _PATIENCE = 30.0, 2.0
#: So many calls are let pass first, at random and at most: else it would always be the first call of a page.
_PASSED = 32
#: A call whose arguments take more bytes than that is kept by its key only.
_LONGEST = 1024
#: What stands between the name of the function and the arguments, or the key where they cannot be kept.
TAKEN, LOST = b"\x00", b"\x01"

_codec, _types = StrictCodec(), TypeRegistry()


def weight(first: float, second: float) -> float:
    """The logarithm (to base 2) of the sum of two counts that are given by their logarithms."""
    high, low = max(first, second), min(first, second)
    return high + log2(1.0 + 2.0 ** (low - high))


def member(function: str, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """What is kept of a call: its arguments, or its key where they are objects or too long."""
    try:
        given = _codec.encode((args, kwargs), _types)
    except CannotEncode:
        given = b""
    if given and len(given) <= _LONGEST:
        return function.encode() + TAKEN + given
    return function.encode() + LOST + key.encode()


class HotSample:
    """Owned by the engine. `take` is called by any thread, the rest on the background's loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Whether the next call is to be kept.
        self.armed = False
        self._passed = 0
        #: Sends the next call of a cached function the long way, or lets it go its own again.
        self.divert: Callable[[bool], None] = lambda wanted: None
        self.every = _EVERY
        #: Caught and not yet brought, and all that was caught lately, by member; the values are as the scores.
        self._new: dict[bytes, float] = {}
        self._kept: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<HotSample {len(self._new)} to bring, {len(self._kept)} kept{' armed' if self.armed else ''}>"

    # -- callers

    def take(self, request: Request) -> None:
        """Keep a call of a cached function, if it is the one; none is caught then until the next moment comes."""
        if not self._chosen():
            return
        call = request.compute
        if request.subject.function and isinstance(call, functools.partial):
            self._keep(member(request.subject.function, request.subject.key, call.args, call.keywords))

    def take_one(self, batch: Batch) -> None:
        """The same of a call for many ids: one of them, in the place of the ids."""
        if self._chosen() and batch.ids and batch.one is not None:
            index = int(self._engine.state.rng.random() * len(batch.ids))
            args, kwargs = batch.one(batch.ids[index])
            subject = batch.requests[index].subject
            self._keep(member(subject.function, subject.key, args, dict(kwargs)))

    def _chosen(self) -> bool:
        self._passed -= 1  # a lost update passes one more
        if self._passed >= 0:
            return False
        self._disarm()
        return True

    def _disarm(self) -> None:
        self.armed = False
        self.divert(False)

    def _keep(self, call: bytes) -> None:
        state = self._engine.state
        moment = state.clock.server_ms(state.now())
        if moment is not None:
            seen = self._new.get(call)
            count = moment / _HALF_LIFE_MS
            self._new[call] = count if seen is None else weight(seen, count)

    # -- the background

    async def run(self) -> None:
        """Catch calls at random moments, and bring them to the master."""
        state, rate = self._engine.state, self._engine.settings.hot_samples
        brought = state.now()
        while True:
            await asyncio.sleep(min(60.0, state.rng.expovariate(rate)))
            if not self.armed:
                self._passed = int(state.rng.random() * _PASSED)
                self.armed = True
                self.divert(True)
            if self._new and state.now() - brought >= self.every:
                brought = state.now()
                await self.bring()

    async def bring(self) -> bool:
        """Add what was caught to the sample at the master; False when it stays for the next time."""
        engine, caught, self._new = self._engine, self._new, {}
        new = dict(caught)  # a thread may be adding to the other one
        for call, count in new.items():
            # The newest come last, so that the oldest leave.
            known = self._kept.pop(call, None)
            self._kept[call] = count if known is None else weight(known, count)
        for call in list(self._kept)[: max(0, len(self._kept) - _KEPT)]:
            del self._kept[call]
        master = engine.view.master
        try:
            if master is None or not engine.state.ready:
                raise UnavailableError("no master is followed")
            await self._bring(master, new)
        except UnavailableError:
            # Here and there one of them is counted twice, if the answer was lost: the order stays.
            self._new = {**dict(list(new.items())[-_KEPT:]), **self._new}
            return False
        return True

    async def _bring(self, master: Any, new: dict[bytes, float]) -> None:
        engine, key = self._engine, self._engine.bookkeeping.hot
        connection = await engine.connect_tail(master)
        try:
            until = engine.state.now() + _PATIENCE
            (size,) = checked(await connection.execute([("ZCARD", key)], until))
            if not size:
                new = dict(self._kept)  # it was lost there (FLUSHALL, say): all that is remembered here
            (scores,) = checked(await connection.execute([("ZMSCORE", key, *new)], until))
            words: list[Any] = []
            for (call, count), score in zip(new.items(), scores, strict=True):
                # Between the question and this another process may have added its own: a sample bears that.
                words += [repr(count if score is None else weight(float(score), count)), call]
            size, _ = checked(await connection.execute([("ZADD", key, *words), ("PEXPIRE", key, _LIFE_MS)], until))
            (size,) = checked(await connection.execute([("ZCARD", key)], until))
            if size > MOST:
                checked(await connection.execute([("ZPOPMIN", key, size - MOST)], until))
        finally:
            connection.close()

    def after_fork(self) -> None:
        """In the child: what the parent caught, the parent brings."""
        self._new, self._kept = {}, {}
        self._disarm()


def checked(replies: list[Any]) -> list[Any]:
    """The replies; raises the first error among them."""
    for reply in replies:
        if isinstance(reply, UnavailableError):
            raise reply
    return replies
