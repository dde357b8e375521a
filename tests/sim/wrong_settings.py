"""Wrong changes: what processes with different settings agree on."""

from __future__ import annotations

from tests.sim.mutation import Mutation
from tests.sim.scenes import CALM

__all__ = ["SETTINGS"]

#: Again and again two processes die and come back without a memory, while the one with the shorter `max_ttl` goes on.
_BORN_ANEW = tuple(
    fault
    for i in range(12)
    for fault in (
        ("burst", 0.1 * i - 1.2, {"process": 0, "count": 3}),
        ("kill_process", 0.1 * i - 1.13, {"process": 1 + i % 2, "after": 0.005}),
    )
)
_WIDE = {
    "near": 0.0, "stale": 0.0, "wide": 1.0, "writes": 0.1, "pace": 0.1, "same_key": False, "sets": 0.0,
    "changes": 0.0, "extras": False, "slow_compute": False, "raises": 0.0,
}  # fmt: skip

SETTINGS = [
    Mutation(
        "the longest lifetime is not stored",
        18,
        lua={"*": (("  if ms > state.lifetime then", "  state.lifetime = ms\n  if false then"),)},
        settings=CALM,
        workload={**_WIDE, "short": 0.03, "other_db": False},
        scene=_BORN_ANEW,
    ),
    Mutation(
        "another bookkeeping is not looked for",
        5,
        lua={"resync": (("return {'elsewhere', now_us, replid, db}", "break"),)},
        settings=CALM,
        workload={**_WIDE, "short": 0.0, "other_db": True},
    ),
]
