"""Tasks that read one key at the same moment share one round trip. For asyncio only (see docs/architecture.md)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, TypeAlias

from evercache.client.serving import Unserved
from evercache.engine.readers import Reader
from evercache.engine.state import State
from evercache.errors import UnavailableError
from evercache.wire.types import Address

__all__ = ["SharedRead", "join"]

#: A `GET` under way: its reply, the counts of resyncs and of marks when it was sent, who was asked, and since when.
#: A plain tuple, since nearly every read makes one and nobody joins it.
SharedRead: TypeAlias = tuple[asyncio.Future[Any], int, int, Reader, float]


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def join(state: State, key: str, began: float) -> Unserved | Address | None:
    """What a read of the key that is under way brings. Else the caller asks for itself, not the node named.

    Joined is only what was sent after the last mark that this process heard or issued, and after its last store of
    the key (that takes the read out of `state.reading`): a read of one's own would have been sent no later. Whoever
    joins holds the reply against the marks that it knows itself. A leader that is cancelled takes nobody along.
    """
    tried: Address | None = None
    before: SharedRead | None = None
    loop = asyncio.get_running_loop()
    while (shared := state.reading.get(key)) is not None and shared is not before:
        future, resyncs, version, reader, since = before = shared
        if (
            resyncs != state.resyncs
            or version != state.marks.version
            or since > began
            or future.get_loop() is not loop
        ):
            break
        if not future.done():
            waiter = loop.create_future()
            future.add_done_callback(partial(_wake, waiter))
            await waiter
        if future.cancelled():
            continue  # with who leads now
        error = future.exception()
        if isinstance(error, UnavailableError):
            return Unserved(began, tried=reader.address)
        if error is not None:
            break
        reply = future.result()
        if reply is None or type(reply) is bytes:
            return Unserved(began, reply, reader.role, resyncs)
        tried = reader.address  # late, or an error: its leader sees to that, and the others ask another node
    return tried
