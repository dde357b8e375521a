"""Notices what no caller meets at one moment: a tail gone blind, a replica that lags, the end of a trouble, a
confirmation that grows old."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evercache.observe import events
from evercache.protocol.balance import HEDGES_SAVED, RETRIES_SAVED
from evercache.protocol.caught import NEVER

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["Watch"]

#: A look, and the round of questions to the sentinels that it sets off, take less than this (seconds).
_IN_TIME = 0.2


class Watch:
    """Owned by the background; `look` is called on its loop only, some ten times a second. It reports, and asks for
    confirmations of the master in time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._merges = engine.state.journal.merges
        self._unconfirmed: float | None = None

    def __repr__(self) -> str:
        return f"<Watch of {self._engine!r}>"

    def look(self, now: float) -> None:
        """Tell what changed."""
        engine = self._engine
        state, hub = engine.state, engine.events
        merges = state.journal.merges
        if merges > self._merges:
            hub.emit(events.PendingMerged(len(state.journal.pending)))
        self._merges = merges
        if state.idle:
            pass  # what it heard does not count anyway
        elif not state.ready or state.unread:
            pass  # the log is not followed yet
        elif state.blind(now):
            # One that was idle until now is about to read it.
            if now - state.awake_since > engine.settings.max_staleness:
                hub.emit(events.TailBlind())
        elif hub.open:
            hub.emit(events.TailSure())
            if not state.master_down:
                hub.emit(events.GutterLeft())
        if hub.open:
            # Not with the first that is earned: in a lasting trouble that one is spent at once.
            if engine.hedges.saved >= HEDGES_SAVED / 2:
                hub.emit(events.HedgesAvailable())
            if engine.retries.saved(now) >= RETRIES_SAVED / 2:
                hub.emit(events.RetriesAvailable())
        self._confirmation(now)
        self._lags(now)

    def _confirmation(self, now: float) -> None:
        engine = self._engine
        if engine.settings.consistency != "strict":
            if engine.events.open and engine.state.sure(now):
                engine.events.emit(events.Confirmed())
            return
        self._ask_in_time(now)
        if engine.routing.confirmed(now):
            self._unconfirmed = None
            engine.events.emit(events.Confirmed())
        elif self._unconfirmed is None:
            self._unconfirmed = now
        elif now - self._unconfirmed >= engine.settings.max_staleness:  # at the start it takes a moment
            engine.events.emit(events.Unconfirmed("strict"))

    def _ask_in_time(self, now: float) -> None:
        """Have the master confirmed again before the last confirmation is too old: the sentinels are polled once a
        second, and a smaller `max_staleness` would leave most reads without a cache (rule 17)."""
        engine, bound = self._engine, self._engine.settings.max_staleness
        age = now - engine.topology.confirmed_since()
        if min(bound / 2, bound - _IN_TIME) < age < 2 * bound:  # later, there is another trouble
            engine.topology.nudge()

    def _lags(self, now: float) -> None:
        engine = self._engine
        for replica in engine.replicas.members:
            caught = replica.standing.caught
            if caught == NEVER or not replica.standing.link_up:
                continue  # the monitor tells of it
            if now - caught > engine.settings.lag_bound:
                engine.events.emit(events.ReplicaLags(str(replica.address), now - caught))
            elif engine.events.open:
                engine.events.emit(events.ReplicaCaughtUp(str(replica.address)))
