"""Wrong changes: the rules of docs/protocol.md dropped, one at a time."""

from __future__ import annotations

from typing import Any

from evercache.client._async.computing import AsyncComputing
from evercache.client._async.reads import AsyncReads
from evercache.client.serving import Serving
from evercache.engine.chores import Chores
from evercache.engine.engine import Engine
from evercache.engine.flights import Flights
from evercache.engine.routing import Routing
from evercache.engine.state import State
from evercache.engine.tail import Tail
from evercache.near.gutter import Gutter
from evercache.near.near import Near
from evercache.protocol.caught import ReplicaTable
from evercache.protocol.freshness import Marks
from evercache.protocol.journal import Journal
from evercache.protocol.topology import SentinelBook
from evercache.topology import replicas
from evercache.topology.replicas import ReplicaSet
from tests.sim.loop import Tag
from tests.sim.mutation import Mutation, edit, never, no, nothing, put, yes
from tests.sim.scenes import (
    BLOCKED,
    BUSY,
    CALM,
    CRASH,
    FEW,
    FORGOTTEN,
    GAP,
    IN_PLACE,
    LOST,
    LOST_AND_DEAD,
    SLOW,
    STALLS,
    UNSEEN,
    lags,
)

__all__ = ["RULES"]

_original_fit = ReplicaSet.fit
_original_fresh = Marks.fresh
_original_prune = Journal.prune


def _fit_any_tau(self: ReplicaSet, tau: float, now: float, lag: float, **more: Any) -> Any:
    return _original_fit(self, -1e9, now, lag, **more)


def _fit_any_lag(self: ReplicaSet, tau: float, now: float, lag: float, **more: Any) -> Any:
    return _original_fit(self, tau, now, 1e9, **more)


def _no_tags(self: Marks, stamp: int, subject: Any, tags: Any = ()) -> bool:
    return _original_fresh(self, stamp, subject, ())


def _prune_all(self: Journal, now: float, *, keep: float) -> None:
    _original_prune(self, now, keep=0.2)
    self.forgotten.clear()


#: The first life of the bookkeeping that somebody begins who knows of one before.
_BEGUN_ANEW = "quarters * LEAP / 4 + now_us % (LEAP / 8))"

