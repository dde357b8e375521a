"""What happens in a schedule: faults and settings, drawn from one seed and independent of everything else.

Every fault carries all that was drawn for it, so that one can be left out and the rest stays as it was.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["HOLDS", "KINDS", "Fault", "Plan", "arguments_of", "make_plan", "with_callers", "with_faults"]

PROCESSES = 3
NODES = 3
SENTINELS = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `kind` names the method of `tests.sim.faults` that brings it about."""

    number: int
    kind: str
    at: float
    args: dict[str, Any]

    def __str__(self) -> str:
        shown = " ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in self.args.items())
        return f"#{self.number} t={self.at:.3f} {self.kind} {shown}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule. Times are in seconds."""

    seed: int
    #: Faults and writes end about here; then everything must settle: it is judged when it has, `calm` seconds later
    #: at the earliest and `quiet` at the latest.
    length: float
    calm: float
    quiet: float
    settings: dict[str, Any]
    #: max_marks and log_lines on the server; marks, journal and pending in the process.
    limits: dict[str, int]
    workload: dict[str, Any]
    faults: tuple[Fault, ...] = field(repr=False)
    #: How the servers are arranged where it is not as usual: `kind`, `nodes`, `sentinels`; see `swarm`.
    servers: dict[str, Any] = field(default_factory=dict)

    def without(self, numbers: Collection[int]) -> Plan:
        """The same with some faults left out."""
        kept = tuple(f for f in self.faults if f.number not in numbers)
        return replace(self, faults=kept)

    def plus(self, scene: Sequence[tuple[str, float, dict[str, Any]]]) -> Plan:
        """The same with some more faults, at times counted from the end of the writes."""
        first = 100
        more = tuple(
            Fault(first + i, kind, max(0.2, self.length + at), args) for i, (kind, at, args) in enumerate(scene)
        )
        quiet = max(self.quiet, 3.6)
        return replace(self, faults=self.faults + more, calm=quiet, quiet=quiet)

    @property
    def holds(self) -> tuple[Fault, ...]:
        """The preemptions in it."""
        return tuple(f for f in self.faults if f.kind in HOLDS)

    def only(self, numbers: Collection[int]) -> Plan:
        """The same with some faults only."""
        return self.without([f.number for f in self.faults if f.number not in numbers])


#: Kinds that mean another master or another life of its data, and those that do not.
MASTER_KINDS = ("failover", "restart_master", "flush", "evict")
#: What is kept in the store beside the entries.
BOOKKEEPING = ["state", "marks", "log", "ids"]
#: Kinds that are drawn apart from the others.
_APART = ("block_loop", "suspend", "sentinel_wall")
#: Kinds that hold one step back at a chosen point: a message, a step of a task, its whole process, or the server
#: that is about to run a script.
HOLDS = ("hold_message", "hold_task", "hold_process", "hold_script")
KINDS = (
    *MASTER_KINDS,
    "lag", "link_cut", "wall", "tail_stall", "slow", "breaks", "freeze_node", "stop_process", "kill_process",
    "fork_process", "replica_restart", "clock_step", "sentinel_down", "script_flush", "burst", "block_loop",
    "suspend", "sentinel_wall", *HOLDS,
)  # fmt: skip


def make_plan(seed: int, focus: str | None = None, callers: str | None = None) -> Plan:
    """The schedule of a seed; `focus`: a kind of fault that it certainly has.

    `callers`: "threads" or "tasks" in every process; None: as drawn. Every fourth seed is a calm schedule with few
    preemptions.
    """
    return with_callers(_made(seed, focus), callers)


def with_callers(plan: Plan, callers: str | None) -> Plan:
    """The plan with "threads" or "tasks" in every process; None: as drawn."""
    if callers == "tasks":
        return replace(plan, workload={**plan.workload, "threads": ()})
    if callers == "threads" and not plan.workload["threads"]:
        return replace(plan, workload={**plan.workload, "threads": tuple(range(PROCESSES))})
    return plan


