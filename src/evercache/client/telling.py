"""What a call counts and tells at once."""

from __future__ import annotations

from evercache.engine.engine import Engine
from evercache.errors import CorruptEnvelope
from evercache.observe import Counters, events
from evercache.protocol.scope import Subject

__all__ = ["corrupt", "newer", "unconfirmed", "unleased"]


def corrupt(engine: Engine, subject: Subject, counters: Counters, error: CorruptEnvelope) -> None:
    """An entry cannot be read."""
    counters.corrupt += 1
    engine.events.emit(events.EntryCorrupt(subject.function, subject.key, str(error)))


def newer(engine: Engine, subject: Subject, counters: Counters) -> None:
    """An entry is of a later version of the envelope."""
    counters.newer += 1
    engine.events.emit(events.NewerEnvelope(subject.function, subject.key))


def unconfirmed(engine: Engine, counters: Counters) -> None:
    """A replica's entry is served while no master can be reached."""
    counters.unconfirmed += 1
    engine.events.emit(events.Unconfirmed("available"))


def unleased(engine: Engine, subject: Subject, counters: Counters, keys: int = 1, *, held: bool = False) -> None:
    """A function is about to run without a lease, once, for so many keys. `held`: as somebody changes it."""
    counters.misses += keys
    counters.computed_unleased += 1
    state = engine.state
    if held:
        return
    if engine.trouble is not None or engine.closed:
        why = "there is no background"
    elif state.master_down or not state.ready:
        why = "there is no master"
    elif state.journal.pending:
        why = "an invalidation waits for the master"
    else:
        why = "the master did not answer in the budget, or another call took too long"
    engine.events.emit(events.ComputedUnleased(subject.function, subject.key, why))
