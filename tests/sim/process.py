"""One simulated process of an application: the real cache, and tasks that use it."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent
from msgspec.structs import replace

from evercache.cache import Cache
from evercache.clients import Clients
from evercache.engine.deployment import Deployment
from evercache.engine.engine import Engine
from evercache.protocol.freshness import Marks
from evercache.protocol.journal import Journal
from evercache.url import Location
from tests.sim.batches import Batches, Failed
from tests.sim.blocking import AsTasks, Blocking, Both, blocking_function
from tests.sim.callers import MORE_KEYS, Callers, is_covered
from tests.sim.changers import Changer
from tests.sim.extras import Extras
from tests.sim.loop import Tag, tag_of_task
from tests.sim.oracle import Invalidation
from tests.sim.servers import topology_of, url_of
from tests.sim.sockets import BlockingSimWire
from tests.sim.threads import LoopThread, SimThread
from tests.sim.troubles import Interrupted
from tests.sim.watch import invalidation_of_task, source_of_task, token_of_task, watch, watch_parts, watch_spool
from tests.sim.wire import SimWire

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["EXPLICIT", "KEYS", "Process", "covered"]

#: Tasks that use the cache in each process.
VISITORS = 2
#: Entries: four of function f, two of g, one that is set explicitly.
KEYS = ("f0", "f1", "f2", "f3", "g4", "g5", "s")
#: Those that are set explicitly: by one writer at a time, with `add`, with `since`.
EXPLICIT = ("s", "a", "d")


@lru_cache
def covered(scope: str, more: bool = False) -> list[str]:
    """The keys that an invalidation covers: `k:f0`, `f:f`, `t:1`, `u:0` or `*`; with those of `Callers`?"""
    if more:
        return covered(scope) + [k for k in MORE_KEYS if is_covered(k, scope)]
    kind, _, name = scope.partition(":")
    match kind:
        case "k":
            return [name]
        case "f":
            return [k for k in KEYS if k[0] == name]
        case "t":
            return [k for k in KEYS if k != "s" and int(k[1]) % 3 == int(name)]
        case "u":
            return []
        case _:
            return [*KEYS, "a", "d"]


class SimBackground:
    """The background of an engine, as tasks of the simulated loop."""

    running = True

    def __init__(
        self, process: Process, jobs: Callable[[], Sequence[Callable[[], Coroutine[Any, Any, None]]]]
    ) -> None:
        self._process, self._jobs = process, jobs
        self._begun = False

    @property
    def here(self) -> bool:
        """Whether its thread runs; where tasks are simulated it is on one of its own, as it were."""
        return self._process.tag.thread is not None and self._process.tag.thread is getcurrent()

    def ensure(self) -> None:
        if not self._begun:
            self._begun = True
            process = self._process
            for job in self._jobs():
                process.world.loop.create_task(job(), context=process.behind.copy())

    def post(self, callback: Callable[[], None]) -> None:
        process = self._process
        process.world.loop.call_soon(callback, context=process.behind.copy())

    def stop(self, timeout: float) -> None:
        """Processes are killed, not stopped."""


class SimCache(Cache):
    """The cache itself, on an engine that was made for it."""

    engine: Engine

    def _connect(self, location: Location) -> Clients:
        return Clients(self.engine)


class Process:
    """One life of one process.

    `tag` marks everything that belongs to it, `app` what runs on the application's event loop. `context` is that of
    the application, `behind` that of the background.
    """

    def __init__(self, world: World, slot: int, life: int, threaded: bool = False) -> None:
        self.world, self.slot = world, slot
        #: Those of it, where it has threads in the place of tasks.
        self.threads = world.threads if threaded else None
        #: Whether every other one is a task all the same, of one event loop.
        self.both = threaded and world.plan.workload["both"]
        self._spawned = 0
        self.name = f"p{slot}"
        self._tagged()
        self.born = world.now
        self.epoch = 0
        #: When its cache was first used, and so began to ask the sentinels; None: not yet.
        self.used_since: float | None = None
        #: When a write of it was given up last, whoever sent it.
        self.unacknowledged = -1.0
        #: It ends in order (`troubles.close_process`).
        self.closing = False
        #: Its tasks into which a signal handler may raise.
        self.visitors: set[asyncio.Task[Any]] = set()
        #: The owners of its parent's calls at the fork (`forking.py`).
        self.frames: list[Any] = []
        self.rng = random.Random(f"process {world.plan.seed} {slot} {life}")
        self._make()

    def __repr__(self) -> str:
        return f"<Process {self.name} {'alive' if self.tag.alive else 'dead'}>"

    def _tagged(self) -> None:
        self.tag = Tag(self.name)
        self.app = Tag(self.name, self.tag)
        crew = self.crew = self.app
        if self.threads is not None:
            self.tag.thread = LoopThread(self.threads, self.tag)
            if self.both:
                self.app.thread = LoopThread(self.threads, self.app)
                crew = self.crew = Tag(self.name, self.tag)
        self.world.loop.tags += self.tag.parts
        self.context, self.behind = contextvars.copy_context(), contextvars.copy_context()
        self.context.run(tag_of_task.set, self.app)
        self.behind.run(tag_of_task.set, self.tag)
        #: That of its threads.
        self.beside = contextvars.copy_context()
        self.beside.run(tag_of_task.set, crew)

    def _make(self) -> None:
        world, plan = self.world, self.world.plan
        settings, work = dict(plan.settings), plan.workload
        short = work["short"] if self.slot == 0 else 0.0
        if short:
            settings |= {"max_ttl": short, "default_ttl": min(short, settings["default_ttl"])}
        if work["other_db"] and self.slot == 2:
            settings["bookkeeping_db"] = 1 if settings["bookkeeping_db"] is None else None
        url = url_of(world, work["pool"] if self.threads is not None else None)
        cache = SimCache(url, namespace="sim", budget=world.budget, spool=world.spool, **settings)
        wire = self.wire = SimWire(world.network, self.tag)
        location = cache.location
        topology = topology_of(location, wire, self.clock)
        limits = plan.limits
        rng = random.Random(self.rng.random())
        tokens = random.Random(self.rng.random())
        deployment = Deployment(
            location, topology, BlockingSimWire(self), wire,  # type: ignore[arg-type]
            now=self.clock, rng=rng,
            background=lambda name, jobs: SimBackground(self, jobs),  # type: ignore[arg-type,return-value]
        )  # fmt: skip
        deployment._atexit = lambda: None  # a simulated process ends without a word
        #: As the simulator's coroutines use it: in a thread, its blocking methods.
        self.cache: Any = self._used(cache, cache)
        self.engine = engine = cache.engine = Engine(
            deployment,
            replace(cache.settings, journal_time=limits.get("journal_time", 60.0)),
            token=lambda: f"{tokens.getrandbits(64):016x}",
        )
        here = replace(engine.commands.limits, log_lines=limits["log_lines"], max_marks=limits["max_marks"])
        here = replace(here, max_holds=limits.get("holds", here.max_holds))
        engine.commands = replace(engine.commands, limits=here)
        if short:
            # The longest of the functions may run for so long.
            longest = short + (1.6 if work["slow_compute"] else 0.03)
            limits_here = replace(engine.commands.limits, marks_ms=int(longest * 1000))
            engine.commands = replace(engine.commands, limits=limits_here)
        engine.state.marks = Marks(limit=limits["marks"])
        engine.state.journal = Journal(limit=limits["journal"], pending_limit=limits["pending"])
        near, stale = work["near"], work["stale"]
        options: dict[str, Any] = {"stale_if_error": work["stale_if_error"]}
        if work["budget"] is not None:
            options["budget"] = work["budget"]

        def cached(**how: Any) -> Callable[..., Any]:
            return partial(self.decorated, cache.cached(**how))

        @cached(name="f", tags=(lambda k: f"t{k % 3}",), near=near, stale=stale, **options)
        async def f(k: int) -> list[int]:
            return await self._compute(f"f{k}", k)

        @cached(name="g", tags_from=lambda value: [f"t{value[0] % 3}"], near=near / 2)
        async def g(k: int) -> list[int]:
            return await self._compute(f"g{k}", k)

        self.functions: dict[str, Any] = {"f": f, "g": g}
        self.batches = Batches(self, stale=stale, near=near, **options)
        self.callers = Callers(self) if Callers.wanted(work) else None
        self._entries: dict[str, str] = {}
        clients = cache._find()
        assert clients is not None
        self.clients: Any = clients
        self.link: Any = self._used(clients.sync.reads._link, clients.asynchronous.reads._link)
        watch(self, clients)
        if self.threads is not None:
            watch_parts(self, AsTasks(clients.sync, clients.asynchronous))

    def _used(self, blocking: Any, asynchronous: Any) -> Any:
        """Something of the library, as the simulator's coroutines use it in this process."""
        if self.threads is None:
            return asynchronous
        return Both(Blocking(blocking), asynchronous) if self.both else Blocking(blocking)

    def decorated(self, decorator: Callable[..., Any], function: Callable[..., Any]) -> Any:
        """A cached function made of a coroutine function: one that blocks, where threads call it."""
        blocking = None if self.threads is None else decorator(blocking_function(function))
        asynchronous = decorator(function) if self.threads is None or self.both else None
        return self._used(blocking, asynchronous)

    def callable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A coroutine function, as who runs now hands it to the library."""
        return blocking_function(function) if type(getcurrent()) is SimThread else function

    def clock(self) -> float:
        """The clock of the process, in seconds."""
        if self.threads is not None:
            self.threads.tick()
        behind, now = self.tag.behind(), self.world.loop.now
        return round(now - behind, 9) if behind else now  # else what is left never gets to 0

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """A task of the application, or a thread of it."""
        self._spawned += 1
        if self.threads is not None and (not self.both or self._spawned % 2):
            return self.threads.spawn(work, self.beside.copy())
        return self.world.loop.create_task(work, context=self.context.copy())

    def start(self) -> None:
        """Begin to use the cache."""
        self.spawn(self._begin())

    async def _begin(self) -> None:
        self.visitors = {self.spawn(self._visitor()) for _ in range(VISITORS)}
        if self.callers is not None:
            self.visitors.add(self.spawn(self.callers.run()))
        if self.world.plan.workload["changes"]:
            self.spawn(Changer(self).run())
        if self.world.plan.workload["extras"]:
            self.spawn(self.batches.run())
            self.spawn(Extras(self, f"extras {self.world.plan.seed} {self.slot} {self.born}").run())

    # -- the functions

    async def _compute(self, key: str, k: int) -> list[int]:
        rng, oracle, work = self.rng, self.world.oracle, self.world.plan.workload
        token = token_of_task.get()
        seconds = rng.uniform(0.002, 0.015)
        if work["slow_compute"] and rng.random() < 0.2:
            seconds = rng.uniform(0.1, 1.5)
        before = seconds * rng.random()
        running = oracle.leases.began_computing(self, self.entry(key), token)
        oracle.judges.ledger.ran(self, token)
        try:
            await asyncio.sleep(before)
            version = oracle.version(key)
            await asyncio.sleep(seconds - before)
            if rng.random() < work["raises"]:
                raise Failed
            return [k, version]
        finally:
            if not self.world.loop.is_closed():
                oracle.leases.ended_computing(running)

    def budget(self, key: str) -> float:
        """What a call for it may take, in seconds."""
        return self.world.budget if key[0] != "f" else self.world.plan.workload["budget"] or self.world.budget

    def entry(self, key: str) -> str:
        """The key of an entry on the server."""
        found = self._entries.get(key)
        if found is None:
            found = (
                f"sim:k:{key}" if key[0] not in self.functions else str(self.functions[key[0]].key(int(key[1:])))
            )
            self._entries[key] = found
        return found

    # -- the visitors

    def pace(self) -> float:
        """Seconds between two reads of a visitor, on average: once the faults are over, fewer see as much."""
        world = self.world
        return float(world.plan.workload["pace"] * (4 if world.now > world.plan.length else 1))

    async def _visitor(self) -> None:
        rng, world = self.rng, self.world
        work = world.plan.workload
        await asyncio.sleep(rng.uniform(0, 0.05))
        while True:
            quiet = world.now > world.plan.length
            draw = rng.random()
            key = rng.choice(KEYS)
            if work["same_key"] and rng.random() < 0.6:
                key = "f1"
            if rng.random() < work["sets"]:
                key = "s"
            if draw > work["writes"] + 0.01 or quiet:
                action: Coroutine[Any, Any, Any] = self.read(key)
            elif draw > 0.01:
                action = self._change(key)
            else:
                action = self._touch(key)
            if not quiet and rng.random() < work["cancels"]:
                await self._cancelled(action)
            else:
                with suppress(Interrupted):
                    await action
            await self.rest(rng.uniform(0.0, 2 * self.pace()))

    async def rest(self, seconds: float) -> None:
        """Between two things that somebody does; nobody does anything while the process naps."""
        await asyncio.sleep(seconds)
        for slot, begin, end in self.world.plan.workload["naps"]:
            if slot == self.slot and begin <= self.world.now < end:
                await asyncio.sleep(end - self.world.now + seconds)

    async def _cancelled(self, action: Coroutine[Any, Any, Any]) -> None:
        task = self.world.loop.create_task(action)
        await asyncio.wait((task,), timeout=self.rng.uniform(0, 0.02))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def read(self, key: str) -> None:
        """Read, and have the oracle look at what came."""
        oracle, began = self.world.oracle, self.world.now
        number, idle = oracle.tick(), self.engine.state.idle
        how = ["get"]
        source_of_task.set(how)
        self.world.calls += 1
        try:
            if key in EXPLICIT:
                value = await self.cache.aget(key)
                if value is None:
                    return
                (version,) = value
            else:
                try:
                    k, version = await self.functions[key[0]](int(key[1:]))
                except Failed:
                    return
                finally:
                    oracle.leases.call_took(self, began, self.entry(key), budget=self.budget(key))
                if k != int(key[1:]):
                    oracle.bad("value", f"{key} gave {k}")
            self.world.note(f"{self.name} read {key} v{version} from {how[0]}")
            oracle.read(self, key, version, began, number, how[0], idle=idle)
        finally:
            self.world.calls -= 1

    async def _change(self, key: str) -> None:
        rng, world = self.rng, self.world
        if key == "s":
            if world.writing:
                return
            world.writing = self
            try:
                await self._write()
            except (asyncio.CancelledError, Interrupted):
                world.written_later(self)
                raise
            world.writing = None
        else:
            world.oracle.commit(key)
            await asyncio.sleep(rng.uniform(0, 0.003))
            await self.invalidate(self._scope(key))
        if rng.random() < 0.6:
            await self.read(key)

    def _scope(self, key: str) -> str:
        if self.rng.random() >= self.world.plan.workload["wide"]:
            return f"k:{key}"
        return self.rng.choice([f"f:{key[0]}", f"t:{int(key[1:]) % 3}", f"t:{int(key[1:]) % 3}", "*"])

    def beginning(self, scope: str) -> Invalidation:
        """Tell the oracle that an invalidation of functions' entries begins."""
        keys = covered(scope, self.callers is not None)
        return self.world.oracle.begin(self, scope, [k for k in keys if k != "s" or scope == "*"])

    async def invalidate(self, scope: str) -> None:
        """Invalidate, and tell the oracle."""
        it = self.beginning(scope)
        kind, _, name = scope.partition(":")
        reset = invalidation_of_task.set(it)
        try:
            match kind:
                case "k":
                    ack = await self.functions[name[0]].ainvalidate(int(name[1:]))
                case "f":
                    ack = await self.functions[name].ainvalidate_all()
                case "t" | "u":
                    ack = await self.cache.ainvalidate_tag(f"{kind}{name}")
                case _:
                    ack = await self.cache.aclear()
        finally:
            invalidation_of_task.reset(reset)
        self.over(it, ack)

    def over(self, it: Invalidation, ack: Any) -> None:
        """It returned."""
        it.returned = self.world.oracle.tick()
        it.told = ack.done
        strict = " under strict" if self.world.strict else ""
        self.world.oracle.counts[("acknowledged" if ack.done else "not acknowledged") + strict] += 1
        if ack.done:
            self.world.oracle.judges.acks.acknowledged(self, it, ack)
        if ack.done and it.acknowledged is None:
            it.acknowledged = self.world.now
            it.heard.setdefault(self, it.returned)
        self.world.note(f"{self.name} {it.scope} {it.id} {'acknowledged' if ack.done else ack.reason} {ack.stamp}")

    async def _write(self) -> None:
        oracle = self.world.oracle
        version = oracle.commit("s")
        await asyncio.sleep(self.rng.uniform(0, 0.002))
        it = oracle.begin(self, "k:s", ["s"])
        reset = invalidation_of_task.set(it)
        try:
            if self.rng.random() < 0.8:
                ack = await self.cache.aset("s", [version], ttl=self.rng.choice([0.5, 60.0]))
            else:
                ack = await self.cache.adelete("s")
        finally:
            invalidation_of_task.reset(reset)
        self.over(it, ack)

    async def delete(self, key: str) -> None:
        """Delete a key that is set explicitly, and tell the oracle."""
        it = self.world.oracle.begin(self, f"k:{key}", [key])
        reset = invalidation_of_task.set(it)
        try:
            ack = await self.cache.adelete(key)
        finally:
            invalidation_of_task.reset(reset)
        self.over(it, ack)

    async def _touch(self, key: str) -> None:
        name: Any = "s" if key == "s" else self.functions[key[0]].key(int(key[1:]))
        await self.cache.atouch(name, ttl=self.rng.choice([0.2, 30.0]))

    def last_thing(self) -> None:
        """Change and invalidate much at once."""
        scope = self.rng.choice(["f:f", "t:0", "t:1", "t:2", "*"])
        for key in covered(scope):
            if key in KEYS and key != "s":
                self.world.oracle.commit(key)
        self.spawn(self.invalidate(scope))

    def burst(self, count: int) -> None:
        """Many invalidations at once."""

        async def many() -> None:
            for _ in range(count):
                key = self.rng.choice(KEYS[:4])
                self.world.oracle.commit(key)
                await self.invalidate(f"k:{key}" if self.rng.random() < 0.7 else f"t:{int(key[1]) % 3}")

        self.spawn(many())

    # -- a fork

    def fork(self) -> None:
        """Go on as the child: with a copy of the memory, none of the tasks, and no connection. The parent ends."""
        self.tag.end()
        self._tagged()
        self.wire.tag = self.tag
        self.begin_as_child()

    def begin_as_child(self) -> None:
        """What is first done in the child of a fork."""
        if self.threads is not None:
            self.threads.forked()
        self.context.copy().run(self.engine.deployment.after_fork)
        watch_spool(self)
        self.start()
