"""One computation at a time in a process, and under a lease wherever the primary can be asked (rules 6, 13)."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from tests.sim.sentinels import FAILOVER_TIMEOUT

if TYPE_CHECKING:
    from tests.sim.leases import Running
    from tests.sim.warmth import Warmth
    from tests.sim.world import World

__all__ = ["Once"]

#: A process has been undisturbed for so long (seconds) when it must get a lease.
_BEFORE = 1.2
#: Whoever has waited so long (seconds of one) for others computes by himself.
_WAITED = 0.7
#: A process that reaches a sentinel asks it this often (seconds), and takes so long to ask.
_ROUND, _ON_ITS_WAY = 1.25, 0.1
#: The share of its budget for which a batch waits for others, at least.
_PATIENCE = 0.7


@dataclass(frozen=True, slots=True)
class _Call:
    """When a call began, what its process knew of invalidations then, whether its tail was blind, whether some of
    them waited for the primary, and whether the call is a `refresh`, or one of many ids."""

    began: float
    known: tuple[int, int, int]
    blind: bool
    pending: bool = False
    refresh: bool = False
    many: bool = False


_call: contextvars.ContextVar[_Call] = contextvars.ContextVar("sim_call")

_NO_CALL = _Call(0.0, (0, 0, 0), True)


class Once:
    """Judges each run of a function without a lease.

    - No other such run of this key is under way in its process, unless something was
      invalidated or read anew since their calls began, or they have waited so long for others that nothing is
      joined any more.
      A `refresh` computes by itself, and nobody joins it.
    - It has a reason: fills are refused, somebody else computes for long, an invalidation waits for the primary,
      the entry is of a later version, strict writes have the connections of a small pool, or something is wrong
      with the process or with the primary.
    """

    def __init__(self, world: World, warmth: Warmth) -> None:
        self._world, self._warmth = world, warmth
        self._running: dict[Running, tuple[float, _Call]] = {}
        #: Entries of a later version of the library were put in their place: they are left alone.
        self.left_alone: set[str] = set()

    def __repr__(self) -> str:
        return f"<Once {len(self._running)} without a lease>"

    def call_begins(self, process: Any, *, refresh: bool = False, many: bool = False) -> None:
        """A call begins in the present task."""
        _call.set(replace(self._call_of(process), refresh=refresh, many=many))

    def _call_of(self, process: Any) -> _Call:
        state = process.engine.state
        known = state.marks.version, state.journal.sequence, state.resyncs
        return _Call(
            self._world.now, known, state.blind(process.clock()) or not state.ready, bool(state.journal.pending)
        )

    def began(self, run: Running, computed: float) -> None:
        """A function begins; `computed`: seconds of the last one in which anybody had this key to compute."""
        if run.token:
            return
        world, oracle, now = self._world, self._world.oracle, self._world.now
        process, call = run.process, _call.get(_NO_CALL)
        present = self._call_of(process)
        for other, (began, its) in self._running.items() if not call.refresh else ():
            same = its.known == call.known == present.known
            if not same or (other.process, other.key) != (process, run.key):
                continue
            old = (present.blind or call.blind) and now - its.began > world.max_staleness
            # A batch whose budget is over computes what it waited for; who it waited for may do so at that moment.
            unshared = call.many and now - call.began > _PATIENCE * world.budget
            if not old and not unshared and now - began < _WAITED and computed < _WAITED:
                oracle.bad("once", f"{process.name} computes {run.key} twice, {now - began:.3f} s apart")
        if not call.refresh:
            self._running[run] = (now, call)
        journal = process.engine.state.journal
        spared = (
            run.key in self.left_alone
            or computed >= _WAITED
            or journal.pending
            or call.pending
            or call.known[1] != present.known[1]  # one began since, and may have been pending
            or journal.suspended
            or self._warmth.held(now - 1)
            or self._warmth.waits(process)
            or self._unconfirmed(process)
        )
        if not spared and oracle.undisturbed(process, now - _BEFORE, now):
            oracle.bad("once", f"{process.name} computes {run.key} without a lease")

    def _unconfirmed(self, process: Any) -> bool:
        """Whether a strict process cannot have its primary confirmed (rule 17): a sentinel is silent for it. Either
        that one spoke against the primary when it last answered, less than twice `failover-timeout` ago, or too few
        of the others have been followed since then, or for twice `failover-timeout`."""
        world, now, tag = self._world, self._world.now, process.tag
        silent = [s for s in world.sentinels if s.asked.get(tag, -inf) < now - _ROUND]
        if not world.strict or not silent:
            return False
        answered = min(s.asked.get(tag, -inf) for s in silent)
        over = now - 2 * FAILOVER_TIMEOUT - _ROUND
        if any(s.asked.get(tag, -inf) > over and s.named[tag] != world.master.address for s in silent):
            return True

        held = sum(fault.args["for_"] for fault in world.plan.faults if fault.kind == "hold_message")

        def counts(since: float) -> bool:
            return since < answered - _ON_ITS_WAY - held or since < over

        talking = [s for s in world.sentinels if s not in silent]
        return sum(counts(s.followed.get(tag, inf)) for s in talking) <= len(world.sentinels) // 2

    def ended(self, run: Running) -> None:
        """It ended, or its process did."""
        self._running.pop(run, None)
