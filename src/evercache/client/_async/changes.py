"""Changes of what entries are computed from: fills refused while they are made, a mark at both ends (rule 22)."""

from __future__ import annotations

from collections.abc import Sequence

from evercache.client._async.link import AsyncLink, Build
from evercache.client._async.writes import AsyncWrites, Beside
from evercache.engine.engine import Engine
from evercache.engine.flights import Owner
from evercache.engine.state import Hold
from evercache.observe import Counters
from evercache.policy import WAITED, OnError
from evercache.protocol.replies import parse_hold
from evercache.protocol.scope import Scope
from evercache.results import Ack

__all__ = ["AsyncChanges"]


class AsyncChanges:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink, writes: AsyncWrites) -> None:
        self._engine = engine
        self._link = link
        self._writes = writes

    def __repr__(self) -> str:
        return f"<AsyncChanges of {self._engine!r}>"

    async def begin(
        self, scopes: Sequence[Scope], seconds: float, counters: Counters, on_error: OnError, block: Owner
    ) -> tuple[Hold, list[Ack]]:
        """Refuse fills for so long, and invalidate. Without a master the invalidations are queued.

        If the block ends without `end`, the background ends the change.
        """
        engine, state = self._engine, self._engine.state
        hold = state.begin_change(scopes, seconds, block)
        deadline, resyncs = state.now() + WAITED * engine.settings.budget, state.resyncs
        beside = Beside(self._hold(hold, int(seconds * 1000), deadline), first=True)
        try:
            acks = await self._invalidate(hold, counters, on_error, beside)
        except BaseException:  # its caller was cancelled, or wants to be told: there will be no end
            if state.changed(hold):
                self._over(hold, told=False)
            raise
        finally:
            hold.asking = False
        if beside.reply is not None:
            reply = parse_hold(beside.reply)
            if reply.status == "late":
                state.clock_was_wrong(reply.now_us, reply.replid)
            else:
                hold.resyncs, hold.held = resyncs, reply.status == "ok"
        return hold, acks

    async def end(self, hold: Hold, counters: Counters, on_error: OnError) -> list[Ack]:
        """Invalidate once more, and let go. Without a master both are brought as soon as there is one.

        After an exception the background does both (`State.reclaim`).
        """
        mine = self._engine.state.ending(hold)
        beside = Beside(self._hold(hold, 0, 0.0), first=False)
        acks = await self._invalidate(hold, counters, on_error, beside if mine else None)
        if mine:
            self._over(hold, told=beside.reply is not None)
            self._engine.state.changed(hold)
        return acks

    def _over(self, hold: Hold, *, told: bool) -> None:
        """The background sees to it that the master knows, and the next one, should this one be replaced."""
        if told:
            self._engine.chores.holds.lately.append(hold)
        else:
            self._engine.let_go_soon(hold)

    async def _invalidate(
        self, hold: Hold, counters: Counters, on_error: OnError, beside: Beside | None
    ) -> list[Ack]:
        settings = self._engine.settings
        return await self._writes.invalidate_many(
            list(hold.scopes),
            self._engine.state.now() + WAITED * settings.budget,
            counters,
            strict=settings.consistency == "strict",
            on_error=on_error,
            beside=beside,
        )

    def _hold(self, hold: Hold, span_ms: int, deadline: float) -> Build:
        state, commands = self._engine.state, self._engine.commands
        return lambda replid, newest: commands.hold(
            hold.scopes,
            replid=replid,
            newest=newest,
            id=hold.id,
            span_ms=span_ms,
            not_after_us=(state.clock.server_us(deadline) or 0) if span_ms else 0,
        )
