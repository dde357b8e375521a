"""Wrong changes, each of which the simulator must find: every rule of docs/protocol.md dropped, and small slips.

A change of a script is made in its text in memory, a change of Python in a copy of the function; the files stay as
they are. `rule` is the number of the rule, or 0 for a slip.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from evercache.client._async.computing import AsyncComputing
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.reads import AsyncReads
from evercache.client._async.writes import AsyncWrites
from evercache.engine.chores import Chores
from evercache.engine.engine import Engine
from evercache.engine.flights import Flights
from evercache.engine.state import State
from evercache.engine.tail import Tail
from evercache.near.gutter import Gutter
from evercache.near.near import Near
from evercache.protocol.caught import ReplicaTable
from evercache.protocol.freshness import Marks
from evercache.protocol.journal import Journal
from evercache.protocol.topology import SentinelBook
from evercache.topology.replicas import Replica, ReplicaSet
from tests.sim.lua import LuaHost
from tests.sim.plan import Plan, make_plan
from tests.sim.world import Result, run

__all__ = ["MUTATIONS", "Mutation", "hunt"]

Change = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One wrong change, and the kind of schedule in which it shows soonest."""

    name: str
    rule: int
    python: tuple[Change, ...] = ()
    lua: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    focus: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    #: Faults on top of those of the schedule: (kind, seconds from the end of the writes, arguments).
    scene: tuple[tuple[str, float, dict[str, Any]], ...] = ()

    @contextlib.contextmanager
    def applied(self) -> Iterator[LuaHost | None]:
        """While it is applied; gives the interpreter with the changed scripts."""
        with contextlib.ExitStack() as stack:
            for change in self.python:
                stack.enter_context(change())
            yield LuaHost({name: _swaps(pairs) for name, pairs in self.lua.items()}) if self.lua else None

    def plan(self, seed: int) -> Plan:
        """A schedule in which it may show."""
        plan = make_plan(seed, self.focus)
        return replace(
            plan,
            settings={**plan.settings, **self.settings},
            workload={**plan.workload, **self.workload},
            limits={**plan.limits, **self.limits},
        ).plus(self.scene)


