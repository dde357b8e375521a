"""Wrong changes in what only threads run: locks, waits that block, the pool of sockets."""

from __future__ import annotations

from typing import Any

from evercache.client.waits import SyncSpawner, SyncWaits
from evercache.engine.state import State
from evercache.wire.blocking import BlockingEndpoint
from evercache.wire.connection import Connection
from tests.sim.mutation import Mutation, edit
from tests.sim.scenes import BUSY, CUT_OFF, SLOW

__all__ = ["BLOCKING"]

#: Every process has threads, and others may run before many of their lines.
_THREADS: dict[str, Any] = {"threads": (0, 1, 2), "switches": 0.3, "lines": 0.02}
#: Others run at locks and waits only.
_AT_WAITS = {**_THREADS, "lines": 0.0}
#: A node or two stand still, so that answers are late.
_FROZEN = tuple(
    ("freeze_node", at, {"node": node, "for_": 0.85})
    for node, at in (("m", -0.9), (0, -0.85), (1, -0.8), (2, -0.75))
)

_IN = " " * 12

BLOCKING = [
    Mutation(
        "a place in the pool is looked for outside of the lock",
        0,
        (
            edit(
                BlockingEndpoint,
                "_take",
                (
                    f"{_IN}with self._lock:\n{_IN}    if taken(self._places) < self.options.max_connections:\n",
                    f"{_IN}if taken(self._places) < self.options.max_connections:\n{_IN}    with self._lock:\n",
                ),
                (f"{_IN}    if self._left:", f"{_IN}with self._lock:\n{_IN}    if self._left:"),
            ),
        ),
        workload={**_AT_WAITS, "pool": 1, "extras": True},
    ),
    Mutation(
        "a refresh is taken from the queue without the lock",
        0,
        (edit(SyncSpawner, "_work", ("with self._lock:", "if True:")),),
        settings={"beta": 3.0, "default_ttl": 0.3},
        workload={**_THREADS, **SLOW, "stale": 0.5, "pace": 0.02},
    ),
    Mutation(
        "an invalidation begins without the lock",
        4,
        (edit(State, "begin", ("with self.lock, self.change:", "if True:")),),
        workload={**_THREADS, **BUSY},
    ),
    Mutation(
        "marks are raised without the lock",
        1,
        (
            edit(State, "hear_line", ("with self.lock, self.change:", "if True:")),
            edit(State, "acknowledged", ("with self.lock, self.change:", "if True:")),
        ),
        workload={**_THREADS, **BUSY},
    ),
    Mutation(
        "a connection is made under the lock of the pool",
        0,
        (
            edit(
                BlockingEndpoint,
                "_connect",
                (
                    "        connection = self._open(now, deadline, place)",
                    "        with self._lock:\n            connection = self._open(now, deadline, place)",
                ),
            ),
        ),
        workload=_AT_WAITS,
    ),
    Mutation(
        "a wake-up between the check and the wait is lost",
        0,
        (
            edit(
                SyncWaits,
                "result",
                ("    landing.add(woken.wake)\n", "    pass\n"),
                (
                    "woken.wait(min(left, _SLICE))",
                    "landing._wakers.append(woken.wake)\n            woken.wait(left)",
                ),
            ),
        ),
        workload={**_AT_WAITS, "same_key": True, "pace": 0.02, "near": 0.0},
    ),
    Mutation(
        "a wait for a flight ignores its deadline",
        0,
        (
            edit(
                SyncWaits,
                "result",
                ("not landing.done and (left := end - monotonic()) > 0", "not landing.done"),
                ("min(left, _SLICE)", "_SLICE"),
            ),
        ),
        workload={**_AT_WAITS},
        scene=CUT_OFF,
    ),
    Mutation(
        "a blocking read ignores its deadline",
        0,
        (
            edit(
                Connection,
                "request",
                ("until if until < deadline else deadline", "until if until < deadline else inf"),
            ),
        ),
        workload={**_AT_WAITS},
        scene=_FROZEN,
    ),
]
