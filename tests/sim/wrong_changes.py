"""Wrong changes: of what is refused while something is changed (rule 22)."""

from __future__ import annotations

import contextlib
from typing import Any

from evercache.client._async.changes import AsyncChanges
from evercache.engine.state import Hold
from evercache.errors import UnavailableError
from evercache.observe import Counters
from evercache.policy import OnError
from evercache.results import Ack
from tests.sim.mutation import Mutation, put
from tests.sim.scenes import CALM

__all__ = ["CHANGES", "DEADLY"]

#: Much is changed, and who changes it often dies after its commit.
DEADLY = {"changes": 3.0, "dies": 0.5, "writes": 0.0, "pace": 0.02, "near": 0.0, "stale": 0.0}

#: Only entries whose tags are known from the result; computations are slow, and so are changes.
RESULTS = {**DEADLY, "changes": 0.2, "changed": "g", "changed_by": "t", "dies": 0.9, "slow_compute": True}


async def _ends_without_a_mark(self: AsyncChanges, hold: Hold, counters: Counters, on_error: OnError) -> list[Ack]:
    state = self._engine.state
    state.changed(hold)
    with contextlib.suppress(UnavailableError):
        await self._link.run(self._hold(hold, 0, 0.0), state.now() + 0.25)
    return [Ack(True) for _ in hold.scopes]


async def _begins_without_a_mark(self: AsyncChanges, scopes: Any, seconds: float, *rest: Any) -> Any:
    state = self._engine.state
    hold = state.change(scopes, seconds)
    hold.asking = False
    with contextlib.suppress(UnavailableError):
        await self._link.run(self._hold(hold, int(seconds * 1000), state.now() + 0.25), state.now() + 0.25)
        hold.resyncs, hold.held = state.resyncs, True
    return hold, [Ack(True) for _ in hold.scopes]


CHANGES = [
    Mutation(
        "leases are granted under a hold",
        22,
        lua={"lease": (("if held_since(", "if false and held_since("),)},
        settings=CALM,
        workload=DEADLY,
    ),
    Mutation(
        "a store does not look at what is held",
        22,
        lua={"store": (("if held > 0 then", "if false then"),)},
        settings=CALM,
        workload=RESULTS,
    ),
    Mutation(
        "the begin of a change marks nothing",
        22,
        (put(AsyncChanges, "begin", _begins_without_a_mark),),
        settings=CALM,
        workload={**DEADLY, "changes": 0.5},
    ),
    Mutation(
        "the end of a change marks nothing",
        22,
        (put(AsyncChanges, "end", _ends_without_a_mark),),
        settings=CALM,
        workload={"changes": 3.0, "writes": 0.0, "pace": 0.02},
    ),
]
