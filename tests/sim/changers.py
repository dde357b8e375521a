"""One more task of each process in some schedules: it changes rows in transactions, inside `changing`."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from tests.sim.watch import invalidation_of_task

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["SCOPES", "Changer"]

#: What a change covers at most, where it covers several things.
SCOPES = 3

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
            await self._process.rest(rng.uniform(0, 4 * work["pace"] / work["changes"]))
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
        count = work.get("scopes", 1)
        chosen = [self._chosen() for _ in range(rng.randint(1, count) if count > 1 else 1)]
        at_most = rng.choice(work["at_most"])
        chosen.sort(key=lambda one: one[0][0] == "t")  # tags are named after all else
        scopes = dict(chosen)
        what = [
            process.functions[name[0]].key(int(name[1:])) if kind == "k" else process.functions[name]
            for kind, _, name in (scope.partition(":") for scope in scopes)
            if kind != "t"
        ]
        tags = [f"t{scope[2:]}" for scope in scopes if scope[0] == "t"]
        around = process.cache.achanging(*what, tag=tags, at_most=at_most)
        began, tag = world.now, process.tag
        change = await around.__aenter__()
        try:
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 0.02), rng.uniform(0, 0.3)]))
            for scope, key in scopes.items():
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
                await self._end(around, change, list(scopes))
        if rng.random() < 0.6:
            await process.read(next(iter(scopes.values())))

    def _chosen(self) -> tuple[str, str]:
        """One scope, and the key of it whose row is changed."""
        rng, work = self._rng, self._world.plan.workload
        key = rng.choice([k for k in KEYS if k[0] in work["changed"]])
        kind = rng.choice(work["changed_by"])
        name = {"k": key, "f": key[0], "t": str(int(key[1:]) % 3)}[kind]
        return f"{kind}:{name}", key

    async def _end(self, around: Any, change: Any, scopes: list[str]) -> None:
        its = [self._process.beginning(scope) for scope in scopes]
        reset = invalidation_of_task.set(its)
        try:
            await around.__aexit__(None, None, None)
        finally:
            invalidation_of_task.reset(reset)
        for it, ack in zip(its, change.acks, strict=True):
            self._process.over(it, ack)
