"""Wrong changes: what processes with different settings agree on."""

from __future__ import annotations

from tests.sim.mutation import Mutation
from tests.sim.scenes import CALM

__all__ = ["SETTINGS"]

#: Again and again one process invalidates tags, and it and another one die. The process with the shorter `max_ttl`
#: invalidates once more, which trims the marks. Then both are born without a memory and read what is still there.
_BORN_ANEW = tuple(
    fault
    for at in (-1.3, -1.0, -0.7, -0.4, -0.1)
    for fault in (
        ("burst", at - 0.03, {"process": 1, "count": 2}),
        ("kill_process", at, {"process": 1, "after": 0.12}),
        ("kill_process", at, {"process": 2, "after": 0.12}),
        ("burst", at + 0.09, {"process": 0, "count": 1}),
    )
)
_WIDE = {
    "near": 0.0, "stale": 0.0, "wide": 1.0, "writes": 0.25, "pace": 0.15, "same_key": False, "sets": 0.0,
    "changes": 0.0, "extras": False, "slow_compute": False, "raises": 0.0,
}  # fmt: skip

SETTINGS = [
    Mutation(
        "the longest lifetime is not stored",
        18,
        lua={"*": (("if lives > lifetime then", "lifetime = lives if false then"),)},
        settings=CALM,
        workload={**_WIDE, "writes": 0.05, "pace": 0.08, "short": 0.03},
        scene=_BORN_ANEW,
    ),
    Mutation(
        "another bookkeeping is not looked for",
        5,
        lua={"resync": (("return {'elsewhere', now_us, replid, db}", "break"),)},
        settings=CALM,
        workload={**_WIDE, "other_db": True},
    ),
]