def _made(seed: int, focus: str | None) -> Plan:
    if focus in HOLDS or (focus is None and seed % 4 == 3):
        plan = _few_preemptions(_drawn(seed, None), focus)
    else:
        plan = _drawn(seed, None if focus in _APART else focus)
    plan = _with_mistaken_sentinels(plan, focus)
    return _with_naps(_with_suspended_machines(_with_blocked_loops(plan, focus), focus))


def _with_mistaken_sentinels(plan: Plan, focus: str | None) -> Plan:
    """In a fifth of the schedules a process does not reach one of the sentinels; a failover that would have been
    planned comes then, at times, of a mistake of theirs: the old master goes on with its replicas."""
    r = random.Random(f"mistaken {plan.seed}")
    if r.random() > 0.2 and focus != "sentinel_wall":
        return plan
    wall = {"process": r.randrange(PROCESSES), "sentinel": r.randrange(SENTINELS), "for_": r.uniform(0.5, 3.0)}
    faults = [
        replace(f, args={**f.args, "mode": "mistaken"}) if f.args.get("mode") == "planned" else f
        for f in plan.faults
    ]
    at = r.uniform(0.2, plan.length)
    return replace(plan, faults=(*faults, Fault(95, "sentinel_wall", at, wall)))


def _with_naps(plan: Plan) -> Plan:
    """In a fifth of the schedules nobody uses one or two processes for a while: (slot, from, until)."""
    r = random.Random(f"naps {plan.seed}")
    if r.random() > 0.2:
        return plan
    staleness = min(plan.settings["max_staleness"], 0.4)
    naps = tuple(
        (slot, at, at + 2 * staleness + r.uniform(0.2, 1.0))
        for slot in r.sample(range(PROCESSES), r.choice([1, 2]))
        for at in (r.uniform(0.1, 0.5),)
    )
    settings = {**plan.settings, "max_staleness": staleness}
    return replace(plan, settings=settings, workload={**plan.workload, "naps": naps})


def _with_suspended_machines(plan: Plan, focus: str | None) -> Plan:
    """In every fourth schedule a process stands still with its machine."""
    r = random.Random(f"suspends {plan.seed}")
    if r.random() > 0.25 and focus != "suspend":
        return plan
    sleeps = tuple(
        Fault(
            90 + i,
            "suspend",
            r.uniform(0.3, plan.length),
            {"process": r.randrange(PROCESSES), "for_": r.choice([r.uniform(0.1, 0.6), r.uniform(0.5, 3.0)])},
        )
        for i in range(r.choice([1, 1, 2]))
    )
    return with_faults(plan, sleeps)


def with_faults(plan: Plan, faults: Sequence[Fault]) -> Plan:
    """The plan with some more faults, and with as much more time after them."""
    over = max(fault.at + _lasts(fault.args) for fault in faults) - plan.length
    return replace(
        plan,
        faults=plan.faults + tuple(faults),
        calm=max(plan.calm, over + 0.6),
        quiet=max(plan.quiet, over + 1.2),
    )


def _with_blocked_loops(plan: Plan, focus: str | None) -> Plan:
    """In every third schedule the event loop of an application stands still, while its background goes on, for so
    long that key marks are forgotten meanwhile; and some functions are more patient than that."""
    r = random.Random(f"blocks {plan.seed}")
    if r.random() > 0.35 and focus != "block_loop":
        return plan
    settings = {
        **plan.settings,
        "lag_bound": r.choice([0.6, plan.settings["lag_bound"]]),
        "default_ttl": r.choice([60.0, plan.settings["default_ttl"]]),
    }
    workload = {
        **plan.workload,
        "budget": r.choice([None, 1.0, 3.0]),
        "near": r.choice([0.0, plan.workload["near"]]),
    }
    blocks: list[Fault] = []
    for _ in range(r.choice([1, 1, 2, 3])):
        at, number = r.uniform(0.3, plan.length), 70 + len(blocks)
        args: dict[str, Any] = {
            "process": r.randrange(PROCESSES),
            "for_": r.choice([r.uniform(0.05, 0.6), r.uniform(1.0, 3.0), r.uniform(2.2, 3.0)]),
            "when": r.choice(["now", "read", "stale", "stale"]),
        }
        blocks.append(Fault(number, "block_loop", at, args))
        # Replicas that lag, but may be read, give the loop something old to wait for.
        lag = {"for_": r.uniform(0.5, 1.2), "seconds": settings["lag_bound"] * r.uniform(0.3, 0.9)}
        if r.random() < 0.7:
            blocks += [
                Fault(number + 1 + node, "lag", max(0.0, at - 0.2), {"node": node, **lag}) for node in range(NODES)
            ]
    return with_faults(replace(plan, settings=settings, workload=workload), blocks)


