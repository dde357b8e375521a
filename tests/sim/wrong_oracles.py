"""Wrong changes that break no promise about the values that are read: only the oracles of `judges.py` find them."""

from __future__ import annotations

from evercache.client._async.computing import AsyncComputing
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.link import AsyncLink
from evercache.client._async.operations import AsyncOperations
from evercache.client._async.writes import AsyncWrites
from evercache.engine.routing import Routing
from evercache.engine.state import State
from evercache.engine.tail import Tail
from evercache.protocol.breaker import Breaker
from evercache.protocol.journal import Journal
from evercache.topology.replicas import ReplicaSet
from tests.sim.mutation import Mutation, edit, nothing, put
from tests.sim.scenes import BUSY, CALM, CRASH, CUT_OFF, SLOW, lags

__all__ = ["ORACLES"]

#: A process learns late of a planned failover, has invalidations acknowledged by the former primary, and dies.
LATE_AND_DEAD = (
    ("wall", -0.9, {"process": 0, "server": "s", "way": "both", "for_": 1.5}),
    ("failover", -0.5, {**CRASH, "mode": "planned", "late": [0.0, 0.0, 0.0], "back": 1.2}),
    *(("kill_process", at, {"process": 0, "after": 0.3}) for at in (-0.1, 0.25)),
)
ONE_KEY = {"same_key": True, "slow_compute": True, "writes": 0.0, "changes": 0.0}
STRICT = {"consistency": "strict", "lag_bound": 1.5, **CALM}

ORACLES = [
    # -- acks
    Mutation(
        "what WAIT answers is not looked at",
        17,
        (edit(AsyncLink, "_once", ("isinstance(have, int) and have >= replicas", "True")),),
        settings=STRICT,
        workload=BUSY,
        scene=lags(-1.2, 0.5),
    ),
    Mutation(
        "one replica is enough for a strict write",
        17,
        (edit(Routing, "replicas_to_wait_for", ("return max(1, len(", "return min(1, len(")),),
        settings=STRICT,
        workload=BUSY,
        scene=(("lag", -1.2, {"node": 1, "for_": 3.0, "seconds": 0.5}),),
    ),
    Mutation(
        "a strict write holds up what is behind it",
        17,
        (edit(AsyncLink, "_once", ("engine.waiting_async(master) if wait else ", "")),),
        settings=STRICT,
        workload={**BUSY, "slow_compute": True, "near": 0.0},
        scene=lags(-1.2, 0.5),
    ),
    # -- warmth
    Mutation(
        "a resync empties what the process knows",
        5,
        (
            edit(
                State,
                "resynced",
                ("max(self.marks.everything, reply.everything)", "max(self.marks.everything, reply.tip)"),
            ),
        ),
    ),
    Mutation(
        "a resync invalidates everything",
        20,
        (
            edit(
                Journal,
                "resynced",
                (
                    "if any(is_lost(generation, stamp, generations) "
                    "for generation, stamp in self.forgotten.items()):",
                    "if self._recorded:",
                ),
            ),
        ),
        focus="failover",
    ),
    Mutation(
        "an invalidation of a key takes its function along",
        0,
        lua={
            "invalidate": (
                (
                    "local existed = 0",
                    "if key and ARGV[at + 3] ~= '' then kind, name = 'f', ARGV[at + 3] end local existed = 0",
                ),
                ("elseif not key then", "elseif kind ~= 'k' then"),
            )
        },
    ),
    Mutation(
        "only values that are newer than every mark are stored",
        0,
        lua={"store": (("soft_ms + span_ms <= 0", "stamp_told + 0 < (call('HGET', STATE, 'tip') or 0) + 0"),)},
    ),
    Mutation(
        "entries are computed again before their time",
        19,
        lua={"lease": (("now_ms < soft)", "now_ms < soft - 200)"),)},
    ),
    # -- audit
    Mutation(
        "marks leave the server too soon",
        18,
        lua={"*": (("now_us - lifetime * 1000", "now_us - 300000"),)},
        settings=CALM,
        workload={"wide": 0.9, "changes": 0.0},
    ),
    # -- what is lost, and what is not
    Mutation(
        "what a former master took is not issued again",
        3,
        (edit(Journal, "heard_late", ("self._replay(record, due)", "self._record(record)")),),
        settings=CALM,
        scene=LATE_AND_DEAD,
        workload={"near": 0.0, "extras": False, **BUSY},
    ),
    # -- milliseconds
    Mutation(
        "the tail rests after each line",
        14,
        (
            edit(
                Tail,
                "_follow",
                ("await asyncio.sleep(pause * (0.5 + state.rng.random()))", "await asyncio.sleep(0.12)"),
            ),
        ),
    ),
    # -- budgets
    Mutation(
        "an invalidation waits for twice its budget",
        0,
        (edit(AsyncOperations, "invalidate", ("WAITED * settings.budget", "2 * settings.budget")),),
        scene=CUT_OFF,
        workload=BUSY,
    ),
    Mutation(
        "a failed write waits for longer than its budget",
        11,
        (
            edit(
                AsyncWrites,
                "set_many",
                ("self._out_of_the_way(item, deadline)", "self._out_of_the_way(item, deadline + 0.3)"),
            ),
        ),
        scene=CUT_OFF,
        workload={"sets": 0.6, **BUSY},
    ),
    Mutation(
        "a read by key takes twice its budget",
        0,
        (
            edit(
                AsyncOperations,
                "get_many",
                ("peek_many(subjects, policy.budget,", "peek_many(subjects, 2 * policy.budget,"),
            ),
        ),
        scene=CUT_OFF,
        workload={"sets": 0.6, **BUSY},
    ),
    # -- one computation
    Mutation(
        "nobody joins while there is no primary",
        0,
        (
            edit(
                State,
                "join_or_lead",
                (
                    "flight = self.flights.get(subject.key)",
                    "flight = self.flights.get(subject.key) if not self.master_down else None",
                ),
            ),
        ),
        settings={"gutter": 0.0, **CALM},
        scene=CUT_OFF,
        workload={"near": 0.0, "pace": 0.02, **ONE_KEY},
    ),
    Mutation(
        "nobody waits for a computation elsewhere",
        13,
        (edit(AsyncLeads, "lead", ("if waited > wait_limit(", "if True or waited > wait_limit(")),),
        workload={**SLOW, "changes": 0.0},
    ),
    # -- where reads go
    Mutation(
        "a replica that is silent goes on being read",
        7,
        (put(Breaker, "fail", nothing),),
        settings=CALM,
        scene=(("freeze_node", -0.8, {"node": 1, "for_": 1.5}), ("freeze_node", -0.8, {"node": 2, "for_": 1.5})),
        workload={"near": 0.0, "pace": 0.02},
    ),
    Mutation(
        "the first replica takes all reads",
        7,
        (
            edit(ReplicaSet, "turns", ("drawn = list(members * TURNS)", "drawn = list(members[:1] * TURNS)")),
            edit(ReplicaSet, "choose", ("return self._balancer.choose(members, now) if", "return members[0] if")),
            edit(ReplicaSet, "weigh", ("self._balancer.choose(members, now)", "members[0]")),
        ),
        settings=CALM,
        workload={"near": 0.0, "pace": 0.01, "writes": 0.01, "changes": 0.0},
    ),
    # -- counters
    Mutation(
        "what is computed in the background is not counted",
        0,
        (edit(AsyncComputing, "_run", ("counters.computed += 1", "counters.computed += flight is not None")),),
    ),
    Mutation(
        "a store that failed is counted",
        0,
        (edit(AsyncComputing, "_stored", ("+= bool(stored)", "+= 1")),),
    ),
]
