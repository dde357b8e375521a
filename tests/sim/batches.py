"""One more task of each process in some schedules: calls of many ids, beside calls of one of the same entries."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from tests.sim.watch import tokens_of_task

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["Batches", "Failed"]

KEYS = tuple(range(4))


class Failed(Exception):
    """What the function raises in some schedules."""


class Batches:
    """The task, with a random source of its own. The function shares its name, and so its entries, with `f`."""

    def __init__(self, process: Process, **options: Any) -> None:
        self._process, self._world = process, process.world
        self._rng = random.Random(f"batches {process.world.plan.seed} {process.slot} {process.born}")

        async def many(ks: list[int]) -> dict[int, list[int]]:
            return await self._compute(ks)

        decorator = process.cache.cached_many(name="f", tags=(lambda k: f"t{k % 3}",), **options)
        self.many: Any = process.decorated(decorator, many)

    def __repr__(self) -> str:
        return f"<Batches of {self._process!r}>"

    async def run(self) -> None:
        """For ever."""
        rng, world = self._rng, self._world
        while True:
            await self._process.rest(rng.uniform(0, 2 * self._process.pace()))
            ks = rng.sample(KEYS, rng.randint(2, 3))
            if rng.random() < 0.05:
                task = world.loop.create_task(self.read(ks))
                await asyncio.wait((task,), timeout=rng.uniform(0, 0.02))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await asyncio.gather(self.read(ks), self.read(rng.sample(KEYS, 2)))

    async def read(self, ks: list[int]) -> None:
        """Read several, and have the oracle look at what came."""
        process, oracle, began = self._process, self._world.oracle, self._world.now
        number = oracle.tick()
        try:
            values = await self.many(ks)
        except Failed:
            return
        finally:
            # Whoever computes one of them may compute others in the same call.
            keys = (process.entry(f"f{k}") for k in KEYS)
            oracle.leases.call_took(process, began, *keys, budget=process.budget("f"))
        if list(values) != [k for k in ks if k in values]:
            oracle.bad("value", f"{ks} gave {values}")
        for k, (same, version) in values.items():
            if same != k:
                oracle.bad("value", f"f{k} gave {same}")
            oracle.read(process, f"f{k}", version, began, number, "a batch")

    async def _compute(self, ks: list[int]) -> dict[int, list[int]]:
        rng, oracle, process, work = self._rng, self._world.oracle, self._process, self._world.plan.workload
        tokens = tokens_of_task.get()
        seconds = (
            rng.uniform(0.1, 1.5) if work["slow_compute"] and rng.random() < 0.2 else rng.uniform(0.002, 0.015)
        )
        before = seconds * rng.random()
        keys = [process.entry(f"f{k}") for k in ks]
        running = [oracle.leases.began_computing(process, key, tokens.get(key, "")) for key in keys]
        oracle.judges.ledger.ran(process, *(tokens.get(key, "") for key in keys))
        try:
            await asyncio.sleep(before)
            values = {k: [k, oracle.version(f"f{k}")] for k in ks if rng.random() < 0.95}
            await asyncio.sleep(seconds - before)
            if rng.random() < work["raises"]:
                raise Failed
            return values
        finally:
            for each in running if not self._world.loop.is_closed() else ():
                oracle.leases.ended_computing(each)
