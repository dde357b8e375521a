"""One schedule: servers, sentinels, processes, faults and the oracle, run to the end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from evercache.engine import tail
from tests.sim.faults import bring_about
from tests.sim.forking import inherit
from tests.sim.loop import SimHandle, SimLoop, Tag
from tests.sim.lua import LuaHost
from tests.sim.network import Network
from tests.sim.node import Node
from tests.sim.oracle import Oracle, Violation
from tests.sim.plan import HOLDS, NODES, PROCESSES, SENTINELS, Fault, Plan
from tests.sim.preemption import Points, chosen, kind_of_point, step_name
from tests.sim.process import Process
from tests.sim.sentinels import Sentinel
from tests.sim.threads import SimThread, Threads
from tests.sim.troubles import no_more_signals, spool_file

__all__ = ["Result", "World", "run"]

#: Seconds of processor time that a schedule may take; it takes a fraction of one. (A busy machine takes longer.)
LONGEST = 30.0

_lua: LuaHost | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a schedule showed."""

    seed: int
    violations: tuple[Violation, ...]
    steps: int
    counts: dict[str, int]
    #: Kind -> how many of them happened.
    faults: Counter[str]
    trace: tuple[str, ...] = field(repr=False, default=())


#: A process that was idle has read the log so soon (seconds) after its first call.
_FIRST_READ = 0.1


