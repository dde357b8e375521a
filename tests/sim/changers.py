"""One more task of each process in some schedules: it changes rows in transactions, inside `changing`."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from tests.sim.watch import invalidation_of_task

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["Changer"]

KEYS = ("f0", "f1", "f2", "f3", "g4", "g5")


class Changer:
    """The task, with a random source of its own: the rest of the schedule draws what it draws without it."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        self._rng = random.Random(f"changer {process.world.plan.seed} {process.slot} {process.born}")

    def __repr__(self) -> str:
        return f"<Changer of {self._process!r}>"

    async def run(self) -> None:
        """Until the writes are over."""
        rng, world = self._rng, self._world
        work = world.plan.workload
        while world.now < world.plan.length:
            await asyncio.sleep(rng.uniform(0, 4 * work["pace"] / work["changes"]))
            if rng.random() < 0.05:
                task = world.loop.create_task(self._change())
                await asyncio.wait((task,), timeout=rng.uniform(0, 0.1))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await self._change()

    async def _change(self) -> None:
        """Begin, commit some time later, end some time after that, or die before."""
        rng, world, process = self._rng, self._world, self._process
        oracle, work = world.oracle, world.plan.workload
        key = rng.choice([k for k in KEYS if k[0] in work["changed"]])
        kind = rng.choice(work["changed_by"])
        name = {"k": key, "f": key[0], "t": str(int(key[1:]) % 3)}[kind]
        scope = f"{kind}:{name}"
        at_most = rng.choice(work["at_most"])
        functions = process.functions
        what: Any = {
            "k": lambda: functions[name[0]].key(int(name[1:])),
            "f": lambda: functions[name],
            "t": lambda: (),
        }[kind]()
        around = process.cache.achanging(
            *(() if kind == "t" else (what,)), tag=f"t{name}" if kind == "t" else (), at_most=at_most
        )
        began, tag = world.now, process.tag
        change = await around.__aenter__()
        try:
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 0.02), rng.uniform(0, 0.3)]))
            version = oracle.commit(key)
            world.note(f"{process.name} commits {key} v{version} in a change of {scope}, held: {change.held}")
            if change.held:
                oracle.held(process, tag, scope, key, began)
            if rng.random() < work["dies"]:
                world.kill(process.slot)
                world.later(rng.uniform(0.01, 0.2), lambda: world.be_born(process.slot))
                await asyncio.sleep(1000)
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 0.01), rng.uniform(0, 0.1)]))
        finally:
            if tag.alive and not oracle.over:
                await self._end(around, change, scope)
        if rng.random() < 0.6:
            await process.read(key)

    async def _end(self, around: Any, change: Any, scope: str) -> None:
        it = self._process.beginning(scope)
        reset = invalidation_of_task.set(it)
        try:
            await around.__aexit__(None, None, None)
        finally:
            invalidation_of_task.reset(reset)
        self._process.over(it, change.acks[0])
