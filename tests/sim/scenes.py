"""Faults and workloads in which certain wrong changes show soonest.

A fault is (kind, seconds from the end of the writes, arguments).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BLOCKED",
    "BUSY",
    "CALM",
    "CRASH",
    "CUT_OFF",
    "EXTRAS",
    "FEW",
    "FORGOTTEN",
    "GAP",
    "IN_PLACE",
    "LOST",
    "LOST_AND_DEAD",
    "SLOW",
    "STALLS",
    "UNSEEN",
    "lags",
]


def lags(at: float, seconds: float, for_: float = 3.0) -> tuple[tuple[str, float, dict[str, Any]], ...]:
    return tuple(("lag", at, {"node": n, "for_": for_, "seconds": seconds}) for n in range(3))


CRASH = {
    "mode": "crash", "detect": 0.3, "best": True, "pick": 0, "late": [0.0, 0.02, 0.1], "repoint": [0.1, 0.1, 0.1],
    "sync": [0.1, 0.1, 0.1], "back": 0.4, "clock": 0.0,
}  # fmt: skip
#: The last of what was acknowledged is lost with its master.
LOST = (*lags(-0.6, 0.5, 0.7), ("failover", -0.05, CRASH))
#: The same, and who issued it dies; a new process knows nothing of it.
LOST_AND_DEAD = (*LOST, ("kill_process", -0.03, {"process": 0, "after": 0.05}))
#: A process sleeps while the log goes on and is trimmed.
GAP = (("stop_process", -0.5, {"process": 0, "for_": 0.45}), ("burst", -0.3, {"process": 1, "count": 30}))
#: The master restarts without its last second.
IN_PLACE = (("restart_master", 0.0, {"down": 0.05, "lost": 1.0, "sync": [0.1, 0.1, 0.1]}),)
#: The bookkeeping is evicted before a process has heard the last of it; those who have are cut off after that.
FORGOTTEN = (
    ("stop_process", -0.35, {"process": 0, "for_": 0.3}),
    ("evict", -0.06, {"keys": ["state", "marks", "log", "ids"]}),
    *(("wall", -0.055, {"process": p, "server": None, "way": "both", "for_": 2.0}) for p in (1, 2)),
)
STALLS = tuple(("tail_stall", -0.15 * i, {"process": i % 3, "for_": 0.5}) for i in range(1, 18))
#: Replicas lag, and each application is blocked when it has asked one for what it knows to be invalidated.
BLOCKED = (
    *lags(-1.2, 0.5, 1.5),
    *(("block_loop", -1.0 + 0.15 * p, {"process": p, "for_": 2.7, "when": "stale"}) for p in range(3)),
)
#: The sentinels take a living master for dead. One process does not reach the sentinel that leads the failover, nor
#: the replica that is promoted; the sentinels that it reaches have voted, and learn late what came of it. The other
#: processes are with the new master, and do not reach the old one.
UNSEEN = (
    ("sentinel_wall", -1.3, {"process": 0, "sentinel": 0, "for_": 3.0}),
    ("wall", -1.2, {"process": 0, "server": 1, "way": "both", "for_": 2.5}),
    *(("wall", -0.95, {"process": p, "server": 0, "way": "both", "for_": 2.0}) for p in (1, 2)),
    (
        "failover",
        -1.15,
        {**CRASH, "mode": "mistaken", "best": False, "late": [0.0, 0.5, 0.55], "repoint": [0.9] * 3, "back": 1.6},
    ),
)
BUSY = {"writes": 0.2, "pace": 0.02}
CUT_OFF = (("wall", -0.9, {"process": 0, "server": "m", "way": "both", "for_": 1.2}),)
#: Many reads of each entry, and invalidations of many at once, that few have mended when they are looked at.
FEW = {
    "near": 0.0, "wide": 1.0, "writes": 0.1, "pace": 0.03, "same_key": False, "sets": 0.0, "changes": 0.0,
    "extras": False, "raises": 0.0, "cancels": 0.0, "slow_compute": False,
}  # fmt: skip
SLOW = {"slow_compute": True, "same_key": True, "raises": 0.0}
CALM = {"default_ttl": 60.0}
EXTRAS = {"extras": True}
