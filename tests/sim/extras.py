"""One more task of each process in some schedules: counters, `add`, `set` with `since`, `touch`, sweeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from evercache.errors import NotACounter, UnavailableError
from tests.sim.entries import COUNTERS

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["Extras"]

Action = Callable[[], Coroutine[Any, Any, None]]


class Extras:
    """The task, with a random source of its own: the rest of the schedule draws what it draws without it."""

    def __init__(self, process: Process, seed: str) -> None:
        self._process, self._world = process, process.world
        self._rng = random.Random(seed)

    def __repr__(self) -> str:
        return f"<Extras of {self._process!r}>"

    async def run(self) -> None:
        """For ever; only reads once the writes are over."""
        rng, world = self._rng, self._world
        actions: list[tuple[Action, float]] = [
            (self._increment, 5), (self._read_counter, 3), (self._add, 3), (self._release, 1.5), (self._derive, 2),
            (self._change, 1.5), (self._read, 3), (self._touch, 3), (self._sweep, 1), (self._reset, 0.3),
        ]  # fmt: skip
        while True:
            await self._process.rest(rng.uniform(0, 2 * world.plan.workload["pace"]))
            if world.now > world.plan.length:
                await self._read_counter()
                await self._read()
                await asyncio.sleep(0.2)
                continue
            (action,) = rng.choices([a for a, _ in actions], [w for _, w in actions])
            if rng.random() < 0.04 and action in (self._increment, self._derive, self._touch):
                task = world.loop.create_task(action())
                await asyncio.wait((task,), timeout=rng.uniform(0, 0.01))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await action()

    # -- counters

    async def _increment(self) -> None:
        entries, world, rng = self._world.oracle.entries, self._world, self._rng
        key = rng.choice(COUNTERS)
        ttl = 60.0 if key == "c" else rng.choice([0.3, 1.0])
        delta = entries.increment(world.now + world.budget)
        try:
            value = await self._process.cache.aincr(key, delta, initial=rng.choice([0, 100]), ttl=ttl)
        except NotACounter as error:
            world.oracle.bad("counter", f"{self._process.name}: {error}")
            return
        world.note(f"{self._process.name} {key} += {delta}: {value}")
        entries.incremented(key, delta, value)

    async def _read_counter(self) -> None:
        key, began = self._rng.choice(COUNTERS), self._world.now
        value = await self._process.cache.aget(key)
        if value is not None:
            self._world.oracle.entries.counter_read(self._process, key, value, began)

    async def _reset(self) -> None:
        """Set a counter, or delete it."""
        key = self._rng.choice(COUNTERS)
        if self._rng.random() < 0.5:
            await self._process.cache.aset(key, self._rng.randrange(1000), ttl=self._rng.choice([0.5, 60.0]))
        else:
            await self._process.cache.adelete(key)

    # -- add: several at once, but none while the key is released

    async def _add(self) -> None:
        world = self._world
        if world.releasing is not None:
            return
        version = world.oracle.commit("a")
        this = object()
        world.adding[this] = version
        # Given up before its deadline, or its process killed, it may still arrive up to then (rule 11).
        world.later(world.budget + 0.1, lambda: world.adding.pop(this, None))
        ack = await self._process.cache.aadd("a", [version], ttl=self._rng.choice([0.3, 5.0]))
        if not ack.queued:
            world.adding.pop(this, None)
        world.note(f"{self._process.name} add a v{version} {ack}")
        world.oracle.entries.added("a", ack)

    async def _release(self) -> None:
        world = self._world
        if world.releasing is not None or world.adding:
            return
        world.releasing = self._process
        world.oracle.commit("a")
        try:
            await self._process.delete("a")
        finally:
            world.releasing = None

    # -- a value that was read before it is set

    async def _derive(self) -> None:
        cache, rng = self._process.cache, self._rng
        since = await cache.astamp()
        await asyncio.sleep(rng.uniform(0, 0.004))
        version = self._world.oracle.version("d")
        await asyncio.sleep(rng.choice([rng.uniform(0, 0.01), rng.uniform(0, 0.3)]))
        ack = await cache.aset("d", [version], ttl=rng.choice([0.5, 60.0]), since=since)
        self._world.note(f"{self._process.name} set d v{version} since {since}: {ack}")

    async def _change(self) -> None:
        self._world.oracle.commit("d")
        await asyncio.sleep(self._rng.uniform(0, 0.003))
        await self._process.delete("d")
        if self._rng.random() < 0.5:
            await self._process.read("d")

    # -- any entry

    async def _read(self) -> None:
        await self._process.read(self._rng.choice(["a", "d"]))

    async def _touch(self) -> None:
        process, rng = self._process, self._rng
        key = rng.choice(["a", "d", "c", "f0", "f1", "g4"])
        name: Any = process.functions[key[0]].key(int(key[1:])) if len(key) > 1 else key
        await process.cache.atouch(name, ttl=rng.choice([0.2, 1.0, 30.0]))

    async def _sweep(self) -> None:
        """The library itself does not sweep; whoever does, by the marks known here, removes nothing alive."""
        engine, key = self._process.engine, self._process.entry(self._rng.choice(["a", "d", "f0", "f1", "g4"]))
        state, commands = engine.state, engine.commands
        least = state.marks.keys.get(key, (0, 0.0))[0]
        try:
            await self._process.link.run(
                lambda replid, newest: commands.sweep(key, replid=replid, newest=newest, least=least),
                state.now() + self._world.budget,
            )
        except UnavailableError:
            return
