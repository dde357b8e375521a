"""Wrong changes: small slips that a tired person could make."""

from __future__ import annotations

from typing import Any

from evercache.client._async.computing import AsyncComputing
from evercache.client._async.hits import AsyncHits
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.reads import AsyncReads
from evercache.client._async.writes import AsyncWrites
from evercache.client.request import Plan
from evercache.client.serving import Unserved
from evercache.client.sharing import join
from evercache.engine.state import State
from evercache.near.gutter import Gutter
from evercache.protocol.envelope import unpack
from evercache.protocol.freshness import Marks
from evercache.protocol.topology import SentinelBook
from tests.sim.mutation import Mutation, edit, nothing, put
from tests.sim.scenes import BUSY, CALM, CRASH, CUT_OFF, SLOW, lags

__all__ = ["SLIPS"]

_original_get = AsyncHits.get


async def _joins_and_believes(self: AsyncHits, plan: Plan, key: str, tags: tuple[bytes, ...]) -> Any:
    state, began = self._state, self._now()
    if key in state.reading:
        joined = await join(state, plan, key, began)
        if isinstance(joined, Unserved) and joined.data is not None:
            envelope = unpack(joined.data)
            return plan.encoder.decode(envelope.payload, envelope.codec, envelope.compressed, key.encode())
    return await _original_get(self, plan, key, tags)


SLIPS = [
    Mutation(
        "a read is shared past an invalidation",
        0,
        (
            edit(State, "begin", ("self.reading = {}", "pass")),
            edit(State, "_mark", ("self.reading = {}", "pass")),
            put(AsyncHits, "get", _joins_and_believes),
        ),
        settings=CALM,
        workload={"same_key": True, "near": 0.0, "pace": 0.02},
    ),
    Mutation("an invalidation leaves the entry", 0, lua={"invalidate": (("call('UNLINK', unpack(removed))", ""),)}),
    Mutation(
        "an invalidation leaves the lease",
        0,
        lua={
            "invalidate": (
                (
                    "removed[#removed + 1], removed[#removed + 2] = KEYS[5 + nth], KEYS[5 + keys + nth]",
                    "removed[#removed + 1] = KEYS[5 + nth]",
                ),
            ),
            "lease": (
                ("if holder and tonumber(granted_stamp) >= least then", "if holder then"),
                ("if here then", "if true then"),
            ),
        },
        workload=SLOW,
    ),
    Mutation(
        "stale entries are handed out past a mark",
        0,
        (edit(AsyncLeads, "_weigh", ("entry.stamp >= known", "True")),),
        lua={"lease": (("local stale = fresh and raw or ''", "local stale = raw or ''"),)},
        workload={"stale": 0.5, "wide": 0.9},
        settings={"default_ttl": 60.0},
    ),
    Mutation(
        "stale if error past a mark",
        0,
        (
            edit(
                AsyncComputing,
                "_stale_on_error",
                ("not state.marks.holds(stale.stamp, reply.marks.tip, request.subject, stale.tags)", "False"),
                ("state.journal.covers(request.subject, stale.tags)", "False"),
            ),
        ),
        lua={"lease": (("local stale = fresh and raw or ''", "local stale = raw or ''"),)},
        workload={"raises": 0.3, "stale_if_error": 60.0, "wide": 0.9},
        settings={"default_ttl": 60.0},
    ),
    Mutation(
        "failures are acknowledged",
        0,
        (
            edit(
                AsyncWrites,
                "invalidate_many",
                ('Ack(False, queued=True, reason="unavailable")', "Ack(True, queued=True)"),
            ),
        ),
        settings=CALM,
        scene=CUT_OFF,
        workload=BUSY,
    ),
    Mutation(
        "the gutter does not hear",
        0,
        (
            put(Gutter, "hear", nothing),
            edit(
                AsyncLeads,
                "_from_gutter",
                ("not state.acceptable(kept, subject, state.marks.need(subject))", "False"),
            ),
        ),
        settings={"gutter": 1.0},
    ),
    Mutation(
        "an acknowledged one is not obeyed here",
        0,
        (edit(State, "acknowledged", ("self._mark(item.scope, stamp, now)", "pass")),),
    ),
    Mutation(
        "the marks of a function are not heard",
        0,
        (edit(Marks, "hear", ("if stamp > self.functions.get(scope.name, 0):", "if False:")),),
        workload={"wide": 0.9},
        settings=CALM,
    ),
    Mutation(
        "a replica's answer is not checked",
        0,
        (
            edit(
                AsyncReads,
                "judge",
                ("envelope.stamp < need or not state.marks.fresh(envelope.stamp, subject, envelope.tags)", "False"),
            ),
        ),
        settings=CALM,
    ),
    Mutation(
        "the lower epoch is followed",
        0,
        (
            edit(
                SentinelBook,
                "_decide",
                ("elif master is None or top >= epoch:", "elif True:"),
                ("top = max(a.epoch for a in claims)", "top = min(a.epoch for a in claims)"),
            ),
        ),
        scene=(("failover", -0.5, {**CRASH, "late": [0.0, 2.5, 2.5]}),),
        settings=CALM,
    ),
    Mutation(
        "key marks are forgotten too soon",
        0,
        (
            edit(
                Marks, "expire_keys", ("if now - self.keys[key][1] <= keep:", "if now - self.keys[key][1] <= 0.05:")
            ),
        ),
        settings={"lag_bound": 1.5, **CALM},
        scene=lags(-1.0, 1.3, 3.0),
        workload={"near": 0.0, **BUSY},
    ),
    Mutation(
        "a later life begins at what its creator knows",
        1,
        lua={"*": (("if NEWEST > 0 then", "if false then"),)},
        settings=CALM,
        workload={"writes": 0.5, "pace": 0.02},
        # The clocks are set back. One process sleeps while the others invalidate. Then all is flushed, and only
        # this process reaches the servers.
        scene=(
            *(("clock_step", -0.8, {"node": n, "seconds": -3600.0}) for n in range(3)),
            ("stop_process", -0.35, {"process": 0, "for_": 0.3}),
            *(("wall", -0.065, {"process": p, "server": None, "way": "both", "for_": 1.5}) for p in (1, 2)),
            ("flush", -0.06, {}),
        ),
    ),
]