def _swaps(pairs: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    def change(text: str) -> str:
        for old, new in pairs:
            if old not in text:
                raise LookupError(f"the script has changed: {old!r} is not in it; bring this mutation up to date")
            text = text.replace(old, new)
        return text

    return change


def put(owner: type, name: str, function: Any) -> Change:
    """Another function in the place of a method."""
    return lambda: mock.patch.object(owner, name, function)


def edit(owner: type, name: str, *pairs: tuple[str, str]) -> Change:
    """A method with some of its text changed."""

    def apply() -> contextlib.AbstractContextManager[Any]:
        function = inspect.unwrap(getattr(owner, name))
        text = _swaps(pairs)(textwrap.dedent(inspect.getsource(function)))
        scope: dict[str, Any] = {}
        exec(compile(text, f"<mutated {owner.__name__}.{name}>", "exec"), function.__globals__, scope)
        return mock.patch.object(owner, name, scope[name])

    return apply


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _yes(*args: Any, **kwargs: Any) -> bool:
    return True


def _no(*args: Any, **kwargs: Any) -> bool:
    return False


async def _never(self: Chores) -> None:
    return None


_original_choose = ReplicaSet.choose
_original_fresh = Marks.fresh
_original_prune = Journal.prune


def _choose_any_tau(self: ReplicaSet, tau: float, now: float, lag: float, exclude: Any = None, **more: Any) -> Any:
    return _original_choose(self, -1e9, now, lag, exclude, **more)


def _choose_any_lag(self: ReplicaSet, tau: float, now: float, lag: float, exclude: Any = None, **more: Any) -> Any:
    return _original_choose(self, tau, now, 1e9, exclude, **more)


def _no_tags(self: Marks, stamp: int, subject: Any, tags: Any = ()) -> bool:
    return _original_fresh(self, stamp, subject, ())


def _prune_all(self: Journal, now: float, *, proved_before: float, keep: float) -> None:
    _original_prune(self, now, proved_before=float("inf"), keep=0.2)


def _lags(at: float, seconds: float, for_: float = 3.0) -> tuple[tuple[str, float, dict[str, Any]], ...]:
    return tuple(("lag", at, {"node": n, "for_": for_, "seconds": seconds}) for n in range(3))


_CRASH = {
    "mode": "crash", "detect": 0.3, "best": True, "pick": 0, "late": [0.0, 0.02, 0.1], "repoint": [0.1, 0.1, 0.1],
    "sync": [0.1, 0.1, 0.1], "back": 0.4, "clock": 0.0,
}  # fmt: skip
#: The last of what was acknowledged is lost with its master.
_LOST = (*_lags(-0.6, 0.5, 0.7), ("failover", -0.05, _CRASH))
#: The same, and who issued it dies; a new process knows nothing of it.
_LOST_AND_DEAD = (*_LOST, ("kill_process", -0.03, {"process": 0, "after": 0.05}))
#: A process sleeps while the log goes on and is trimmed.
_GAP = (("stop_process", -0.5, {"process": 0, "for_": 0.45}), ("burst", -0.3, {"process": 1, "count": 30}))
#: The master restarts without its last second.
_IN_PLACE = (("restart_master", 0.0, {"down": 0.05, "lost": 1.0, "sync": [0.1, 0.1, 0.1]}),)
_STALLS = tuple(("tail_stall", -0.15 * i, {"process": i % 3, "for_": 0.5}) for i in range(1, 18))
_BUSY = {"writes": 0.2, "pace": 0.02}
_CUT_OFF = (("wall", -0.9, {"process": 0, "server": "m", "way": "both", "for_": 1.2}),)
_SLOW = {"slow_compute": True, "same_key": True, "raises": 0.0}
_CALM = {"default_ttl": 60.0}
_EXTRAS = {"extras": True}

_LIST = [
    # -- rules dropped
    Mutation(
        "stamps by the clock",
        1,
        lua={"*": (("math.max(now_us, state.tip + 1, NEWEST + 1)", "now_us"),)},
    ),
    Mutation(
        "lease stamp by the clock",
        1,
        lua={
            "lease": (
                ("write_lease(token, state.tip,", "write_lease(token, now_us + 5000,"),
                ("known, state.tip, stale}", "known, now_us + 5000, stale}"),
            )
        },
        workload=_SLOW,
        settings=_CALM,
    ),
    Mutation(
        "the master does not check marks",
        2,
        lua={
            "*": (
                (
                    "local marks = covering(state, least, name, union(tags, entry and entry.tags or {}))",
                    "local marks = {func = 0, tags = {}, least = least}",
                ),
                ("{state.tip, state.star, marks.func,", "{state.tip, 0, marks.func,"),
            )
        },
        scene=_STALLS,
        settings={"max_staleness": 0.1, **_CALM},
        workload={"wide": 0.9, "writes": 0.2, "pace": 0.2, "sets": 0.0, "near": 0.0},
    ),
    Mutation(
        "nothing is replayed",
        3,
        (put(Journal, "_replay", _nothing),),
        focus="failover",
        settings=_CALM,
        workload=_BUSY,
        scene=_LOST,
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
        settings=_CALM,
        workload=_BUSY,
        scene=_LOST_AND_DEAD,
    ),
    Mutation(
        "generations are not recorded",
        3,
        lua={"*": ((":%d+$') == replid then", ":%d+$') or state.tip > 0 then"),)},
        focus="failover",
        settings=_CALM,
        workload=_BUSY,
        scene=_LOST,
    ),
    Mutation("a given up invalidation is forgotten", 4, (put(State, "given_up", State.withdrawn),)),
    Mutation("pending ones outdate nothing", 4, (put(Journal, "covers", _no),), workload=_BUSY, scene=_LOST),
    Mutation(
        "generations are not compared",
        5,
        (
            put(Engine, "changed_generation", _nothing),
            edit(Tail, "_read", ('if facts.role != "master" or facts.replid != state.generation:', "if False:")),
            edit(Tail, "_follow", ("if state.ready and state.generation != greeting.replid:", "if False:")),
        ),
        lua={"*": (("if ARGV[2] ~= '' and ARGV[2] ~= replid then", "if false then"),)},
        settings=_CALM,
        workload=_BUSY,
        scene=_IN_PLACE,
    ),
    Mutation(
        "near survives a resync",
        5,
        (
            edit(State, "unready", ("self.near.clear()", "pass")),
            edit(State, "resynced", ("self.near.clear()", "pass")),
        ),
        workload={"near": 3.0},
        settings=_CALM,
        limits={"log_lines": 6},
        scene=_GAP,
    ),
    Mutation(
        "joiners accept anything",
        6,
        (put(State, "acceptable", _yes), put(Flights, "detach", _nothing)),
        workload={**_SLOW, **_BUSY},
    ),
    Mutation(
        "unleased values count as newest",
        6,
        (
            edit(AsyncComputing, "compute_plain", ("state.marks.newest, state.journal.sequence", "2**52, 2**52")),
            edit(State, "acceptable", ("outcome.stamp >= need", "True")),
            put(Gutter, "hear", _nothing),
        ),
        settings={"gutter": 1.0},
    ),
    Mutation(
        "replicas need not have caught up",
        7,
        (put(ReplicaSet, "choose", _choose_any_tau),),
        settings={"max_staleness": 0.25, "lag_bound": 1.5, **_CALM},
        limits={"log_lines": 6},
        workload={"near": 0.0},
        scene=(*_GAP, *_lags(-0.6, 1.2, 2.0)),
    ),
    Mutation(
        "the lag of replicas has no bound",
        7,
        (put(ReplicaSet, "choose", _choose_any_lag),),
        settings={**_CALM},
        workload={"near": 0.0, **_BUSY},
        scene=_lags(-2.0, 2.6, 4.0),
    ),
    Mutation(
        "another process behind the address is trusted",
        7,
        (put(Replica, "expected", _yes),),
        settings={"max_staleness": 0.25, "lag_bound": 0.7, **_CALM},
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
        settings={**_CALM},
        workload={"near": 0.0, **_BUSY},
        scene=_lags(-2.0, 2.6, 4.0),
    ),
    Mutation(
        "near does not hear",
        8,
        (put(Near, "hear", _nothing),),
        workload={"near": 3.0},
        settings={"lag_bound": 0.8, **_CALM},
    ),
    Mutation(
        "near is put unchecked",
        8,
        (
            edit(
                State,
                "put_near",
                ("if fresh(envelope.stamp, subject, tags) and not self.journal.covers(subject, tags):", "if True:"),
            ),
            edit(
                AsyncReads,
                "_near",
                ("envelope.stamp < need or ", ""),
                ("state.marks.fresh(envelope.stamp, subject, envelope.tags)", "True"),
            ),
        ),
        workload={"near": 3.0, "same_key": True},
        settings=_CALM,
    ),
    Mutation(
        "touch revives and stamps",
        9,
        lua={
            "touch": (
                ("if not fresh or entry.newer then", "if not entry or entry.foreign then"),
                (
                    "redis.call('SETRANGE', ENTRY, 12,",
                    "redis.call('SETRANGE', ENTRY, 4, struct.pack('>I8', now_us))\n"
                    "redis.call('SETRANGE', ENTRY, 12,",
                ),
            )
        },
        workload={"wide": 0.9},
        settings=_CALM,
    ),
    Mutation(
        "a set is not logged",
        10,
        lua={
            "set": (
                (
                    "local m = mark(state, 'k', ENTRY, id, false, limit, life)",
                    "local m = math.max(now_us, state.tip + 1, NEWEST + 1)\nraise_tip(state, m, life)",
                ),
            )
        },
        workload={"sets": 0.5},
        settings={"lag_bound": 1.5, **_CALM},
        scene=_lags(-1.5, 1.1, 2.0),
    ),
    Mutation(
        "late writes are executed",
        11,
        lua={
            "set": (
                ("if untimely(not_before_us, not_after_us) then", "if false then"),
                ("if redis.call('ZSCORE', IDS, id) then", "if false then"),
            )
        },
        settings=_CALM,
        workload={"sets": 0.6, **_BUSY},
        # What it sends waits behind the wall until it is dead.
        scene=(
            ("wall", -0.9, {"process": 0, "server": "m", "way": "both", "for_": 1.0}),
            ("kill_process", -0.1, {"process": 0, "after": 0.5}),
        ),
    ),
    Mutation(
        "a store needs no token",
        12,
        lua={"store": (("if holder ~= token or granted ~= stamp then", "if false then"),)},
        workload=_SLOW,
    ),
    Mutation("leases are not renewed", 13, (put(Chores, "renew", _never),), workload=_SLOW),
    Mutation(
        "a new lease while one is held",
        13,
        lua={
            "lease": (
                ("if holder and stamp >= marks.least and granted_here(granted, generation) then", "if false then"),
            )
        },
        workload=_SLOW,
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
        scene=_CUT_OFF,
        workload=_BUSY,
        settings={"consistency": "strict", "max_staleness": 0.25, **_CALM},
    ),
    Mutation(
        "never blind",
        14,
        (put(State, "blind", _no),),
        scene=_CUT_OFF,
        workload=_BUSY,
        settings={"consistency": "strict", "max_staleness": 0.25, **_CALM},
    ),
    Mutation(
        "gaps are not noticed",
        14,
        (edit(Tail, "_take", ("if line.previous != state.position:", "if False:")),),
        limits={"log_lines": 6},
        settings=_CALM,
        scene=_GAP,
        workload={"near": 3.0},
    ),
    Mutation(
        "values from the future are believed",
        15,
        (edit(AsyncReads, "judge", ("envelope.stamp > state.marks.newest", "False")),),
        settings=_CALM,
        # It hears of the new master late, and invalidates at the old one; the new one's clock is ahead.
        scene=(
            ("wall", -0.9, {"process": 0, "server": "s", "way": "both", "for_": 1.5}),
            (
                "failover",
                -0.5,
                {**_CRASH, "mode": "planned", "late": [0.0, 0.0, 0.0], "back": 1.2, "clock": 5.0},
            ),
        ),
        workload={"near": 0.0, "wide": 0.9, **_BUSY},
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
        settings=_CALM,
    ),
    Mutation(
        "the master is always confirmed",
        17,
        (put(Engine, "confirmed", _yes),),
        settings={"consistency": "strict", "max_staleness": 0.4, **_CALM},
        scene=(
            ("wall", -0.8, {"process": 0, "server": "s", "way": "both", "for_": 1.5}),
            ("failover", -0.6, {**_CRASH, "mode": "isolated", "back": 1.2}),
        ),
        workload=_BUSY,
    ),
    Mutation(
        "folded marks leave nothing behind",
        18,
        (
            edit(
                Marks,
                "_hear_tag",
                ("self.tag_floor = max(self.tag_floor, self.tags.pop(oldest))", "self.tags.pop(oldest)"),
            ),
        ),
        lua={"*": (("state[field] = math.max(state[field], tonumber(gone[i + 1]))", ""),)},
        limits={"marks": 1, "max_marks": 1},
        workload={"wide": 0.9},
        settings=_CALM,
    ),
    Mutation(
        "the journal forgets at once",
        20,
        (put(Journal, "prune", _prune_all),),
        settings=_CALM,
        scene=_IN_PLACE,
        # So few reads that nobody mends by chance what comes back.
        workload={"near": 0.0, "wide": 0.0, "writes": 0.4, "pace": 0.5},
    ),
    # -- slips
    Mutation(
        "an invalidation leaves the entry", 0, lua={"invalidate": (("redis.call('UNLINK', ENTRY, LEASE)", ""),)}
    ),
    Mutation(
        "an invalidation leaves the lease",
        0,
        lua={
            "invalidate": (("redis.call('UNLINK', ENTRY, LEASE)", "redis.call('UNLINK', ENTRY)"),),
            "lease": (
                ("if holder and stamp >= marks.least and granted_here(granted, generation) then", "if holder then"),
            ),
        },
        workload=_SLOW,
    ),
    Mutation(
        "stale entries are handed out past a mark",
        0,
        (edit(AsyncLeads, "lead", ("entry.stamp >= known", "True")),),
        lua={"lease": (("local stale = fresh and entry.raw or ''", "local stale = entry and entry.raw or ''"),)},
        workload={"stale": 0.5, "wide": 0.9},
        settings={"default_ttl": 60.0},
    ),
    Mutation(
        "stale if error past a mark",
        0,
        (
            edit(
                AsyncComputing,
                "_raised",
                ("state.marks.fresh(stale.stamp, request.subject, stale.tags)", "True"),
                ("not state.journal.covers(request.subject, stale.tags)", "True"),
            ),
        ),
        lua={"lease": (("local stale = fresh and entry.raw or ''", "local stale = entry and entry.raw or ''"),)},
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
        settings=_CALM,
        scene=_CUT_OFF,
        workload=_BUSY,
    ),
    Mutation(
        "the gutter does not hear",
        0,
        (
            put(Gutter, "hear", _nothing),
            edit(
                AsyncLeads,
                "_without_master",
                ("state.acceptable(kept, subject, state.marks.need(subject))", "True"),
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
        settings=_CALM,
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
        settings=_CALM,
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
        scene=(("failover", -0.5, {**_CRASH, "late": [0.0, 2.5, 2.5]}),),
        settings=_CALM,
    ),
    Mutation(
        "key marks are forgotten too soon",
        0,
        (
            edit(
                Marks, "expire_keys", ("if now - self.keys[key][1] <= keep:", "if now - self.keys[key][1] <= 0.05:")
            ),
        ),
        settings={"lag_bound": 1.5, **_CALM},
        scene=_lags(-1.0, 1.3, 3.0),
        workload={"near": 0.0, **_BUSY},
    ),
    # -- entries by themselves: counters, add, since, touch, expiry
    Mutation(
        "touch stamps",
        9,
        lua={
            "touch": (
                (
                    "redis.call('SETRANGE', ENTRY, 12,",
                    "redis.call('SETRANGE', ENTRY, 4, struct.pack('>I8', now_us))\n"
                    "redis.call('SETRANGE', ENTRY, 12,",
                ),
            )
        },
        workload=_EXTRAS,
    ),
    Mutation(
        "touch revives the dead",
        9,
        lua={"touch": (("if not fresh or entry.newer then", "if not entry or entry.foreign then"),)},
        workload={"wide": 0.9, **_EXTRAS},
    ),
    Mutation(
        "an increment resets the expiry",
        9,
        lua={
            "incr": (
                (
                    "string.sub(entry.raw, 1, entry.payload_at - 1) .. exact(value), 'KEEPTTL')",
                    "patched(string.sub(entry.raw, 1, entry.payload_at - 1) .. exact(value), entry.stamp,"
                    " now_ms + soft_ms, span_ms), 'PX', exact(soft_ms + span_ms))",
                ),
            )
        },
        workload=_EXTRAS,
    ),
    Mutation("an increment makes it last", 9, lua={"incr": ((", 'KEEPTTL')", ")"),)}, workload=_EXTRAS),
    Mutation(
        "an increment revives the dead",
        9,
        lua={
            "incr": (
                (
                    "local entry, state, _, fresh = look(least, '', {})",
                    "local entry, state, _, fresh = look(least, '', {})\nfresh = entry and not entry.foreign",
                ),
            )
        },
        workload={"wide": 0.9, "writes": 0.2, **_EXTRAS},
    ),
    Mutation(
        "an increment is sent again",
        9,
        (edit(AsyncWrites, "incr", ("repeat=False", "repeat=True")),),
        focus="breaks",
        workload=_EXTRAS,
        scene=(("breaks", -1.5, {"for_": 1.4, "share": 0.1}),),
    ),
    Mutation(
        "late increments are executed",
        11,
        lua={"incr": (("if untimely(not_before_us, not_after_us) then", "if false then"),)},
        workload=_EXTRAS,
        scene=(("freeze_node", -0.9, {"node": "m", "for_": 0.8}),),
    ),
    Mutation(
        "counters are read anywhere",
        9,
        (edit(AsyncReads, "judge", (" or envelope.counter:", ":")),),
        workload=_EXTRAS,
        scene=_lags(-1.5, 0.3, 1.4),
    ),
    Mutation(
        "add wins over a live entry",
        9,
        lua={"set": (("if mode == 'add' and fresh then", "if false then"),)},
        workload=_EXTRAS,
    ),
    Mutation(
        "add is refused by a dead entry",
        9,
        lua={"set": (("if mode == 'add' and fresh then", "if mode == 'add' and entry then"),)},
        workload={"wide": 0.9, "writes": 0.2, **_EXTRAS},
    ),
    Mutation(
        "since is not looked at",
        0,
        lua={"set": (("if mode == 'since' then", "if false then"),)},
        workload={"pace": 0.02, **_EXTRAS},
    ),
    Mutation(
        "since looks at marks only",
        0,
        lua={"set": ((" or not untouched(state) then", " then"),)},
        workload={"pace": 0.02, **_EXTRAS},
    ),
    Mutation(
        "readers ignore the expiry",
        19,
        (
            edit(
                AsyncReads,
                "judge",
                ("envelope.hard_ms <= server_ms or ", ""),
                ("return Found(envelope, source, left <= 0, left)", "return Found(envelope, source, False, 1.0)"),
            ),
        ),
        settings={"default_ttl": 0.3},
        workload={"near": 0.0, "writes": 0.03, **_EXTRAS},
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
        lua={"sweep": ((" or (entry.stamp >= least and now_ms < entry.hard)", ""),)},
        workload=_EXTRAS,
    ),
    Mutation(
        "late requests for a lease are granted",
        11,
        lua={
            "lease": (
                ("local late = take and (not_after_us or 0) > 0 and now_us > not_after_us", "local late = false"),
            )
        },
        scene=(("freeze_node", -0.9, {"node": "m", "for_": 0.8}),),
    ),
    Mutation(
        "the child leaves to its parent what is pending",
        4,
        (edit(State, "after_fork", ("item.due, item.given = now, self.journal.sequence", "pass")),),
        settings=_CALM,
        workload=_BUSY,
        scene=(
            ("wall", -0.8, {"process": 0, "server": "m", "way": "both", "for_": 0.5}),
            ("fork_process", -0.6, {"process": 0, "parent_ends": False}),
        ),
    ),
    Mutation(
        "leases of former masters count",
        13,
        lua={"lease": ((" and granted_here(granted, generation)", ""),)},
        focus="failover",
        settings=_CALM,
        workload=_BUSY,
    ),
    Mutation(
        "a clock that was set back lets late writes in",
        11,
        lua={"*": ((" or now_us < not_before_us", ""),)},
        settings=_CALM,
        workload={"sets": 0.5, "extras": True},
        scene=(
            ("wall", -1.0, {"process": 0, "server": "m", "way": "both", "for_": 0.7}),
            ("clock_step", -0.9, {"node": 0, "seconds": -5.0}),
        ),
    ),
]

MUTATIONS: dict[str, Mutation] = {m.name.replace(" ", "-"): m for m in _LIST}


def hunt(mutation: Mutation, first: int, most: int) -> tuple[int, Result | None]:
    """Run schedules from a seed on until one of them shows the mutation; how many that took.

    AssertionError if that schedule fails without the mutation as well: then it has shown something else.
    """
    found: Result | None = None
    with mutation.applied() as lua:
        for tried in range(1, most + 1):
            found = run(mutation.plan(first + tried - 1), lua=lua)
            if found.violations:
                break
        else:
            return most, None
    clean = run(mutation.plan(found.seed))
    assert not clean.violations, f"seed {found.seed} fails without the mutation: {clean.violations[0]}"
    return tried, found
