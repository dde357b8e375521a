"""Which parts of the world a schedule has: what is used, what goes wrong, and which bounds are small.

As in swarm testing (Groce et al., "Swarm Testing", ISSTA 2012) each schedule leaves some parts out at random,
since what is always there hides what shows only without it. Any two parts must meet: pairs that drawing alone
seldom gives are put into one schedule in turn, by its seed. All of it is decided by the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from typing import Any

from tests.sim import troubles
from tests.sim.callers import CALLS
from tests.sim.changers import SCOPES
from tests.sim.plan import (
    HOLDS,
    KINDS,
    NODES,
    PROCESSES,
    SENTINELS,
    Fault,
    Plan,
    arguments_of,
    make_plan,
    with_callers,
    with_faults,
)
from tests.sim.servers import KINDS_OF_SERVERS

__all__ = ["ALL_KINDS", "EXCLUDED", "NAMES", "Pairs", "draw", "parts_of", "with_parts"]

#: Every kind of fault.
ALL_KINDS = (*KINDS, *troubles.TROUBLES)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that a schedule has, or has not: `where` in the plan, and what stands there if it has it."""

    name: str
    where: str
    values: tuple[Any, ...]
    #: What stands there if it has not.
    usual: Any
    #: How often it is drawn; 0: the plan draws it already.
    share: float = 0.0

    def there(self, plan: Plan) -> bool:
        """Whether a schedule has it."""
        found = getattr(plan, self.where).get(self.name, self.usual)
        return bool(found != self.usual)

    def put(self, plan: Plan, value: Any) -> Plan:
        """The plan with it, or without."""
        changed: dict[str, Any] = {self.where: {**getattr(plan, self.where), self.name: value}}
        return replace(plan, **changed)


_WORK, _LIMITS, _SETTINGS, _SERVERS = "workload", "limits", "settings", "servers"
_ONCE = (True,)
PARTS = {
    part.name: part
    for part in (
        *(Part(name, _WORK, _ONCE, False, 0.12) for name in CALLS),
        Part("scopes", _WORK, (SCOPES,), 1, 0.15),
        Part("extras", _WORK, _ONCE, False),
        Part("changes", _WORK, (0.5, 1.0), 0.0),
        Part("threads", _WORK, (tuple(range(PROCESSES)),), ()),
        Part("near", _WORK, (0.1, 0.5, 3.0), 0.0),
        Part("stale", _WORK, (0.5,), 0.0),
        Part("stale_if_error", _WORK, (2.0,), 0.0),
        Part("slow_compute", _WORK, _ONCE, False),
        Part("same_key", _WORK, _ONCE, False),
        Part("cancels", _WORK, (0.03,), 0.0),
        Part("raises", _WORK, (0.05,), 0.0),
        Part("budget", _WORK, (1.0, 3.0), None),
        Part("short", _WORK, (0.3,), 0.0),
        Part("other_db", _WORK, _ONCE, False),
        Part("consistency", _SETTINGS, ("strict",), "available"),
        Part("gutter", _SETTINGS, (0.3, 1.0), 0.0),
        Part("bookkeeping_db", _SETTINGS, (1,), None),
        Part("near_bytes", _SETTINGS, (800,), 16 << 20, 0.15),
        Part("max_marks", _LIMITS, (3,), 1000),
        Part("log_lines", _LIMITS, (6, 20), 1000),
        Part("count", _LIMITS, (3,), 500),
        Part("marks", _LIMITS, (3,), 1000),
        Part("journal", _LIMITS, (5,), 1000),
        Part("pending", _LIMITS, (3,), 1000),
        Part("page", _LIMITS, (2,), 1000, 0.2),
        Part("holds", _LIMITS, (13,), 10_000, 0.1),
        Part("nodes", _SERVERS, (2, 4), NODES, 0.15),
        Part("sentinels", _SERVERS, (1, 5), 3, 0.15),
        Part("kind", _SERVERS, KINDS_OF_SERVERS, "sentinel", 0.1),
    )
}
#: All that a schedule can have.
NAMES = (*PARTS, *ALL_KINDS)
_SHARES = {"full": 0.1, "refuse": 0.1, "spoil": 0.1, "night": 0.08, "close_process": 0.1, "interrupt": 0.12}
#: How often a part that the plan drew is left out.
_LEFT_OUT = 0.25
#: Faults that need a replica, those that mean another life of the master's data, and those that need sentinels.
_OF_REPLICAS = ("failover", "lag", "link_cut", "replica_restart")
_LIVES = ("failover", "restart_master", "flush")
_OF_SENTINELS = ("sentinel_down", "sentinel_wall")
#: Seconds after which a process that has no sentinel has asked again, and follows the primary.
_ASKED_AGAIN = 2.0
#: What cannot meet: sentinels where there are none; and the oracle cannot say what is lost where the bookkeeping is
#: evicted and its master is lost as well.
EXCLUDED = frozenset(
    frozenset(pair)
    for pair in (*(("kind", of) for of in ("sentinels", *_OF_SENTINELS)), *(("evict", kind) for kind in _LIVES))
)
#: A pair that drawing alone gives less often, in so many schedules, has its turn.
_SAMPLE, _SELDOM = 600, 4