def _few_preemptions(plan: Plan, focus: str | None) -> Plan:
    """A plan with at most one of its faults, and a few steps held back."""
    r = random.Random(f"preemption {plan.seed}")
    kept = {r.choice(plan.faults).number} if plan.faults and r.random() < 0.5 else set()
    plan = plan.only(kept)
    kinds = [focus or r.choice(HOLDS)] + [r.choice(HOLDS) for _ in range(r.choice([0, 1, 1, 2]))]
    spells = [0.004, 0.02, 0.1, 0.3, plan.settings["max_staleness"], 1.1, 1.6]
    holds = tuple(
        Fault(
            50 + i,
            kind,
            0.0,
            {"which": r.random(), "nth": r.random(), "for_": r.choice(spells) * r.uniform(0.9, 1.3)},
        )
        for i, kind in enumerate(kinds)
    )
    held = max(f.args["for_"] for f in holds)
    return replace(
        plan, faults=plan.faults + holds, calm=max(plan.calm, 1.2 + held), quiet=max(plan.quiet, 1.9 + held)
    )


def _drawn(seed: int, focus: str | None) -> Plan:
    r = random.Random(f"plan {seed}")
    length = r.choice([1.5, 1.9, 2.4])
    settings = {
        "max_staleness": r.choice([0.25, 0.4, 0.8]),
        "lag_bound": r.choice([0.7, 0.8, 1.5]),
        "gutter": r.choice([0.0, 0.3, 1.0]),
        "default_ttl": r.choice([0.3, 5.0, 60.0]),
        "beta": r.choice([0.0, 1.0, 3.0]),
        "consistency": r.choice(["available"] * 4 + ["strict"]),
        "bookkeeping_db": r.choice([None, None, 1]),
    }
    limits = {
        "max_marks": r.choice([3, 1000, 1000]),
        "log_lines": r.choice([6, 20, 1000, 1000]),
        "count": r.choice([3, 500]),
        "marks": r.choice([3, 1000, 1000]),
        "journal": r.choice([5, 1000, 1000, 1000]),
        "pending": r.choice([3, 1000, 1000]),
    }
    workload = {
        "near": r.choice([0.0, 0.1, 0.5, 3.0]),
        "stale": r.choice([0.0, 0.0, 0.5]),
        "stale_if_error": r.choice([0.0, 0.0, 2.0]),
        "pace": r.choice([0.05, 0.1, 0.2]),
        "writes": r.choice([0.03, 0.08, 0.2]),
        "slow_compute": r.random() < 0.35,
        "sets": r.choice([0.03, 0.03, 0.3]),
        "cancels": r.choice([0.0, 0.03]),
        "raises": r.choice([0.0, 0.0, 0.05]),
        "wide": r.choice([0.1, 0.3]),
        "same_key": r.random() < 0.3,
        "extras": random.Random(f"extras {seed}").random() < 0.5,
        "changes": random.Random(f"changes {seed}").choice([0.0, 0.0, 0.5, 1.0]),
        "changed": "fg",
        "changed_by": "kft",
        "at_most": (0.1, 0.5, 30.0),
        "naps": (),
        "budget": None,
        "dies": random.Random(f"dies {seed}").choice([0.0, 0.1]),
        # One process has a shorter `max_ttl` (seconds; 0: as the others), and one another `bookkeeping_db`.
        "short": random.Random(f"short {seed}").choice([0.0, 0.0, 0.3]),
        "other_db": random.Random(f"other db {seed}").random() < 0.3,
        **_threads(random.Random(f"threads {seed}")),
    }
    chosen: list[tuple[str, float]] = []

    def some(kind: str, chance: float, most: int = 1, *, early: float = 0.2, late: float = 0.0) -> None:
        for _ in range(most):
            if r.random() < chance:
                chosen.append((kind, r.uniform(early, length - late)))

    some("lag", 0.6, 4, early=0.0)
    some("link_cut", 0.3, 2)
    some("wall", 0.35, 3)
    some("tail_stall", 0.2, 4)
    some("slow", 0.25, 2)
    some("breaks", 0.2)
    some("freeze_node", 0.25, 2)
    some("stop_process", 0.25, 2)
    some("kill_process", 0.25, 2)
    some("fork_process", 0.2)
    some("replica_restart", 0.25)
    some("clock_step", 0.25)
    some("sentinel_down", 0.2)
    some("script_flush", 0.1)
    some("burst", 0.2, 2)
    master = r.choice(["none", "none", "failover", "failover", "failover", "restart_master", "flush", "double"])
    if master == "double":
        at = r.uniform(0.5, length - 0.5)
        chosen += [("failover", at), ("failover", at + r.uniform(0.4, 1.5))]
    elif master != "none":
        chosen.append((master, r.uniform(0.5, length + 0.2)))
    evicted = random.Random(f"evict {seed}")
    if (master == "none" and evicted.random() < 0.4) or focus == "evict":
        chosen.append(("evict", evicted.uniform(0.5, length)))
    if focus is not None and focus not in [kind for kind, _ in chosen]:
        chosen.append((focus, r.uniform(0.5, length)))
    arguments = [(kind, at, arguments_of(kind, evicted if kind == "evict" else r)) for kind, at in chosen]
    for kind, at in chosen:
        if kind == "failover" and r.random() < 0.5:
            # The replicas are behind when it comes: what was acknowledged last is lost.
            seconds = r.uniform(0.1, 0.7)
            arguments += [
                ("lag", at - 0.7, {"node": n, "for_": 0.8, "seconds": seconds * r.uniform(0.8, 1.0)})
                for n in range(NODES)
            ]
    arguments.sort(key=lambda item: item[1])
    faults = [Fault(i, kind, max(at, 0.0), args) for i, (kind, at, args) in enumerate(arguments)]
    # How long after the writes everything is judged: a master may be replaced last thing, and a replica that can be
    # reached again is in use a second later.
    last = max([fault.at for fault in faults if fault.kind in MASTER_KINDS], default=0.0) - length
    over = max([fault.at + _lasts(fault.args) for fault in faults], default=0.0) - length
    calm, quiet = max(1.2, last + 1.5, over + 0.6), max(1.9, last + 3.4, over + 1.2)
    return Plan(seed, length, calm, quiet, settings, limits, workload, tuple(faults))


