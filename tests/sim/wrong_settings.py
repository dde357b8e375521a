"""Wrong changes: what processes with different settings agree on."""

from __future__ import annotations

from tests.sim.mutation import Mutation
from tests.sim.scenes import CALM

__all__ = ["BORN_ANEW", "SETTINGS"]

#: Again and again two processes die and come back without a memory; the one with the shorter `max_ttl` goes on.
BORN_ANEW = tuple(
    ("kill_process", at, {"process": process, "after": 0.01})
    for at in (-0.9, -0.6, -0.3, 0.0)
    for process in (1, 2)
)
_WIDE = {
    "near": 0.0, "stale": 0.0, "wide": 1.0, "writes": 0.25, "pace": 0.15, "same_key": False, "sets": 0.0,
    "changes": 0.0, "extras": False, "slow_compute": False, "raises": 0.0,
}  # fmt: skip

SETTINGS = [
    Mutation(
        "the longest lifetime is not stored",
        18,
        lua={"*": (("  if ms > state.lifetime then", "  state.lifetime = ms\n  if false then"),)},
        settings=CALM,
        workload={**_WIDE, "short": 0.03},
        scene=BORN_ANEW,
    ),
    Mutation(
        "another bookkeeping is not looked for",
        5,
        lua={"resync": (("return {'elsewhere', now_us, replid, db}", "break"),)},
        settings=CALM,
        workload={**_WIDE, "other_db": True},
    ),
]