def draw(seed: int, callers: str | None = None) -> Plan:
    """The schedule of a seed; `callers` as in `make_plan`.

    Every fourth has two pairs of parts that would seldom meet: those schedules that have preemptions anyway, and so
    are run twice."""
    if seed % 4 != 3:
        return with_callers(_drawn(seed, ()), callers)
    pairs, turn = _seldom(), seed // 4
    one: tuple[str, ...]
    other: tuple[str, ...]
    one, other = (pairs[(turn + begin) % len(pairs)] for begin in (0, len(pairs) // 2))
    if any(frozenset(pair) in EXCLUDED for pair in product(one, other)):
        other = ()
    return with_callers(_drawn(seed, (*one, *other)), callers)


def parts_of(plan: Plan) -> set[str]:
    """What a schedule has."""
    return {part.name for part in PARTS.values() if part.there(plan)} | {fault.kind for fault in plan.faults}


def with_parts(plan: Plan, names: Iterable[str], why: str = "") -> Plan:
    """The plan with some parts more, each drawn by itself."""
    for name in sorted(names, key="night".__eq__):  # it moves the faults that are there
        r = random.Random(f"{name} {why} {plan.seed}")
        if name in PARTS:
            part = PARTS[name]
            if not part.there(plan):
                plan = part.put(plan, r.choice(_fitting(plan, part)))
        elif name not in {fault.kind for fault in plan.faults}:
            plan = _with_fault(plan, name, r)
    return _consistent(plan)


def _fitting(plan: Plan, part: Part) -> tuple[Any, ...]:
    if part.name != "kind" or not any(fault.kind in _OF_REPLICAS for fault in plan.faults):
        return part.values
    return ("fixed",)  # there are replicas


def _drawn(seed: int, pair: tuple[str, ...]) -> Plan:
    r = random.Random(f"swarm {seed}")
    plan = make_plan(seed)
    for part in PARTS.values():
        if not part.share and part.there(plan) and r.random() < _LEFT_OUT:
            plan = part.put(plan, part.usual)
    kinds = sorted({fault.kind for fault in plan.faults} - set(HOLDS))
    gone = {kind for kind in kinds if r.random() < _LEFT_OUT}
    plan = plan.without([fault.number for fault in plan.faults if fault.kind in gone])
    shares = {**{part.name: part.share for part in PARTS.values()}, **_SHARES}
    calm = 0.5 if plan.holds else 1.0
    more = [name for name, share in shares.items() if share and r.random() < share * calm]
    excluded = {other for name in pair for other in NAMES if frozenset((name, other)) in EXCLUDED}
    plan = plan.without([fault.number for fault in plan.faults if fault.kind in excluded])
    names = [*pair, *(name for name in more if name not in excluded)]
    return with_parts(plan, names)


def _with_fault(plan: Plan, kind: str, r: random.Random) -> Plan:
    """The plan with one more fault, and as much more time as it needs."""
    number = 200 + len(plan.faults)
    if kind == "night":
        return _with_night(plan, number, r)
    at = r.uniform(0.4, plan.length - 0.1)
    if kind in HOLDS:
        spells = [0.004, 0.02, 0.1, 0.3, plan.settings["max_staleness"], 1.1]
        args: dict[str, Any] = {"which": r.random(), "nth": r.random(), "for_": r.choice(spells)}
        held = Fault(number, kind, 0.0, args)
        needed = args["for_"]
        return replace(
            plan,
            faults=(*plan.faults, held),
            calm=max(plan.calm, 1.2 + needed),
            quiet=max(plan.quiet, 1.9 + needed),
        )
    if kind in troubles.TROUBLES:
        args = troubles.drawn(kind, r, PROCESSES, NODES)
    elif kind == "suspend":
        args = {"process": r.randrange(PROCESSES), "for_": r.uniform(0.1, 2.0)}
    elif kind == "sentinel_wall":
        args = {"process": r.randrange(PROCESSES), "sentinel": r.randrange(SENTINELS), "for_": r.uniform(0.5, 3.0)}
    elif kind == "block_loop":
        args = {"process": r.randrange(PROCESSES), "for_": r.uniform(0.05, 2.8), "when": r.choice(["now", "read"])}
    else:
        args = arguments_of(kind, r)
    plan = with_faults(plan, [Fault(number, kind, at, args)])
    if kind in ("failover", "restart_master", "flush", "evict"):
        late = at - plan.length
        plan = replace(plan, calm=max(plan.calm, late + 1.5), quiet=max(plan.quiet, late + 3.4))
    return plan


def _with_night(plan: Plan, number: int, r: random.Random) -> Plan:
    """Everything after a moment is hours later. Some entries live for so long, and some do not."""
    args = troubles.drawn("night", r, PROCESSES, NODES)
    at, hours = r.uniform(0.5, plan.length - 0.3), args["for_"]
    max_ttl = r.choice([1800.0, 30 * 86_400.0])
    settings = {
        **plan.settings,
        "max_ttl": max_ttl,
        "default_ttl": r.choice([min(max_ttl, 10_000.0), plan.settings["default_ttl"]]),
    }
    faults = tuple(f if f.at < at else replace(f, at=f.at + hours + 0.1) for f in plan.faults)
    return replace(
        plan,
        settings=settings,
        length=plan.length + hours + 0.1,
        faults=(*faults, Fault(number, "night", at, args)),
        calm=max(plan.calm, 1.5),
        quiet=max(plan.quiet, 3.4),
    )


def _consistent(plan: Plan) -> Plan:
    """Without what cannot be: replicas of a server that has none, a handler of a signal in a thread. With time for
    a process that is born while the only sentinel is silent."""
    interrupted = {fault.args["process"] for fault in plan.faults if fault.kind == "interrupt"}
    threads = tuple(slot for slot in plan.workload["threads"] if slot not in interrupted)
    plan = replace(plan, workload={**plan.workload, "threads": threads})
    if plan.servers.get("kind") == "standalone":
        plan = replace(plan, servers={**plan.servers, "nodes": 1})
        gone = [f.number for f in plan.faults if f.kind in (*_OF_REPLICAS, *_OF_SENTINELS)]
        plan = plan.without(gone)
    if plan.servers.get("kind") == "fixed":
        plan = plan.without([f.number for f in plan.faults if f.kind in _OF_SENTINELS])
    if plan.servers.get("sentinels") == 1:
        silent = [fault.at + fault.args["for_"] for fault in plan.faults if fault.kind in _OF_SENTINELS]
        plan = replace(plan, quiet=max([plan.quiet, *(end + _ASKED_AGAIN - plan.length for end in silent)]))
    return plan


class Pairs:
    """How many schedules had which two parts."""

    def __init__(self, seen: Counter[tuple[str, str]] | None = None) -> None:
        self.seen = seen if seen is not None else Counter()

    def __repr__(self) -> str:
        return f"<Pairs seen={len(self.seen)}>"

    def add(self, parts: Iterable[str]) -> None:
        """One more schedule."""
        self.seen.update(combinations(sorted(parts), 2))

    def rarest(self, most: int = 10) -> list[tuple[tuple[str, str], int]]:
        """The pairs that the fewest schedules had."""
        found = [(pair, self.seen[pair]) for pair in _possible()]
        return sorted(found, key=lambda item: (item[1], item[0]))[:most]

    def table(self) -> str:
        """For people."""
        rarest = self.rarest()
        shown = ", ".join(f"{a} + {b} {n:,}" for (a, b), n in rarest)
        return (
            f"{len(_possible()):,} pairs of parts, each in {rarest[0][1]:,} schedules at least; the rarest: {shown}"
        )


def _possible() -> list[tuple[str, str]]:
    return [pair for pair in combinations(sorted(NAMES), 2) if frozenset(pair) not in EXCLUDED]


@lru_cache
def _seldom() -> tuple[tuple[str, str], ...]:
    """The pairs that drawing alone seldom gives, rarest first, in an order that is always the same."""
    pairs = Pairs()
    for seed in range(_SAMPLE):
        pairs.add(parts_of(_drawn(seed, ())))
    seldom = [pair for pair in _possible() if pairs.seen[pair] < _SELDOM]
    random.Random("pairs").shuffle(seldom)
    return tuple(seldom)
