"""The log at the replicas, heard while the master does not answer (rule 14).

What a master acknowledged in the moments before it fell silent has reached its replicas, and not always every
process; and where only this process is cut off from it, others go on invalidating there. Replicas serve meanwhile
(`consistency="available"`), and their entries are held against the marks that are known here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from evercache.engine.listening import Source, listen
from evercache.errors import UnavailableError
from evercache.protocol.replies import LogLine
from evercache.protocol.types import Address

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["ReplicaLogs"]

#: The tail's reads block for a while; what is later than that by so much (seconds) is silence.
_SILENCE = 0.1
#: Between two attempts to hear one (seconds): twice as long after each, at most.
_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
#: They are few; all of them are heard, as one may lack what another has.
_MOST = 4


class ReplicaLogs:
    """Owned by the background; on its loop only.

    It covers nothing, and the tail's own position stays: once the master answers, the tail reads there what it
    missed. A mark that is heard twice is heard once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listening: dict[Address, asyncio.Task[None]] = {}
        #: How far the log was heard at any of them, in the generation of the last resync.
        self._position = "0-0"
        self._resyncs = -1

    def __repr__(self) -> str:
        return f"<ReplicaLogs of {self._engine!r} listening={len(self._listening)}>"

    def attach(self) -> None:
        """Begin on another loop: the tasks ended with the last one."""
        self._listening = {}

    def visit(self) -> None:
        """Begin to listen, if that is of use now. It ends by itself."""
        engine = self._engine
        if not self._wanted():
            return
        for address in engine.view.replicas[:_MOST]:
            if address not in self._listening:
                task = asyncio.get_running_loop().create_task(self._listen(address))
                self._listening[address] = task
                task.add_done_callback(partial(self._over, address))

    def _over(self, address: Address, _: asyncio.Task[None]) -> None:
        self._listening.pop(address, None)

    def _wanted(self) -> bool:
        state, settings = self._engine.state, self._engine.settings
        if not state.ready or state.unread or settings.consistency != "available":
            return False
        since = max(state.covers, state.awake_since)
        return state.master_down or state.now() - since > settings.block + _SILENCE

    async def _listen(self, address: Address) -> None:
        engine, state = self._engine, self._engine.state
        resyncs, source = state.resyncs, Source(address, master=False, generation=state.generation)

        def wanted() -> bool:
            return self._wanted() and state.resyncs == resyncs and address in engine.view.replicas

        pause = _PAUSE
        while wanted():
            # A gap, or it follows another master: perhaps not for long.
            with contextlib.suppress(UnavailableError, OSError, MemoryError):
                await listen(engine, source, self._behind, self._hear, wanted)
            await asyncio.sleep(pause * (0.5 + state.rng.random()))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _behind(self) -> str:
        """Where to read on: what the tail or another replica brought need not come again."""
        state = self._engine.state
        if self._resyncs != state.resyncs or _order(self._position) < _order(state.position):
            self._position, self._resyncs = state.position, state.resyncs
        return self._position

    def _hear(self, lines: Sequence[LogLine]) -> bool:
        """False at a gap: behind it nobody knows which marks are missing."""
        state = self._engine.state
        for line in lines:
            if _order(line.log_id) <= _order(self._behind()):
                continue
            if line.previous != self._position or line.generation != state.generation:
                return False
            state.hear_line(line)
            self._position = line.log_id
        return True


def _order(log_id: str) -> tuple[int, int]:
    milliseconds, _, number = log_id.partition("-")
    return int(milliseconds), int(number)
