"""Wrong changes about entries by themselves: counters, add, since, touch, expiry, sweeps."""

from __future__ import annotations

from evercache.client._async.reads import AsyncReads
from evercache.client._async.writes import AsyncWrites
from evercache.engine.state import State
from tests.sim.mutation import Mutation, edit
from tests.sim.scenes import BUSY, CALM, EXTRAS, lags

__all__ = ["ENTRIES"]

ENTRIES = [
    Mutation(
        "touch stamps",
        9,
        lua={
            "touch": (
                (
                    "call('SETRANGE', KEYS[6], 12,",
                    "call('SETRANGE', KEYS[6], 4, struct.pack('>I8', now_us))\ncall('SETRANGE', KEYS[6], 12,",
                ),
            )
        },
        workload=EXTRAS,
    ),
    Mutation(
        "touch revives the dead",
        9,
        lua={"touch": (("if not fresh or version > 1 or", "if version == 0 or"),)},
        workload={"wide": 0.9, **EXTRAS},
    ),
    Mutation(
        "an increment resets the expiry",
        9,
        lua={
            "incr": (
                (
                    "string.sub(raw, 1, payload_at - 1) .. digits, 'KEEPTTL')",
                    "string.sub(raw, 1, 12) .. struct.pack('>I6I4', now_ms + soft_ms, span_ms)"
                    " .. string.sub(raw, 23, payload_at - 1) .. digits, 'PX', soft_ms + span_ms)",
                ),
            )
        },
        workload=EXTRAS,
    ),
    Mutation("an increment makes it last", 9, lua={"incr": ((", 'KEEPTTL')", ")"),)}, workload=EXTRAS),
    Mutation(
        "an increment revives the dead",
        9,
        lua={
            "incr": (
                (
                    "local payload_at = 39",
                    "local payload_at = 39\nfresh = version > 0",
                ),
            )
        },
        workload={"wide": 0.9, "writes": 0.2, **EXTRAS},
    ),
    Mutation(
        "an increment is sent again",
        9,
        (edit(AsyncWrites, "incr", ("repeat=False", "repeat=True")),),
        focus="breaks",
        workload=EXTRAS,
        scene=(("breaks", -1.5, {"for_": 1.4, "share": 0.1}),),
    ),
    Mutation(
        "late increments are executed",
        11,
        lua={"incr": (("if now_us > not_after_us or now_us < not_before_us then", "if false then"),)},
        workload=EXTRAS,
        scene=(("freeze_node", -0.9, {"node": "m", "for_": 0.8}),),
    ),
    Mutation(
        "counters are read anywhere",
        9,
        (edit(AsyncReads, "judge", (" or envelope.counter:", ":")),),
        workload=EXTRAS,
        scene=lags(-1.5, 0.3, 1.4),
    ),
    Mutation(
        "add wins over a live entry",
        9,
        lua={"set": (("if mode == 'add' and fresh then", "if false then"),)},
        workload=EXTRAS,
    ),
    Mutation(
        "add is refused by a dead entry",
        9,
        lua={"set": (("if mode == 'add' and fresh then", "if mode == 'add' and raw then"),)},
        workload={"wide": 0.9, "writes": 0.2, **EXTRAS},
    ),
    Mutation(
        "since is not looked at",
        0,
        lua={"set": (("if mode == 'since' then", "if false then"),)},
        workload={"pace": 0.02, **EXTRAS},
    ),
    Mutation(
        "since looks at marks only",
        0,
        lua={"set": ((" or not untouched(key, since) then", " then"),)},
        workload={"pace": 0.02, **EXTRAS},
    ),
    Mutation(
        "readers ignore the expiry",
        19,
        (
            edit(
                AsyncReads,
                "judge",
                ("envelope.hard_ms <= server_ms or ", ""),
                (
                    "return Found(envelope, source, left <= 0, left, resyncs, obeyed)",
                    "return Found(envelope, source, False, 1.0, resyncs, obeyed)",
                ),
            ),
        ),
        settings={"default_ttl": 0.3},
        workload={"near": 0.0, "writes": 0.03, **EXTRAS},
        # By the clocks of the replicas everything lives for five seconds more.
        scene=tuple(("clock_step", -9.0, {"node": n, "seconds": -5.0}) for n in (1, 2)),
    ),
    Mutation(
        "near outlives the entry",
        19,
        (edit(State, "put_near", ("min(seconds, (envelope.soft_ms - server_ms) / 1e3)", "seconds")),),
        settings={"default_ttl": 0.3},
        workload={"near": 3.0, "writes": 0.03},
    ),
    Mutation(
        "a sweep compares nothing",
        21,
        lua={"sweep": ((" or (stamp >= least and now_ms < hard)", ""),)},
        workload=EXTRAS,
    ),
    Mutation(
        "late requests for a lease are granted",
        11,
        lua={
            "lease": (("local late = asks and not_after_us > 0 and now_us > not_after_us", "local late = false"),)
        },
        scene=(("freeze_node", -0.9, {"node": "m", "for_": 0.8}),),
    ),
    Mutation(
        "the child leaves to its parent what is pending",
        4,
        (edit(State, "after_fork", ("item.due, item.given = now, self.journal.sequence", "pass")),),
        settings=CALM,
        workload=BUSY,
        scene=(
            ("wall", -0.8, {"process": 0, "server": "m", "way": "both", "for_": 0.5}),
            ("fork_process", -0.6, {"process": 0, "parent_ends": False}),
        ),
    ),
    Mutation(
        "leases of former masters count",
        13,
        lua={"lease": (("if here then", "if true then"),)},
        focus="failover",
        settings=CALM,
        workload=BUSY,
    ),
    Mutation(
        "a clock that was set back lets late writes in",
        11,
        lua={"*": ((" or now_us < not_before_us", ""),)},
        settings=CALM,
        workload={"sets": 0.5, "writes": 0.5, "pace": 0.05, "extras": True},
        # What is sent in between arrives when the wall is gone, by a clock that was set back.
        scene=(
            *(("wall", -1.0, {"process": p, "server": "m", "way": "both", "for_": 0.7}) for p in range(3)),
            ("clock_step", -0.8, {"node": "m", "seconds": -5.0}),
        ),
    ),
]
