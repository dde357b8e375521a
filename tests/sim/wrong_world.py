"""Wrong changes that show only in some part of the world: a call, a fault, a bound or a way to find the master."""

from __future__ import annotations

from evercache.api._async.keys import AsyncKeys
from evercache.client._async.computing import AsyncComputing
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.operations import AsyncOperations
from evercache.client._async.writes import AsyncWrites
from evercache.client.serving import Serving
from evercache.engine.idleness import Idleness
from evercache.engine.spool import Spool
from evercache.engine.state import State
from evercache.engine.tail import Tail
from evercache.protocol import envelope
from evercache.protocol.commands import Commands
from evercache.topology import ReplicatedTopology
from tests.sim.mutation import Mutation, edit, no, put
from tests.sim.scenes import BUSY, CALM, CUT_OFF
from tests.sim.wrong_changes import DEADLY

__all__ = ["WORLD"]

#: Nobody invalidates in the night, and what is invalidated in the evening nobody reads again before it.
NIGHT = {"near": 0.0, "wide": 1.0, "same_key": False, "sets": 0.0, "changes": 0.0, "extras": False, "raises": 0.0}

#: Again and again two processes die and come back without a memory.
BORN_ANEW = tuple(
    ("kill_process", at, {"process": process, "after": 0.01})
    for at in (-0.9, -0.6, -0.3, 0.0)
    for process in (1, 2)
)

#: Twice nobody calls two of the processes for a while; they keep near what the third one invalidates meanwhile.
NAPPING = {
    "naps": ((0, 0.2, 1.0), (1, 0.3, 1.1), (0, 1.1, 1.9), (1, 1.2, 2.0)),
    "near": 3.0, "same_key": True, "slow_compute": False, "sets": 0.0, "changes": 0.0, "extras": False, **BUSY,
}  # fmt: skip

