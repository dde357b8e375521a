"""Tasks that read one key at the same moment share one round trip. For asyncio only (see docs/architecture.md)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from functools import partial
from typing import Any, TypeAlias

from evercache.client.request import Plan
from evercache.client.serving import Unserved
from evercache.engine.readers import Reader
from evercache.engine.state import State
from evercache.errors import UnavailableError
from evercache.protocol.types import Address

__all__ = ["SharedRead", "join"]

#: A `GET` under way: its reply, who was asked, when the call began (monotonic
#: seconds), that of which function, and the horizon before it was sent. A plain
#: tuple, since nearly every read makes one and nobody joins it.
SharedRead: TypeAlias = tuple[Awaitable[Any], Reader, float, Plan, int]


def _wake(waiting: dict[Any, list[asyncio.Future[None]]], read: asyncio.Future[Any]) -> None:
    waiters = waiting.get(read, [])
    while waiters:  # in order: the first leads next, and its time is over first
        with contextlib.suppress(asyncio.InvalidStateError):
            waiters[0].set_result(None)
        waiters.pop(0)
    waiting.pop(read, None)


async def join(state: State, plan: Plan, key: str, began: float) -> Unserved | Address | None:
    """What a read of the key that is under way brings; else the caller asks for itself, not the node returned.

    Joined is only what was sent after the last mark that this process heard or issued, after the last resync, and
    after its last store of the key: each of them takes reads out of `state.reading`. The caller that joins checks
    the reply against the marks that it knows itself, and against those that were forgotten since the leader asked.
    A leader that is cancelled takes nobody along.
    """
    tried: Address | None = None
    before: SharedRead | None = None
    if not state.settings.share_reads:
        return None
    loop = asyncio.get_running_loop()
    while True:
        resyncs = state.resyncs
        shared = state.reading.get(key)
        if shared is None or shared is before:
            return tried
        future, reader, since, leading, obeyed = before = shared
        # No future: a connection is made first. The leader's time must be over before that of this caller. What is
        # like a future has its loop where asyncio looks for it (`wire.requests.Question`).
        if (
            not asyncio.isfuture(future)
            or getattr(future, "_loop", None) is not loop
            or since + leading.patience > began + plan.patience
            or since + leading.patience < began  # its leader was interrupted before it could take it away
        ):
            return tried
        if not future.done():
            waiter, waiting = loop.create_future(), state.joining
            others = waiting.get(future)
            if others is None:
                # First what wakes them: whoever finds a list relies on that. Again when the leader's time is over:
                # asyncio loses a callback in which a signal handler raises.
                future.add_done_callback(partial(_wake, waiting))
                loop.call_later(leading.patience, _wake, waiting, future)
                others = waiting.setdefault(future, [])
            others.append(waiter)
            await waiter
            if not future.done():
                return tried
        if future.cancelled():
            continue  # with who leads now
        error = future.exception()
        if isinstance(error, UnavailableError):
            return Unserved(began, tried=reader.address)
        if error is not None:
            return tried
        reply = future.result()
        if reply is None or type(reply) is bytes:
            return Unserved(began, reply, reader.role, resyncs, obeyed)
        tried = reader.address  # late, or an error: its leader sees to that, and the others ask another node
