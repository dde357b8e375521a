"""Wrong changes of the hot path: each of its checks left out (client/serving.py, client/_async/hits.py)."""

from __future__ import annotations

from evercache.client._async.hits import AsyncHits
from evercache.client.serving import Serving
from evercache.engine.routing import Routing
from tests.sim.mutation import Mutation, edit
from tests.sim.scenes import BUSY, CALM, CRASH, CUT_OFF, EXTRAS, FEW, STALLS, lags

__all__ = ["HITS"]

#: Shorter than what makes a process think that its master is dead: then replicas are read unsure, as promised.
_PAUSES = tuple(("tail_stall", -0.15 * i, {"process": i % 3, "for_": 0.3}) for i in range(1, 18))
_BLIND = ("now > until or ", "")
_UNSURE = ("or now > state.sure_until", "")

HITS = [
    Mutation(
        "hits look up no marks",
        7,
        (edit(Serving, "value", ("if stamp < newest:", "if False:")),),
        settings=CALM,
        workload={"near": 0.0},
    ),
    Mutation(
        "hits look up no marks of tags",
        16,
        (edit(Serving, "value", ("if tags or flags & TAGGED:", "if False:")),),
        settings=CALM,
        workload={"near": 0.0, "wide": 0.9},
    ),
    Mutation(
        "hits look up no marks of keys",
        7,
        (edit(Serving, "value", ("if mark is not None and stamp < mark[0]:", "if False:")),),
        settings=CALM,
        workload={"near": 0.0, **BUSY},
        scene=lags(-1.5, 1.1, 2.0),
    ),
    Mutation(
        "hits are served past their time",
        19,
        (
            # An early refresh would hide it: what has no time left is always refreshed early.
            edit(Serving, "value", ("left < _MS or ", ""), ("left < compute * plan.early", "False")),
        ),
        settings={"default_ttl": 0.3},
        workload={"near": 0.0, "writes": 0.03, **EXTRAS},
        # By the clocks of the replicas everything lives for five seconds more.
        scene=tuple(("clock_step", -9.0, {"node": n, "seconds": -5.0}) for n in (1, 2)),
    ),
    Mutation(
        "hits from the future are served",
        15,
        (edit(Serving, "value", ("stamp > newest", "False")),),
        settings=CALM,
        # It hears of the new master late, and invalidates at the old one; the new one's clock is ahead.
        scene=(
            ("wall", -0.9, {"process": 0, "server": "s", "way": "both", "for_": 1.5}),
            (
                "failover",
                -0.5,
                {**CRASH, "mode": "planned", "late": [0.0, 0.0, 0.0], "back": 1.2, "clock": 5.0},
            ),
        ),
        workload={"near": 0.0, "wide": 0.9, **BUSY},
    ),
    Mutation(
        "hits of another generation are served",
        7,
        (edit(AsyncHits, "get", ("reader.expected", "(lambda greeting: True)")),),
        settings={"max_staleness": 0.25, "lag_bound": 0.7, **CALM},
        workload={"near": 0.0, "writes": 0.04, "pace": 0.02, "wide": 0.1},
        # A process that was born after what the restarted replicas have forgotten.
        scene=(
            ("kill_process", -0.7, {"process": 0, "after": 0.05}),
            *(
                ("replica_restart", -0.2 + 0.01 * n, {"node": n, "down": 0.0005, "lost": 1.0, "sync": 0.5})
                for n in range(3)
            ),
        ),
    ),
    Mutation(
        "hits are served while not sure",
        14,
        (edit(Routing, "route", _BLIND), edit(Serving, "value", _UNSURE)),
        settings={"max_staleness": 0.1, **CALM},
        workload=FEW,
        scene=_PAUSES,
    ),
    Mutation(
        "hits do not wait for what is pending",
        4,
        (
            edit(Routing, "route", (" or state.journal.pending", "")),
            edit(Serving, "value", ("or state.journal.pending", "")),
        ),
        settings=CALM,
        workload={"near": 0.0, **BUSY},
        scene=CUT_OFF,
    ),
    Mutation(
        "near hits look at no version",
        8,
        (edit(Serving, "near", ("or entry.version != self._marks.version ", "")),),
        settings=CALM,
        workload={"near": 3.0, "wide": 0.9},
    ),
    Mutation(
        "near hits outlive their time",
        19,
        (
            edit(Serving, "near", ("now >= entry.until or ", "")),
            edit(Serving, "near_again", ("or now >= entry.until", "")),
        ),
        settings={"default_ttl": 0.3},
        workload={"near": 3.0, "writes": 0.03},
    ),
    Mutation(
        "near hits while not sure",
        14,
        (
            edit(Serving, "near", (" or now > self._state.sure_until", "")),
            edit(Serving, "near_again", ("or now > state.sure_until", "")),
        ),
        settings={"consistency": "available", "max_staleness": 0.1, **CALM},
        workload={"near": 3.0, **BUSY},
        scene=STALLS,
    ),
]
