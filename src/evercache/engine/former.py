"""Former masters: their logs are heard for as long as they go on answering as masters (promise 6).

In a planned failover the old master stays healthy for some eight seconds. Whoever has not heard of the new one yet
gets an invalidation acknowledged there, and may be gone a moment later: then everybody who left that master earlier
must have heard it, or it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from evercache.engine.listening import Source, listen
from evercache.errors import UnavailableError
from evercache.protocol.replies import LogLine
from evercache.protocol.types import Address

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["FormerMasters"]

#: For so long (seconds) a former master is listened to; Sentinel demotes one within some ten.
PATIENCE = 30.0
#: Between two attempts to reach one (seconds).
_PAUSE = 0.25
_MOST = 4


class _Left(Struct):
    """A master that was left, and how far its log has been heard. On the background's loop only."""

    source: Source
    position: str


class FormerMasters:
    """Owned by the background; runs on its loop only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: To be listened to, and those that are.
        self._left: list[_Left] = []
        self._heard: list[_Left] = []
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<FormerMasters of {self._engine!r} waiting={len(self._left)}>"

    @property
    def listening(self) -> bool:
        """Whether there is one to listen to."""
        return bool(self._left or self._heard)

    def attach(self) -> None:
        """Begin on another loop: go on with those that the last one listened to."""
        self._left, self._heard = self._left + self._heard, []
        self._wake = asyncio.Event()
        if self._left:
            self._wake.set()

    def leave(self, address: Address, generation: str, position: str) -> None:
        """The master at this address was replaced by another one."""
        if generation:
            self._left.append(_Left(Source(address, master=True, generation=generation), position))
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
                        self._heard.append(one)
                        task = asyncio.ensure_future(self._listen(one))
                        listening.add(task)
                        task.add_done_callback(listening.discard)
        except GeneratorExit:  # the loop was dropped with its tasks: nothing can be awaited any more
            listening.clear()
            raise
        finally:
            ending = list(listening)
            for task in ending:
                task.cancel()
            if ending:
                await asyncio.gather(*ending, return_exceptions=True)

    async def _listen(self, left: _Left) -> None:
        engine, state = self._engine, self._engine.state
        end = state.now() + PATIENCE

        def hear(lines: Sequence[LogLine]) -> bool:
            lost = sum(state.hear_former(line) for line in lines if line.generation == left.source.generation)
            left.position = lines[-1].log_id
            if lost:
                engine.heard_at_former(lost)
            return True

        def wanted() -> bool:
            return state.now() < end and engine.view.master != left.source.address

        while state.now() < end:
            try:
                await listen(engine, left.source, lambda: left.position, hear, wanted)
                break  # it has begun another life, follows the new master, or is the master again
            except (UnavailableError, OSError, MemoryError):
                await asyncio.sleep(_PAUSE * (0.5 + state.rng.random()))
        self._heard.remove(left)