class World:
    """Everything of one schedule."""

    budget = 0.25

    def __init__(self, plan: Plan, lua: LuaHost, *, trace: bool = False, points: Points | None = None) -> None:
        self.plan = plan
        self.strict = plan.settings["consistency"] == "strict"
        self.max_staleness = plan.settings["max_staleness"]
        self.loop = SimLoop()
        self._trace: list[str] | None = [] if trace else None
        seed = plan.seed
        self.network = Network(self.loop, random.Random(f"network {seed}"))
        self.oracle = Oracle(self)
        self.network.shares = self.oracle.judges.shares
        server_rng = random.Random(f"servers {seed}")
        count = plan.servers.get("nodes", NODES)
        self.nodes = [Node(i, self.loop, lua, server_rng, self.oracle.script) for i in range(count)]
        self.master, self.epoch = self.nodes[0], 1
        self.failing_over = False
        #: Whether the old master lives on beside the new one, which it does not reach.
        self.two_masters = False
        #: Epoch -> since when a sentinel names it.
        self.told: dict[int, float] = {}
        for node in self.nodes:
            node.followers = lambda n=node: [x for x in self.nodes if x.alive and x.source is n]  # type: ignore[misc]
            node.took = self.oracle.judges.took
            if node is not self.master:
                node.role, node.replid = "slave", self.master.replid
                node.source, node.linked = self.master, True
            self.network.servers[node.address] = node
        addresses = [n.address for n in self.nodes]
        #: How processes find their master: "sentinel", "fixed" or "standalone".
        self.kind = plan.servers.get("kind", "sentinel")
        count = plan.servers.get("sentinels", SENTINELS) if self.kind == "sentinel" else 0
        self.sentinels = [Sentinel(i, self.loop, server_rng, addresses, "shop") for i in range(count)]
        for sentinel in self.sentinels:
            sentinel.others = [s for s in self.sentinels if s is not sentinel]
            self.network.servers[sentinel.address] = sentinel
        #: The file of `spool=` that all processes share, where they have one; and the invalidations in it.
        self.spool = spool_file(plan)
        self.spooled: set[str] = set()
        #: Until when nobody does anything.
        self.night_until = 0.0
        self.calls = 0
        self.writing: Process | None = None
        #: Who deletes the key of `add`, and the versions of the adds under way.
        self.releasing: Process | None = None
        self.adding: dict[Any, int] = {}
        self._lives: dict[int, int] = defaultdict(int)
        #: The slots of processes with threads.
        self._threaded = set(plan.workload["threads"])
        self.threads: Threads | None = None
        if plan.workload["threads"]:
            self.threads = Threads(self, plan.workload["switches"], plan.workload["lines"])
        self.processes: list[Any] = [None] * PROCESSES
        self._everyone: list[Process] = []
        #: Kind -> how many faults of it have begun.
        self.happened: Counter[str] = Counter()
        self.points = points
        if points is not None:
            if points.kinds & {"message", "script"}:
                self.network.points, self.network.held = points, self._held
            if "task" in points.kinds:
                self.loop.preempt = self._preempt
                if self.threads is not None:
                    self.threads.preempt = self._preempt_thread

    def __repr__(self) -> str:
        return f"<World seed={self.plan.seed} t={self.now:.3f}>"

    @property
    def now(self) -> float:
        return self.loop.now

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self._trace is not None:
            self._trace.append(f"{self.now:9.4f} {text}")

    def later(self, seconds: float, action: Callable[[], Any]) -> None:
        """Have something happen to the world."""
        self.loop.call_later(seconds, action, context=self.loop.neutral)

    # -- processes

    def be_born(self, slot: int) -> None:
        """A process starts."""
        if self.processes[slot] is not None and self.processes[slot].tag.alive:
            return
        if self.now < self.night_until:
            self.later(self.night_until - self.now, lambda: self.be_born(slot))
            return
        self._lives[slot] += 1
        process = self.processes[slot] = Process(self, slot, self._lives[slot], slot in self._threaded)
        self._everyone.append(process)
        process.start()

    def kill(self, slot: int) -> None:
        """A process dies in the middle of whatever it does."""
        process = self.processes[slot]
        if not process.tag.alive:
            return
        process.tag.end()
        self._gone(process)
        self.oracle.died(process)

    def _gone(self, process: Process) -> None:
        self.oracle.leases.all_ended(process)
        if self.writing is process:
            self.written_later(process)
        if self.releasing is process:
            self.later(self.budget + 0.1, lambda: setattr(self, "releasing", None))

    def written_later(self, process: Process) -> None:
        """Its writer has gone; until its deadline (rule 11) its request may be in flight, and no other writes."""

        def over() -> None:
            if self.writing is process:
                self.writing = None

        self.later(self.budget + 0.1, over)

    def fork(self, slot: int, parent_ends: bool) -> None:
        """A process forks; its parent ends, or both go on, the child in a slot of its own."""
        process = self.processes[slot]
        if not process.tag.alive:
            return
        if parent_ends:
            self._gone(process)
            process.fork()
            return
        number = len(self.processes)
        self._lives[number] += 1  # whoever is born there after it draws other numbers
        if slot in self._threaded:
            self._threaded.add(number)
        child = Process(self, number, self._lives[number], slot in self._threaded)
        inherit(child, process)
        self.oracle.forked(process, child)
        self.processes.append(child)
        self._everyone.append(child)
        child.begin_as_child()

    # -- holding steps back

    def _hold_no_more(self) -> None:
        """The time of the faults is over: no point is looked at any more."""
        assert self.points is not None
        self.points.end()
        self.loop.preempt = self.network.points = None
        if self.threads is not None:
            self.threads.preempt = None

    def _preempt(self, handle: SimHandle, tag: Tag) -> float:
        what = step_name(handle.callback)
        return 0.0 if what is None else self._hold(what, tag)

    def _preempt_thread(self, thread: SimThread, what: str) -> float:
        return self._hold(what, thread.tag)

    def _hold(self, what: str, tag: Tag) -> float:
        assert self.points is not None
        fault = self.points.at("task", what)
        if fault is None:
            return 0.0
        seconds = float(fault.args["for_"])
        if fault.kind == "hold_process":
            tag.stop(self.now + seconds)
        self._held(fault, what, process=tag.name, server=None)
        return seconds

    def _held(self, fault: Fault, what: str, process: str | None, server: Any) -> None:
        """A step is held back: what that excuses."""
        self.note(f"HELD {fault} {what} {process or ''} {'' if server is None else server.address}")
        self.oracle.counts["held"] += 1
        self.happened[fault.kind] += 1
        end = self.now + fault.args["for_"]
        replica = isinstance(server, Node) and server.role != "master"
        if process is None:
            if not replica:
                self.oracle.disturbed(self.now, end)
        elif not replica:
            self.oracle.troubled(process, self.now, end + 0.05)

    # -- servers

    def repoint(self, node: Node, master: Node, sync: float) -> None:
        """A node becomes a replica of the present master."""
        if not node.alive or node is self.master or master is not self.master:
            return
        if not node.follow(master):
            self.copy_later(node, sync)

    def copy_later(self, node: Node, seconds: float) -> None:
        """A full resync: the node loads for a while and then has what the master had at its end."""
        node.source = self.master

        def load() -> None:
            if node.alive and node.role == "slave":
                node.loading = True

        def done() -> None:
            node.loading = False
            source = self.master
            if not node.alive or node.role != "slave" or node is source:
                return
            if not source.alive or node._cut() is not None:
                self.later(0.1, done)
                return
            node.source = source
            node.copy_from(source)

        self.later(seconds * 0.5, load)
        self.later(seconds, done)

    def settled(self) -> bool:
        """Whether every process follows the present master, and has nothing left to tell it."""
        master = self.master
        if not master.alive or any(n.alive and n.role == "master" and n is not master for n in self.nodes):
            return False
        for process in self.processes:
            if not process.tag.alive:
                continue
            state = process.engine.state
            if not state.ready or state.generation != master.replid or state.journal.suspended:
                return False
            if any(item.due is not None for item in state.journal.pending.values()):
                return False
        return True

    # -- running

    def _tick(self) -> None:
        for process in self.processes:
            if process is not None and process.tag.alive:
                epoch = process.engine.view.epoch
                if epoch < process.epoch:
                    self.oracle.bad("epoch", f"{process.name} went back from epoch {process.epoch} to {epoch}")
                process.epoch = epoch
                if process.used_since is None and process.engine._started:
                    process.used_since = self.now
                for told, since in self.told.items():
                    self.oracle.epoch_heard(process, told, since)
        self.oracle.look_at_windows()
        self.later(max(0.02, self.night_until - self.now), self._tick)

    def run(self) -> None:
        """From the beginning to the last check."""
        self._begin()
        plan = self.plan
        soonest, end = plan.length + plan.calm, plan.length + plan.quiet
        step = 0.25
        settled = False
        while self.now < end and not self.oracle.violations and not self.loop.errors and not settled:
            self.loop.run_until(max(self.now + step, min(soonest, self.loop.next_due())))
            self.loop.forget_done()
            settled = self.now >= soonest and not self._unsettled()
        for error in self.loop.errors[:3]:
            failure = error.get("exception")
            text = "".join(traceback.format_exception(failure)) if failure else ""
            self.oracle.bad("defect", f"{error.get('message')} {text}")
        if not self.oracle.violations:
            for promise, text in (*self._unsettled(), *self._over_bounds(), *self.oracle.judges.final()):
                self.oracle.bad(promise, text)
        if not self.oracle.violations:
            self._check_tasks()
            if self.threads is not None:
                self.threads.check()
        self._end()

    def count_points(self) -> None:
        """Up to the end of the writes, without a check: which points there are."""
        self._begin()
        self.loop.run_until(self.plan.length)
        self._end()

    def _end(self) -> None:
        self.oracle.over = True
        self.loop.wind_up()
        no_more_signals()
        if self.spool is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.spool)

    def _begin(self) -> None:
        plan = self.plan
        if self.threads is not None:
            self.threads.begin()
        for slot in range(PROCESSES):
            self.later(0.01 * slot, lambda s=slot: self.be_born(s))  # type: ignore[misc]
        for fault in plan.faults:
            if fault.kind in HOLDS:
                continue
            self.later(fault.at, lambda f=fault: self._bring(f))  # type: ignore[misc]
        self.later(0.0, self._tick)
        if self.points is not None:
            self.later(plan.length, self._hold_no_more)

    def _bring(self, fault: Any) -> None:
        self.note(f"FAULT {fault}")
        self.happened[fault.kind] += 1  # before: what waits at a server may run within it, and is judged
        self.happened[fault.kind] -= not bring_about(self, fault.kind, fault.args)

    def _check_tasks(self) -> None:
        for task in self.loop._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                error = task.exception()
                where = "".join(traceback.format_exception(error))
                self.oracle.bad("P1 exception", where)
                return

    def _unsettled(self) -> list[tuple[str, str]]:
        """What has not come together again after the faults."""
        if not self.settled():
            states = (f"{p.name}: {p.engine.state!r} view={p.engine.view}" for p in self.processes)
            return [("liveness", "; ".join(states))]
        found: list[tuple[str, str]] = []
        replicas = [n.address for n in self.nodes if n.role == "slave" and n.alive]
        for process in self.processes:
            engine, now = process.engine, process.clock()
            state = engine.state
            woken = now - state.awake_since < _FIRST_READ
            if not (state.idle or woken or state.sure(now)):
                found.append(("liveness", f"{process.name} is blind: covers {now - state.covers:.3f} s ago"))
            admitted = {r.address for r in engine.replicas.admitted(state.tau, now, engine.settings.lag_bound)}
            for address in replicas:
                if address not in admitted:
                    found.append(
                        ("P7", f"{process.name} does not use {address}: {engine.replicas!r} tau={state.tau:.3f}")
                    )
            left = [item for item in state.journal.pending if self.oracle.issued_before(item, self.now - 1.0)]
            if left:
                found.append(("liveness", f"{process.name} has not brought {left}, and nobody tries"))
        return found

    def _over_bounds(self) -> list[tuple[str, str]]:
        """What takes more memory than it may: nobody waits for that to end."""
        found: list[tuple[str, str]] = []
        limits = self.plan.limits
        for process in self.processes:
            state = process.engine.state
            marks = state.marks
            if len(marks.tags) > limits["marks"] + 1 or len(marks.functions) > limits["marks"] + 1:
                found.append(("memory", f"{process.name}: {marks!r}"))
            if len(state.journal) > limits["journal"] + 1:
                found.append(("memory", f"{process.name}: {state.journal!r}"))
        data = self.master.data.dbs[self.master.data.book()]
        stream, table = data.get(b"sim~log"), data.get(b"sim~marks")
        if stream is not None and len(stream[0].ids) > limits["log_lines"] + 8:
            found.append(("memory", f"the log has {len(stream[0].ids)} lines"))
        # Every second mark trims here (`SMALL`), and the stamps decide which: so many in a row do not.
        if table is not None and len(table[0]) > limits["max_marks"] + 8:
            found.append(("memory", f"there are {len(table[0])} marks"))
        return found


