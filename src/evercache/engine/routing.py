"""Where reads go: which node may be asked for a value now, and whether what it says may be served."""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from evercache.engine.readers import MasterReader, Reader
from evercache.engine.route import NOWHERE, Route
from evercache.protocol.types import Address
from evercache.topology import Replica

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["Routing"]


class Routing:
    """The choice of a node, from what the engine knows at that moment.

    It keeps one thing: the reader of the present master, which any thread may make anew.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._state = engine.state
        self._replicas = engine.replicas
        self._lag_bound = engine.settings.lag_bound
        self._available = engine.settings.consistency == "available"
        self._master: MasterReader | None = None

    def __repr__(self) -> str:
        return f"<Routing {self._master or self._replicas!r}>"

    def leave_master(self) -> None:
        """Its reader and the endpoints in it are made anew at the next read."""
        self._master = None

    def confirmed(self, now: float) -> bool:
        """Whether the master is confirmed within `max_staleness` (strict consistency, rule 17)."""
        topology = self._engine.topology
        return topology.local or now - topology.confirmed_since() <= self._engine.settings.max_staleness

    def may_read(self, now: float) -> bool:
        """Whether plain reads at nodes are covered by what was heard; without a master, by the promise
        of `consistency="available"`."""
        state = self._state
        return state.sure(now) or (state.ready and not state.unread and state.master_down and self._available)

    def may_serve(self, now: float) -> bool:
        """Whether what a server says may be served: under "strict" only while the tail is sure and the master
        confirmed (rule 17)."""
        return self._available or (self._state.sure(now) and self.confirmed(now))

    def reader(self, now: float, exclude: Address | None = None) -> Reader | None:
        """The node for one read, or None: ask the master by script."""
        state = self._state
        if state.sure(now):
            return self.sure_reader(now, exclude)
        if not self.may_read(now):
            return None
        return self._replicas.choose(state.tau, now, self._lag_bound, exclude, unlinked=state.master_down)

    def sure_reader(self, now: float, exclude: Address | None = None) -> Reader | None:
        """The same while the tail is sure."""
        state, replicas = self._state, self._replicas
        # Where the master did not answer this very read, its replicas have lost their links, it may be, though
        # nobody has said yet that it is down.
        no_master = exclude is not None and exclude == self._engine.view.master
        if replicas.members:
            bound = self._lag_bound
            replica = replicas.choose(state.tau, now, bound, exclude, unlinked=state.master_down or no_master)
            if replica is not None:
                return replica
        return None if no_master else self._sure_master()

    def _sure_master(self) -> MasterReader | None:
        state, master = self._state, self._engine.view.master
        if master is None or state.master_down:
            return None
        reader = self._master
        if reader is None or reader.address is not master or reader.run_id != state.master_run_id:
            reader = self._master = MasterReader(self._engine, master, state.master_run_id)
        return reader

    def route(self, now: float) -> Route:
        """Where reads go while the tail is sure, nothing is pending, and until anything changes; else `NOWHERE`."""
        state, replicas, engine = self._state, self._replicas, self._engine
        engine.idleness.used = True
        turn, resyncs, until = state.turn, state.resyncs, state.sure_until
        if now > until or state.journal.pending or not self._available:
            return NOWHERE
        hedges = engine.hedges if engine.view.replicas and engine.hedges.share else None
        fit = replicas.fit(state.tau, now, self._lag_bound, unlinked=state.master_down)
        members: tuple[Replica, ...] | None = fit.members
        if members:
            until = min(until, fit.until)
            turns = replicas.turns(members)
            readers = turns or iter(partial(self._weigh, members), None)
            route = Route(until, resyncs, readers, members=members, even=turns is not None, hedges=hedges)
        else:
            master = self._sure_master()
            if master is None:
                return NOWHERE
            members = () if engine.view.replicas else None
            route = Route(until, resyncs, repeat(master), members=members, hedges=hedges)
        state.take_route(route, turn)
        return route

    def _weigh(self, members: tuple[Replica, ...]) -> Replica | None:
        return self._replicas.weigh(members, self._state.now())

    def replicas_to_wait_for(self) -> int:
        """How many replicas must have a strict write: those in sync, one at least (rule 17)."""
        if not self._engine.view.replicas:
            return 0
        now = self._state.now()
        return max(1, len(self._replicas.admitted(self._state.tau, now, self._lag_bound)))