def _threads(r: random.Random) -> dict[str, Any]:
    """Which processes have threads in the place of tasks or (`both`) of half of them; how often others run at a
    point of theirs, and before a line of theirs; how many connections to a server each process has."""
    everybody = tuple(range(PROCESSES))
    some = r.choice([everybody, everybody, everybody, tuple(r.sample(everybody, r.randint(1, 2)))])
    return {
        "threads": some if r.random() < 0.6 else (),  # some schedules leave them out again (`swarm.py`)
        "switches": r.choice([0.02, 0.1, 0.1, 0.3]),
        "pool": r.choice([1, 2, 50, 50]),
        "lines": r.choice([0.0] * 10 + [0.002, 0.02]),
        "both": r.random() < 0.3,
    }


def _lasts(args: dict[str, Any]) -> float:
    spells = (args.get(name, 0.0) for name in ("for_", "down", "sync"))
    return sum(spell for spell in spells if isinstance(spell, float))


def _spell(r: random.Random) -> float:
    return r.choice([r.uniform(0.02, 0.3), r.uniform(0.2, 1.5)])


def arguments_of(kind: str, r: random.Random) -> dict[str, Any]:
    match kind:
        case "evict":
            return {"keys": r.choice([BOOKKEEPING, r.sample(BOOKKEEPING, r.randint(1, len(BOOKKEEPING)))])}
        case "lag":
            return {
                "node": r.randrange(NODES),
                "for_": _spell(r),
                "seconds": r.choice([0.03, 0.15, 0.5, 0.75, 1.4, 3.0]),
            }
        case "link_cut":
            return {"node": r.randrange(NODES), "for_": _spell(r), "seen": r.random() < 0.5}
        case "wall":
            return {
                "process": r.randrange(PROCESSES),
                "server": r.choice([None, "m", "s", 0, 1, 2]),
                "way": r.choice(["both", "both", "out", "in"]),
                "for_": _spell(r),
            }
        case "tail_stall":
            return {"process": r.randrange(PROCESSES), "for_": r.uniform(0.1, 0.6)}
        case "slow":
            return {"process": r.randrange(PROCESSES), "for_": _spell(r), "seconds": r.choice([0.02, 0.1, 0.3])}
        case "breaks":
            return {"for_": _spell(r), "share": r.choice([0.02, 0.1])}
        case "freeze_node":
            return {
                "node": r.choice(["m", 0, 1, 2]),
                "for_": r.choice([r.uniform(0.03, 0.25), r.uniform(0.2, 0.9)]),
            }
        case "stop_process":
            return {"process": r.randrange(PROCESSES), "for_": _spell(r)}
        case "kill_process":
            return {"process": r.randrange(PROCESSES), "after": r.uniform(0.0, 0.5)}
        case "fork_process":
            return {"process": r.randrange(PROCESSES), "parent_ends": r.random() < 0.3}
        case "replica_restart":
            return {
                "node": r.randrange(NODES), "down": r.uniform(0.01, 0.3), "lost": r.choice([0.0, 0.5, 5.0, None]),
                "sync": r.uniform(0.02, 0.6),
            }  # fmt: skip
        case "clock_step":
            return {"node": r.randrange(NODES), "seconds": r.choice([-3600.0, -5.0, -0.3, 0.3, 5.0, 3600.0])}
        case "sentinel_down":
            return {"sentinel": r.randrange(SENTINELS), "for_": _spell(r), "frozen": r.random() < 0.5}
        case "burst":
            return {"process": r.randrange(PROCESSES), "count": r.randrange(6, 40)}
        case "failover":
            late = lambda: r.choice([r.uniform(0.0, 0.05), r.uniform(0.0, 0.3), r.uniform(0.0, 0.8)])  # noqa: E731
            return {
                "mode": r.choice(["crash", "crash", "isolated", "planned", "planned", "frozen"]),
                "detect": r.uniform(0.1, 0.6),
                "best": r.random() < 0.6,
                "pick": r.randrange(NODES),
                "late": [late(), late(), late()],
                "repoint": [r.uniform(0.0, 0.4) for _ in range(NODES)],
                "sync": [r.uniform(0.02, 0.5) for _ in range(NODES)],
                "back": r.uniform(0.2, 1.5),
                "clock": r.choice([0.0, 0.0, 0.0, -0.5, 3600.0, -3600.0]),
            }
        case "restart_master":
            return {
                "down": r.uniform(0.01, 0.3),
                "lost": r.choice([0.0, 0.1, 0.3, 1.0, None]),
                "sync": [r.uniform(0.02, 0.4) for _ in range(NODES)],
            }
        case _:
            return {}