WORLD = [
    # -- calls
    Mutation(
        "a peek looks at no marks of the function",
        2,
        (
            edit(
                AsyncOperations,
                "peek",
                ("request.subject, policy.budget", "type(request.subject)(request.subject.key), policy.budget"),
            ),
        ),
        parts=("peeks",),
        settings=CALM,
        workload={"wide": 0.9, "near": 0.0, **BUSY},
    ),
    Mutation(
        "a refresh is content with what is cached",
        0,
        (
            edit(
                AsyncLeads,
                "_refresh_now",
                (
                    "entry = self._readable(request, reply)",
                    "return self._hit(request, self._readable(request, reply), state.resyncs, reply.marks.tip)",
                ),
            ),
        ),
        parts=("refreshes",),
        settings=CALM,
    ),
    Mutation(
        "what get_or_compute stores has no tags",
        16,
        (edit(AsyncKeys, "aget_or_compute", ("tags=tags,", "tags=(),")),),
        parts=("computes",),
        settings=CALM,
    ),
    Mutation(
        "the first of many keys is deleted only",
        0,
        (
            edit(
                AsyncKeys, "adelete_many", ("self._request(key).subject.key", "self._request(keys[0]).subject.key")
            ),
        ),
        parts=("many",),
        settings=CALM,
    ),
    Mutation(
        "what is raised is not queued",
        4,
        (
            edit(
                AsyncWrites,
                "invalidate_many",
                (
                    'error.add_note("the invalidation is obeyed here and queued for the master")',
                    "[state.withdrawn(item) for item in items]",
                ),
            ),
        ),
        parts=("raising",),
        settings=CALM,
        workload=BUSY,
        scene=CUT_OFF,
    ),
    Mutation(
        "cache_if is not asked",
        0,
        (
            edit(
                AsyncComputing,
                "_lifetime",
                (" or (policy.cache_if is not None and not policy.cache_if(value))", ""),
            ),
        ),
        parts=("picky",),
        settings=CALM,
    ),
    Mutation(
        "errors are cached for as long as values",
        19,
        (
            edit(
                AsyncComputing,
                "_raised",
                (
                    "policy.error_lifetime(error, draw_of(bytes.fromhex(token)))",
                    "policy.error_lifetime(error, 0.0) and policy.lifetime(None, 0.0)",
                ),
            ),
        ),
        parts=("errors",),
        settings=CALM,
        workload={"writes": 0.0},
    ),
    Mutation(
        "the first tag of an entry travels only",
        16,
        (
            edit(
                AsyncComputing,
                "_wrap",
                (
                    "tuple(dict.fromkeys((*tags, *request.result_tags(value))))",
                    "tuple(dict.fromkeys((*tags, *request.result_tags(value))))[:1]",
                ),
            ),
        ),
        parts=("peeks",),
        settings=CALM,
    ),
    Mutation(
        "a write is out of the way once something stands for its invalidation",
        11,
        (edit(AsyncWrites, "_out_of_the_way", ("elif item.had:", "elif True:")),),
        parts=("overlaps",),
        settings=CALM,
        workload={"pace": 0.02},
        scene=tuple(("freeze_node", -1.4 + 0.3 * i, {"node": "m", "for_": 0.24}) for i in range(5)),
    ),
    Mutation(
        "the first of several things is held only",
        22,
        (edit(Commands, "hold", ("for scope in scopes]", "for scope in scopes[:1]]")),),
        parts=("scopes",),
        settings=CALM,
        workload={**DEADLY, "changed_by": "k"},
    ),
    # -- faults
    Mutation(
        "a full server stores all the same",
        18,
        lua={"store": (("if full then", "if false then"),)},
        parts=("full",),
        settings=CALM,
    ),
    Mutation(
        "checksums are not looked at",
        0,
        (
            edit(
                envelope,
                "unpack",
                ("elif crc32(payload, crc32(data[HEADER_BYTES:start])) != crc:", "elif False:"),
            ),
            edit(Serving, "value", (" or found != crc", "")),
        ),
        parts=("spoil",),
        settings=CALM,
        workload={"near": 0.0, "writes": 0.03},
        scene=tuple(("spoil", -1.0 + 0.1 * i, {"which": 0.07 * i, "how": "flipped"}) for i in range(10)),
    ),
    Mutation(
        "who may not hear the log goes on as if there was nothing in it",
        14,
        (edit(Tail, "_met", ("engine.log_refused(address, error)", "engine.state.covers = engine.state.now()")),),
        parts=("refuse",),
        settings={**CALM, "consistency": "available", "max_staleness": 0.25},
        workload={"near": 3.0, **BUSY},
        scene=(("refuse", -1.2, {"process": 0, "what": "log", "for_": 1.2}),),
    ),
    Mutation(
        "marks leave with the journal",
        18,
        lua={"*": (("lifetime * 1000)", "journal_ms * 1000)"),)},
        parts=("night",),
        settings={"max_ttl": 30 * 86_400.0, "default_ttl": 20_000.0},
        workload=NIGHT,
    ),
    Mutation(
        "nothing is spooled",
        4,
        (put(Spool, "save", lambda self, items: ""),),
        parts=("close_process",),
        settings=CALM,
        workload=BUSY,
        scene=(
            ("wall", -0.9, {"process": 0, "server": None, "way": "both", "for_": 1.2}),
            ("close_process", -0.5, {"process": 0, "after": 0.05}),
        ),
    ),
    Mutation(
        "what an interrupted call owned stays",
        4,
        (put(State, "reclaim", lambda self: ([], [], False)),),
        parts=("interrupt",),
        settings=CALM,
        scene=tuple(("interrupt", -1.3 + 0.1 * i, {"process": i % 3, "line": 30 + 17 * i}) for i in range(12)),
    ),
    # -- processes that nobody calls for a while
    Mutation(
        "an idle process reads the log seldom and serves on its first call",
        14,
        (
            edit(State, "sure", (" and self._covers >= self.awake_since", "")),
            put(Idleness, "poll", property(lambda self: 10.0)),
            put(State, "blind", no),
        ),
        settings={**CALM, "consistency": "available", "max_staleness": 0.25},
        workload=NAPPING,
    ),
    Mutation(
        "what an idle process heard counts on its first call",
        14,
        (edit(State, "sure", (" and self._covers >= self.awake_since", "")),),
        settings={**CALM, "consistency": "available", "max_staleness": 0.25},
        workload=NAPPING,
    ),
    Mutation(
        "a process that wakes does not read the log at once",
        14,
        (put(Idleness, "_woken", lambda self: self._engine.deployment.look_for_idle()),),
        settings={**CALM, "consistency": "available", "max_staleness": 0.25},
        workload=NAPPING,
    ),
    # -- bounds, and ways to find the master
    Mutation(
        "the first page of marks is the last",
        18,
        (edit(Tail, "_page", ("if len(marks) == count:", "if False:")),),
        parts=("page",),
        settings=CALM,
        workload={"wide": 1.0, "near": 0.0, "writes": 0.25, "pace": 0.15, "sets": 0.0},
        scene=BORN_ANEW,
    ),
    Mutation(
        "cached values are served before all marks are known",
        14,
        (
            edit(State, "resynced", ('float("-inf") if unread else began', "began")),
            # The pages come slowly, so that a process lives for a while without them.
            edit(Tail, "_learn", ("await asyncio.sleep(rest)", "await asyncio.sleep(0.15)")),
        ),
        parts=("page",),
        settings=CALM,
        workload={"wide": 1.0, "near": 0.0, "writes": 0.25, "pace": 0.15, "sets": 0.0},
        scene=BORN_ANEW,
    ),
    Mutation(
        "the first master of a list of servers is the only one",
        17,
        (
            edit(
                ReplicatedTopology,
                "_judge",
                ("if master is None:", "if master is None or master.address != old.master:"),
            ),
        ),
        parts=("kind",),
        focus="failover",
        settings=CALM,
    ),
]