class StandsStill(BaseException):
    """A step goes on and on: no simulated time passes, and no other task runs."""


@contextlib.contextmanager
def _watched(world: World) -> Iterator[None]:
    """Interrupt a schedule that does not end; what stood still has that as its error, which is a violation."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can it be interrupted
        return

    def interrupt(*_: object) -> None:
        raise StandsStill(f"no end after {LONGEST:.0f} s")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST, LONGEST)
    try:
        yield
    except StandsStill:
        world.oracle.bad("liveness", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run(plan: Plan, *, trace: bool = False, lua: LuaHost | None = None) -> Result:
    """Run one schedule; nothing outside of the arguments decides what it does."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _run(plan, trace, lua)
    finally:
        if collecting:
            gc.collect(0)  # its world is garbage all at once; several of them fit no cache of the processor
            gc.enable()


def _run(plan: Plan, trace: bool, lua: LuaHost | None) -> Result:
    global _lua
    if lua is None:
        _lua = _lua or LuaHost()
        lua = _lua
    kept = random.getstate()
    random.seed(f"module {plan.seed}")
    loggers = [logging.getLogger(name) for name in ("evercache", "evercache.topology")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sizes, tail.COUNT, tail.PAGE = (tail.COUNT, tail.PAGE), plan.limits["count"], plan.limits.get("page", tail.PAGE)
    if "page" in plan.limits:
        lua = lua.small()
    try:
        points = world = None
        if plan.holds:
            kinds = {kind_of_point(hold) for hold in plan.holds}
            calm = World(plan.without([f.number for f in plan.holds]), lua, points=Points(kinds))
            calm.count_points()
            assert calm.points is not None
            points = Points(kinds, chosen(plan.holds, calm.points.seen))
            random.seed(f"module {plan.seed}")
        world = World(plan, lua, trace=trace, points=points)
        with _watched(world):
            world.run()
    finally:
        if world is not None and world.threads is not None:
            world.threads.end()
        tail.COUNT, tail.PAGE = sizes
        random.setstate(kept)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    oracle = world.oracle
    return Result(
        plan.seed,
        tuple(oracle.violations),
        world.loop.steps,
        dict(oracle.counts),
        +world.happened,
        tuple(world._trace or ()),
    )
