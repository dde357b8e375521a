"""Bursts of exceptions in the operations for tasks: on the loop of the main thread."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from evercache import Cache
from tests.interrupts.alarms import KINDS, Alarms
from tests.interrupts.checks import Failed, clean, descriptors, threads
from tests.interrupts.truth import KEYS, Truth

__all__ = ["Tasks"]

PATIENCE = 2.0
HEARD = 1.5
TASKS = 20


class Tasks:
    """The functions, and what tasks of one loop after the other do with them."""

    def __init__(self, url: str, truth: Truth, seed: int) -> None:
        self.truth, self.rng, self.alarms = truth, random.Random(seed), Alarms(seed)
        self.cache = cache = Cache(url, namespace="interrupts", budget=1.0)
        self.failed: list[str] = []

        @cache.cached(name="f", ttl=60)
        async def f(key: int) -> list[int]:
            version = truth.version(key)
            await asyncio.sleep(0.0003)
            return [key, version]

        @cache.cached(name="near", ttl=60, near=5, tags=(lambda key: f"t{key % 3}", lambda key: f"k{key}"))
        async def near(key: int) -> list[int]:
            return [key, truth.version(key)]

        @cache.cached(name="stale", ttl=0.05, stale=60)
        async def stale(key: int) -> int:
            return key

        @cache.cached_many(name="many", ttl=60, tags=(lambda key: f"k{key}",))
        async def many(keys: list[int]) -> dict[int, list[int]]:
            return {key: [key, truth.version(key)] for key in keys}

        self.f, self.near, self.stale, self.many = f, near, stale, many
        # asyncio and the collector report what the exceptions broke of loops that are closed.
        warnings.simplefilter("ignore")
        sys.unraisablehook = lambda _: None

    def __repr__(self) -> str:
        return f"<Tasks {self.alarms!r}>"

    async def _read(self, function: Any, key: int) -> None:
        least = self.truth.least(key, 0.0 if key < KEYS else HEARD)
        value = await function(key)
        if value[0] != key or value[1] < least:
            self.failed.append(f"{function.__name__}({key}) gave {value}, older than version {least}")

    async def _invalidate(self, how: str) -> None:
        key = self.rng.randrange(KEYS)
        version = self.truth.change(key)
        acks = [(await self.many.ainvalidate([key]))[key], await self.near.ainvalidate(key)]
        if how == "changing":
            async with self.cache.achanging(self.f.key(key)) as change:
                await asyncio.sleep(0)
            acks += change.acks
        elif how == "function":
            acks.append(await self.f.ainvalidate_all())
        else:
            acks.append(await self.f.ainvalidate(key))
        if all(ack.done or ack.queued for ack in acks) and version == self.truth.version(key):
            self.truth.acknowledged(key, version)

    def operations(self) -> list[Callable[[], Coroutine[Any, Any, object]]]:
        """All of them, the frequent ones more than once."""
        cache, rng = self.cache, self.rng
        key = lambda: rng.randrange(2 * KEYS)  # noqa: E731
        name = lambda: f"s{rng.randrange(9)}"  # noqa: E731

        async def compute() -> int:
            return 3

        reads: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: self._read(self.f, key()),
            lambda: self._read(self.near, key()),
        ] * 4
        return [
            *reads,
            lambda: self.many(rng.sample(range(2 * KEYS), 4)),
            lambda: self.stale(key()),
            lambda: self.f.refresh(key()),
            *[lambda: self._invalidate("key")] * 2,
            lambda: self._invalidate("function"),
            lambda: self._invalidate("changing"),
            lambda: cache.aset(name(), 1, ttl=60),
            lambda: cache.aget(name()),
            lambda: cache.adelete(name()),
            lambda: cache.aadd(name(), 2),
            lambda: cache.aincr(f"n{rng.randrange(3)}"),
            lambda: cache.atouch(name(), ttl=60),
            lambda: cache.aget_or_compute(name(), compute),
            lambda: cache.aget_many([name(), name()]),
            lambda: cache.aset_many({name(): 4, name(): 5}),
            lambda: cache.adelete_many([name(), name()]),
        ]

    async def _task(self, end: int) -> None:
        operations = self.operations()
        while self.alarms.raised < end:
            self.alarms.arm()
            with contextlib.suppress(Exception):
                await self.rng.choice(operations)()
            await asyncio.sleep(0)

    async def _tasks(self, end: int) -> None:
        await asyncio.gather(*(self._task(end) for _ in range(TASKS)))

    def _loop(self, end: int) -> None:
        """One loop, until an exception ends it: what an application would call `asyncio.run` for."""
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        try:
            try:
                loop.run_until_complete(asyncio.wait_for(self._tasks(end), 1.0))
            finally:
                self.alarms.disarm()  # may be interrupted a last time
        except (*KINDS, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            with contextlib.suppress(BaseException):
                for task in asyncio.all_tasks(loop):
                    task.cancel()
                loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()

    async def _calls_after(self) -> None:
        for key in range(KEYS):
            await self.f(key)
        before, began = self.cache.stats().counters.hits, time.monotonic()
        for number in range(50):
            await self._read(self.f, number % KEYS)
        took, hits = time.monotonic() - began, self.cache.stats().counters.hits - before
        if took > PATIENCE or hits < 50:
            self.failed.append(f"fifty calls after a burst took {took:.3f} s, {hits} of them hit")
        if self.failed:
            raise Failed("; ".join(self.failed[:5]))

    def run(self, count: int, end: float) -> tuple[int, float]:
        """Bursts until `end`; how many exceptions were raised, and the longest time to be clean."""
        asyncio.run(self._calls_after())
        opened, slowest = descriptors(), 0.0
        while self.alarms.raised < count and time.monotonic() < end:
            goal = min(count, self.alarms.raised + 200)
            while self.alarms.raised < goal and time.monotonic() < end:
                self._loop(goal)
            engine = self.cache._find().engine  # type: ignore[union-attr]
            slowest = max(slowest, clean(engine, 1.5, lambda: None))
            asyncio.run(self._calls_after())
            if descriptors() > opened + 60 or len(threads()) > 3:
                raise Failed(f"{descriptors()} descriptors, {opened} at the beginning; threads {threads()}")
        self.cache.close()
        return self.alarms.raised, slowest