RULES = [
    Mutation(
        "stamps by the clock",
        1,
        lua={"*": (("max(now_us, tip + 1, NEWEST + 1)", "now_us"),)},
    ),
    Mutation(
        "lease stamp by the clock",
        1,
        lua={
            "lease": (
                ("%.0f ', tip,", "%.0f ', now_us + 5000,"),
                ("{'lead', tip, stale}", "{'lead', now_us + 5000, stale}"),
            )
        },
        workload=SLOW,
        settings=CALM,
    ),
    Mutation(
        "a new master goes on from the tip of the former one",
        1,
        lua={"*": (("leap(max(now_us, tip), LEAP)", ""),)},
        settings=CALM,
        # One process hears late of the new one.
        scene=(
            ("wall", -0.9, {"process": 0, "server": "s", "way": "both", "for_": 1.5}),
            (
                "failover",
                -0.5,
                {**CRASH, "mode": "planned", "late": [0.0, 0.0, 0.0], "back": 1.2},
            ),
        ),
        workload={"near": 0.0, "wide": 0.9, **BUSY},
    ),
    Mutation(
        "the master does not check marks",
        2,
        lua={
            "*": (
                ("least = max(least, star, func)", ""),
                ("if ntags > 0 or own_tags then", "if false then"),
                ("replid, 0, 0, func, floor}", "replid, 0, 0, 0, floor}"),
                ("reply[4], reply[5] = tip, star", "reply[4], reply[5] = tip, 0"),
            )
        },
        scene=STALLS,
        settings={"max_staleness": 0.1, **CALM},
        workload={"wide": 0.9, "writes": 0.2, "pace": 0.2, "sets": 0.0, "near": 0.0},
    ),
    Mutation(
        "nothing is replayed",
        3,
        (put(Journal, "_replay", nothing),),
        focus="failover",
        settings=CALM,
        workload=BUSY,
        scene=LOST,
    ),
    Mutation(
        "only own ones are replayed",
        3,
        (
            edit(
                Journal,
                "resynced",
                (
                    "if is_lost(item.generation, item.stamp, generations)",
                    "if item.own and is_lost(item.generation, item.stamp, generations)",
                ),
            ),
        ),
        focus="failover",
        settings=CALM,
        workload=BUSY,
        scene=LOST_AND_DEAD,
    ),
    Mutation(
        "generations are not recorded",
        3,
        lua={"*": (("replid, -57, true)) then", "replid, -57, true)) and tip <= 0 then"),)},
        focus="failover",
        settings=CALM,
        workload=BUSY,
        scene=LOST,
    ),
    Mutation("a given up invalidation is forgotten", 4, (put(State, "given_up", State.withdrawn),)),
    Mutation("pending ones outdate nothing", 4, (put(Journal, "covers", no),), workload=BUSY, scene=LOST),
    Mutation(
        "generations are not compared",
        5,
        (
            put(Engine, "changed_generation", nothing),
            edit(Tail, "_read", ('if facts.role != "master" or facts.replid != state.generation:', "if False:")),
            edit(Tail, "_follow", ("if state.same_data:", "if False:")),
        ),
        lua={"*": (("if ARGV[2] ~= replid and ARGV[2] ~= '' then", "if false then"),)},
        settings=CALM,
        workload=BUSY,
        scene=IN_PLACE,
    ),
    Mutation(
        "near survives a resync",
        5,
        (
            edit(State, "unready", ("self.near.clear()", "pass")),
            edit(State, "resynced", ("self.near.clear()", "pass")),
        ),
        workload={"near": 3.0},
        settings=CALM,
        limits={"log_lines": 6},
        scene=GAP,
    ),
    Mutation(
        "joiners accept anything",
        6,
        (put(State, "acceptable", yes), put(Flights, "detach", nothing)),
        workload={**SLOW, **BUSY},
    ),
    Mutation(
        "unleased values count as newest",
        6,
        (
            edit(AsyncComputing, "compute_plain", ("state.marks.newest, state.journal.sequence", "2**52, 2**52")),
            edit(State, "acceptable", ("outcome.stamp >= need", "True")),
            put(Gutter, "hear", nothing),
        ),
        settings={"gutter": 1.0},
    ),
    Mutation(
        "replicas need not have caught up",
        7,
        (put(ReplicaSet, "fit", _fit_any_tau),),
        settings={"max_staleness": 0.25, "lag_bound": 1.5, **CALM},
        limits={"log_lines": 6},
        workload={"near": 0.0},
        scene=(*GAP, *lags(-0.6, 1.2, 2.0)),
    ),
    Mutation(
        "the lag of replicas has no bound",
        7,
        (put(ReplicaSet, "fit", _fit_any_lag),),
        settings={**CALM},
        workload={"near": 0.0, **BUSY},
        scene=lags(-2.0, 2.6, 4.0),
    ),
    Mutation(
        "another process behind the address is trusted",
        7,
        (put(replicas, "leads_to", lambda run_id: yes),),
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
        "caught up as of the receipt",
        7,
        (
            edit(
                ReplicaTable,
                "master_answer",
                ("self._sent.append(sent)", "self._sent.append(sent + 3)"),
                ("self._sent[-1] = sent", "self._sent[-1] = sent + 3"),
            ),
        ),
        settings={**CALM},
        workload={"near": 0.0, **BUSY},
        scene=lags(-2.0, 2.6, 4.0),
    ),
    Mutation(
        "a reply is not checked against what was forgotten",
        7,
        (
            put(Marks, "remembers", yes),
            edit(Serving, "value", ("or (obeyed < marks.horizon and stamp < marks.horizon)", "")),
        ),
        settings={"lag_bound": 0.6, **CALM},
        workload={"near": 0.0, "wide": 0.1, **BUSY},
        scene=BLOCKED,
    ),
    Mutation(
        "near does not hear",
        8,
        (put(Near, "hear", nothing),),
        workload={"near": 3.0},
        settings={"lag_bound": 0.8, **CALM},
    ),
    Mutation(
        "near is put unchecked",
        8,
        (
            edit(
                State,
                "put_near",
                ("if fresh and not self.journal.covers(subject, tags):", "if True:"),
            ),
            edit(
                AsyncReads,
                "_near",
                ("envelope.stamp < need or ", ""),
                ("state.marks.fresh(envelope.stamp, subject, envelope.tags)", "True"),
            ),
        ),
        workload={"near": 3.0, "same_key": True},
        settings=CALM,
    ),
    Mutation(
        "touch revives and stamps",
        9,
        lua={
            "touch": (
                ("if not fresh or version > 1 or", "if version == 0 or"),
                (
                    "call('SETRANGE', KEYS[6], 12,",
                    "call('SETRANGE', KEYS[6], 4, struct.pack('>I8', now_us))\ncall('SETRANGE', KEYS[6], 12,",
                ),
            )
        },
        workload={"wide": 0.9},
        settings=CALM,
    ),
    Mutation(
        "a set is not logged",
        10,
        lua={"set": (("last = call('XADD',", "last = last or call('XADD',"),)},
        workload={"sets": 0.5},
        settings={"lag_bound": 1.5, **CALM},
        scene=lags(-1.5, 1.1, 2.0),
    ),
    Mutation(
        "late writes are executed",
        11,
        lua={
            "set": (
                ("if now_us > not_after_us or now_us < not_before_us then", "if false then"),
                ("if cancelled[i] then", "if false then"),
            )
        },
        settings=CALM,
        workload={"sets": 0.6, **BUSY},
        # What it sends waits behind the wall until it is dead.
        scene=(
            ("wall", -0.9, {"process": 0, "server": "m", "way": "both", "for_": 1.0}),
            ("kill_process", -0.1, {"process": 0, "after": 0.5}),
        ),
    ),
    Mutation(
        "a store needs no token",
        12,
        lua={
            "store": (
                (
                    "if not lease or string.find(lease, token .. ' ' .. stamp_told .. ' ', 1, true) ~= 1 then",
                    "if false then",
                ),
            )
        },
        workload=SLOW,
    ),
    Mutation("leases are not renewed", 13, (put(Chores, "renew", never),), workload=SLOW),
    Mutation(
        "a new lease while one is held",
        13,
        lua={"lease": (("if holder and tonumber(granted_stamp) >= least then", "if false then"),)},
        workload=SLOW,
    ),
    Mutation(
        "an answer covers its arrival",
        14,
        (
            edit(
                Tail,
                "_read",
                ("covers = min(sent + block, arrived)", "covers = arrived + 2"),
                ("covers = sent\n", "covers = arrived + 2\n"),
            ),
        ),
        scene=STALLS,
        workload={"near": 3.0, **BUSY},
        settings={"consistency": "available", "max_staleness": 0.1, **CALM},
    ),
    Mutation(
        "never blind",
        14,
        (put(State, "blind", no),),
        scene=STALLS,
        workload={"near": 3.0, **BUSY},
        settings={"consistency": "available", "max_staleness": 0.1, **CALM},
    ),
    Mutation(
        "ages of coverage by the monotonic clock",
        14,
        (put(Tag, "behind", lambda tag: tag.whole.asleep),),
        settings={"max_staleness": 0.8, "consistency": "available", **CALM},
        workload={"near": 3.0, **BUSY},
        scene=tuple(("suspend", -1.2 + 0.3 * p, {"process": p, "for_": 1.6}) for p in range(3)),
    ),
    Mutation(
        "gaps are not noticed",
        14,
        (edit(Tail, "_take", ("if line.previous != state.position:", "if False:")),),
        limits={"log_lines": 6},
        settings=CALM,
        scene=GAP,
        workload={"near": 3.0},
    ),
    Mutation(
        "values from the future are believed",
        15,
        (edit(AsyncReads, "judge", ("envelope.stamp > state.marks.newest", "False")),),
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
        "tags do not travel",
        16,
        (
            put(Marks, "fresh", _no_tags),
            edit(
                AsyncComputing,
                "_wrap",
                ("tags = tuple(dict.fromkeys((*tags, *request.result_tags(value))))", "pass"),
            ),
        ),
        workload={"wide": 0.9},
        settings=CALM,
    ),
    Mutation(
        "the master is always confirmed",
        17,
        (put(Routing, "confirmed", yes),),
        settings={"consistency": "strict", "max_staleness": 0.25, **CALM},
        # One process stays with the old master, cut off from the sentinels; the others are with the new one.
        scene=(
            ("wall", -1.2, {"process": 0, "server": "s", "way": "both", "for_": 1.9}),
            *(("wall", -1.12, {"process": p, "server": "m", "way": "both", "for_": 2.1}) for p in (1, 2)),
            ("failover", -1.1, {**CRASH, "mode": "isolated", "back": 1.8}),
        ),
        workload={"near": 0.0, "wide": 0.9, **BUSY},
    ),
    Mutation(
        "votes are not heard",
        17,
        (put(SentinelBook, "voted", nothing),),
        settings={"consistency": "strict", "max_staleness": 0.25, **CALM},
        # One process goes on invalidating at the old master; so few others do that nobody does it once more.
        scene=(*UNSEEN, ("burst", -0.7, {"process": 0, "count": 8})),
        alone=True,
        workload={**FEW, "wide": 0.1, "writes": 0.02, "pace": 0.02},
    ),
    Mutation(
        "folded marks leave nothing behind",
        18,
        (
            edit(
                Marks,
                "_hear_tag",
                ("self.tag_floor = max(self.tag_floor, self.tags[oldest])", "pass"),
            ),
        ),
        lua={"*": (("tagfloor = max(tagfloor, mark)", ""), ("star = max(star, mark)", ""))},
        limits={"marks": 1, "max_marks": 1},
        workload={"wide": 0.9},
        settings=CALM,
    ),
    Mutation(
        "entries outlive the bookkeeping",
        18,
        lua={
            "*": ((_BEGUN_ANEW, _BEGUN_ANEW + " outdate = function() end"),),
            "restore": (("if knew_another and", "if false and"),),
        },
        settings={**CALM, "max_staleness": 0.25},
        scene=FORGOTTEN,
        workload=FEW,
    ),
    Mutation(
        "entries above the tip are alive",
        18,
        lua={"*": ((" and stamp <= tip", ""),)},
        settings={**CALM, "max_staleness": 0.25},
        # Who sleeps knows of neither of two lives, and begins one below the second.
        scene=(("evict", -0.25, {"keys": ["state", "marks", "log", "ids"]}), *FORGOTTEN),
        workload=FEW,
    ),
    Mutation(
        "the journal forgets at once",
        20,
        (put(Journal, "prune", _prune_all),),
        settings=CALM,
        scene=IN_PLACE,
        # So few reads that nobody mends by chance what comes back.
        workload={"near": 0.0, "wide": 0.0, "writes": 0.4, "pace": 0.5},
    ),
    Mutation(
        "what leaves the journal leaves no note",
        20,
        (put(Journal, "_forget", nothing),),
        settings=CALM,
        # From a file that is older than what journals have.
        scene=(("restart_master", 0.0, {"down": 0.05, "lost": 2.0, "sync": [0.1, 0.1, 0.1]}),),
        limits={"journal_time": 0},
        workload={"near": 0.0, "wide": 0.0, "writes": 0.4, "pace": 0.5},
    ),
    Mutation(
        "the journal keeps the first of each scope",
        20,
        (edit(Journal, "_forget_outdone", ("for item in in_order}", "for item in reversed(in_order)}")),),
        settings=CALM,
        # In two generations many are issued. Each process resyncs, as the child of a fork. Then those of the second
        # generation are lost, and what they outdate is back. Nobody reads until the marks of keys are forgotten.
        scene=(
            ("burst", -1.2, {"process": 0, "count": 12}),
            ("restart_master", -0.9, {"down": 0.05, "lost": 0.0, "sync": [0.1, 0.1, 0.1]}),
            ("burst", -0.3, {"process": 0, "count": 12}),
            *(("fork_process", -0.1, {"process": p, "parent_ends": True}) for p in range(3)),
            *(("block_loop", -0.03, {"process": p, "for_": 2.3, "when": "now"}) for p in range(3)),
            ("restart_master", 0.0, {"down": 0.05, "lost": 0.5, "sync": [0.1, 0.1, 0.1]}),
        ),
        alone=True,
        workload={**FEW, "wide": 0.0, "writes": 0.03, "pace": 0.1},
        limits={"log_lines": 1000, "journal": 1000, "pending": 1000},
    ),
]
