"""Former masters: their logs are heard for as long as they go on answering as masters (promise 6).

In a planned failover the old master stays healthy for some eight seconds. Whoever has not heard of the new one yet
gets an invalidation acknowledged there, and may be gone a moment later: then everybody who left that master earlier
must have heard it, or it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evercache.errors import ProtocolError, ServerError, UnavailableError
from evercache.protocol.replies import parse_log
from evercache.topology.facts import parse_replication
from evercache.wire.types import Address, AsyncConnection

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["FormerMasters"]

#: For so long (seconds) a former master is listened to; Sentinel demotes one within some ten.
PATIENCE = 30.0
#: Between two attempts to reach one (seconds).
_PAUSE = 0.25
_BLOCK = 0.25
_COUNT = 500
_MOST = 4


@dataclass(frozen=True, slots=True)
class _Left:
    """A master as it was when it was left: its generation, and how far its log had been heard."""

    address: Address
    generation: str
    position: str


class FormerMasters:
    """Owned by the background; runs on its loop only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left: list[_Left] = []
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<FormerMasters of {self._engine!r} waiting={len(self._left)}>"

    def leave(self, address: Address, generation: str, position: str) -> None:
        """The master at this address was replaced by another one."""
        if generation:
            self._left.append(_Left(address, generation, position))
            self._wake.set()

    async def run(self) -> None:
        """Listen to each one that was left, until cancelled."""
        listening: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                left, self._left = self._left, []
                for one in left:
                    if len(listening) < _MOST:
                        task = asyncio.ensure_future(self._listen(one))
                        listening.add(task)
                        task.add_done_callback(listening.discard)
        finally:
            ending = list(listening)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _listen(self, left: _Left) -> None:
        state = self._engine.state
        end, position = state.now() + PATIENCE, left.position
        while state.now() < end:
            with contextlib.suppress(UnavailableError):
                connection = await self._engine.connect_tail(left.address)
                try:
                    greeting = connection.greeting
                    while greeting.role == "master" and greeting.replid == left.generation:
                        heard = await self._read(connection, left, position)
                        if heard is None or state.now() >= end:
                            return
                        position = heard
                    return  # it has begun another life, or follows the new master
                finally:
                    connection.close()
            await asyncio.sleep(_PAUSE * (0.5 + state.rng.random()))

    async def _read(self, connection: AsyncConnection, left: _Left, position: str) -> str | None:
        """Hear the lines behind a position; returns the next one, None when there will be no more."""
        engine = self._engine
        log, info = await connection.execute(
            [
                engine.commands.tail(position, count=_COUNT, block_ms=int(_BLOCK * 1000)),
                ("INFO", "replication"),
            ],
            engine.state.now() + 4 * _BLOCK,
        )
        if isinstance(log, ServerError) or isinstance(info, ServerError):
            return None
        try:
            lines = parse_log(log)
            facts = parse_replication(info)
        except ProtocolError:
            return None
        lost = 0
        for line in lines:
            if line.generation == left.generation:
                lost += engine.state.hear_former(line)
            position = line.log_id
        if lost:
            engine.heard_at_former(lost)
        here = facts.role == "master" and facts.replid == left.generation
        return position if here and engine.view.master != left.address else None
