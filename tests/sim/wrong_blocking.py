"""Wrong changes in what only threads run: locks, waits that block, the pool of sockets."""

from __future__ import annotations

from typing import Any

from evercache.client.waits import SyncSpawner, SyncWaits
from evercache.net.blocking import BlockingEndpoint
from evercache.net.connection import Connection
from evercache.protocol.landing import Landing
from tests.sim.mutation import Mutation, edit
from tests.sim.scenes import SLOW

__all__ = ["BLOCKING"]

#: Every process has threads, and others may run before many of their lines.
_THREADS: dict[str, Any] = {"threads": (0, 1, 2), "switches": 0.3, "lines": 0.02, "both": False}
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
        "the queue of refreshes is looked at outside of its lock",
        0,
        (
            edit(
                SyncSpawner,
                "_work",
                (
                    "        with self._lock:\n            if not self._waiting:",
                    "        if not self._waiting:\n            with self._lock:",
                ),
                (
                    "            context, job, over = self._waiting.popleft()",
                    "        with self._lock:\n            context, job, over = self._waiting.popleft()",
                ),
            ),
        ),
        settings={"beta": 3.0, "default_ttl": 0.3},
        workload={**_AT_WAITS, **SLOW, "stale": 0.5, "pace": 0.02},
    ),
    Mutation(
        "a thread of refreshes ends with the lock",
        0,
        (
            edit(
                SyncSpawner,
                "_work",
                ("with self._lock:", "self._lock.acquire()\n        if True:"),
                ("popleft()\n", "popleft()\n            self._lock.release()\n"),
            ),
        ),
        settings={"beta": 3.0, "default_ttl": 0.3},
        workload={**_AT_WAITS, **SLOW, "stale": 0.5, "pace": 0.02},
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
                (
                    "while not landing.done and (left := end - monotonic()) > 0:",
                    "if (left := end - monotonic()) > 0:",
                ),
                ("min(left, _SLICE)", "left"),
            ),
            # That it had not landed was seen under the lock, when it was joined.
            edit(Landing, "add", ("if self.done:", "if False:")),
        ),
        settings={"default_ttl": 0.3, "beta": 0.0},
        workload={
            **_AT_WAITS,
            "same_key": True,
            "slow_compute": False,
            "raises": 0.0,
            "switches": 1.0,
            "pace": 0.02,
            "near": 0.0,
            "stale": 0.0,
            "writes": 0.1,
            "extras": True,
        },
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
