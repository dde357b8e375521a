"""What the background does for changes under way: tells each new master, and lets go of what is over (rule 22)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

from evercache.engine.state import Hold
from evercache.errors import UnavailableError
from evercache.protocol.commands import ScriptCall
from evercache.protocol.replies import ScriptReply, parse_hold
from evercache.protocol.types import Reply

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["Holds"]

_TIMEOUT = 0.3
#: Holds that wait to be let go of, and those that were lately, at most; of more, the oldest end by themselves.
_MOST = 1000


class Holds:
    """Owned by the background; runs on its loop only."""

    def __init__(
        self, engine: Engine, run: Callable[[Sequence[ScriptCall], float], Coroutine[None, None, list[Reply]]]
    ) -> None:
        self._engine = engine
        self._run = run
        #: To be let go of, by id.
        self._over: dict[str, Hold] = {}
        #: Let go of at a master that may be replaced by one that has not heard of it. Appended by any thread.
        self.lately: deque[Hold] = deque(maxlen=_MOST)
        self._resyncs = 0

    def __repr__(self) -> str:
        return f"<Holds of {self._engine!r} over={len(self._over)}>"

    @property
    def busy(self) -> bool:
        """Whether there are some to be let go of."""
        return bool(self._over)

    def let_go_later(self, hold: Hold) -> None:
        """Let go as soon as a master can be asked, if it has not ended by itself before."""
        self._over[hold.id] = hold
        if len(self._over) > _MOST:
            del self._over[next(iter(self._over))]

    async def visit(self) -> None:
        """See what is to be done; called every tenth of a second."""
        state = self._engine.state
        if not state.ready or state.master_down:
            return
        now, resyncs = state.now(), state.resyncs
        if resyncs != self._resyncs:
            self._resyncs = resyncs
            for hold in list(self.lately):
                self.let_go_later(hold)
        if not state.holds and not self._over:
            return
        over = list(self._over.values())
        anew = [hold for hold in list(state.holds.values()) if not hold.asking and hold.resyncs != resyncs]
        await asyncio.gather(
            *(self._let_go(hold, now) for hold in over),
            *(self._tell(hold, now, resyncs) for hold in anew if hold.until > now),
        )

    async def _let_go(self, hold: Hold, now: float) -> None:
        if now >= hold.until or await self._send(hold, now, 0) is not None:
            self._over.pop(hold.id, None)

    async def _tell(self, hold: Hold, now: float, resyncs: int) -> None:
        """A master that did not have it, or may have lost it: what was filled there meanwhile is outdated."""
        engine, state = self._engine, self._engine.state
        reply = await self._send(hold, now, max(1, int((hold.until - now) * 1000)))
        if reply is None:
            return
        hold.resyncs, hold.held = resyncs, reply.status == "ok"
        if hold.id not in state.holds:  # its end went by
            self.let_go_later(hold)
            return
        for scope in hold.scopes:
            state.given_up(state.begin(scope))
        engine.chores.wake()

    async def _send(self, hold: Hold, now: float, span_ms: int) -> ScriptReply | None:
        """None when no master of the generation that is followed answered."""
        state = self._engine.state
        call = self._engine.commands.hold(
            hold.scopes, replid=state.generation, newest=state.marks.newest, id=hold.id, span_ms=span_ms
        )
        try:
            reply = parse_hold((await self._run([call], now + _TIMEOUT))[0])
        except UnavailableError:
            return None
        return None if reply.status == "GEN" else reply
