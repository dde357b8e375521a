"""Bursts of exceptions in the operations for threads: the main thread is interrupted, four others are not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from evercache import Cache
from evercache.raw import RawClients
from tests.interrupts.alarms import KINDS, Alarms
from tests.interrupts.checks import Failed, clean, descriptors, threads
from tests.interrupts.truth import KEYS, Truth

__all__ = ["Blocking"]

#: A call of a thread that nobody interrupts takes so long at most (s), and so do fifty hits after a burst.
PATIENCE = 2.0
#: An invalidation by another process is known here after so many seconds, whatever happens.
HEARD = 1.5
EXPECTED = {"evercache-background": 1, "evercache-refresh": 4, "evercache-events": 1}


class Blocking:
    """The functions, and what the main thread does with them."""

    def __init__(self, url: str, truth: Truth, seed: int) -> None:
        self.truth, self.rng, self.alarms = truth, random.Random(seed), Alarms(seed)
        self.cache = cache = Cache(url, namespace="interrupts", budget=1.0)
        self.failed: list[str] = []

        @cache.cached(name="f", ttl=60)
        def f(key: int) -> list[int]:
            version = truth.version(key)
            time.sleep(0.0003)
            return [key, version]

        @cache.cached(name="near", ttl=60, near=5, tags=(lambda key: f"t{key % 3}", lambda key: f"k{key}"))
        def near(key: int) -> list[int]:
            return [key, truth.version(key)]

        @cache.cached(name="stale", ttl=0.05, stale=60)
        def stale(key: int) -> int:
            return key

        @cache.cached_many(name="many", ttl=60, tags=(lambda key: f"k{key}",))
        def many(keys: list[int]) -> dict[int, list[int]]:
            return {key: [key, truth.version(key)] for key in keys}

        self.f, self.near, self.stale, self.many = f, near, stale, many
        self.raw = RawClients(cache).master
        self._run, self._over = threading.Event(), threading.Event()
        self._idle = threading.Semaphore(0)
        self._others = [threading.Thread(target=self._other, args=(seed + n,), daemon=True) for n in range(4)]
        self.longest = 0.0

    def __repr__(self) -> str:
        return f"<Blocking {self.alarms!r}>"

    # -- what is called

    def _check(self, what: str, key: int, value: Any, least: int) -> None:
        if value[0] != key or value[1] < least:
            self.failed.append(f"{what}({key}) gave {value}, older than version {least}")

    def _read(self, function: Any, key: int) -> None:
        least = self.truth.least(key, 0.0 if key < KEYS else HEARD)
        self._check(function.__name__, key, function(key), least)

    def _read_many(self, rng: random.Random) -> None:
        keys = rng.sample(range(2 * KEYS), 4)
        least = {key: self.truth.least(key, 0.0 if key < KEYS else HEARD) for key in keys}
        for key, value in self.many(keys).items():
            self._check("many", key, value, least[key])

    def _invalidate(self, how: str) -> None:
        """Change a key of this process; what it is known under is invalidated."""
        key = self.rng.randrange(KEYS)
        version, keys = self.truth.change(key), [key]
        acks = [self.many.invalidate([key])[key], self.near.invalidate(key)]
        if how == "key":
            acks.append(self.f.invalidate(key))
        elif how == "function":
            acks.append(self.f.invalidate_all())
        elif how == "tag":
            acks += [self.cache.invalidate_tag(f"t{key % 3}"), self.f.invalidate(key)]
        elif how == "changing":
            with self.cache.changing(self.f.key(key)) as change:
                pass
            acks += change.acks
        else:
            acks.append(self.cache.clear())
        if all(ack.done or ack.queued for ack in acks):
            for key in keys:
                self.truth.acknowledged(key, version)

    def operations(self) -> list[Callable[[], object]]:
        """All of them, the frequent ones more than once."""
        cache, rng, raw = self.cache, self.rng, self.raw
        key = lambda: rng.randrange(2 * KEYS)  # noqa: E731
        name = lambda: f"s{rng.randrange(9)}"  # noqa: E731
        reads = [lambda: self._read(self.f, key()), lambda: self._read(self.near, key())] * 4
        return [
            *reads,
            lambda: self._read_many(rng),
            lambda: self.stale(key()),
            lambda: self.f.refresh(key()),
            lambda: self.f.peek(key()),
            *[lambda: self._invalidate("key")] * 3,
            lambda: self._invalidate("function"),
            lambda: self._invalidate("tag"),
            lambda: self._invalidate("changing"),
            lambda: self._invalidate("everything") if rng.random() < 0.1 else None,
            lambda: cache.set(name(), 1, ttl=60),
            lambda: cache.get(name()),
            lambda: cache.delete(name()),
            lambda: cache.add(name(), 2),
            lambda: cache.incr(f"n{rng.randrange(3)}"),
            lambda: cache.touch(name(), ttl=60),
            lambda: cache.get_or_compute(name(), lambda: 3),
            lambda: cache.get_many([name(), name()]),
            lambda: cache.set_many({name(): 4, name(): 5}),
            lambda: cache.delete_many([name(), name()]),
            lambda: raw.set("raw", b"1"),
            lambda: raw.get("raw"),
        ]

    # -- the bursts

    def _other(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._over.is_set():
            if not self._run.is_set():
                self._idle.release()
                self._run.wait()
                continue
            began = time.monotonic()
            self._read(rng.choice([self.f, self.near]), rng.randrange(2 * KEYS))
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(rng.uniform(0, 0.002))

    def burst(self, count: int) -> float:
        """Raise so many exceptions; return after how many seconds all was clean."""
        operations, alarms = self.operations(), self.alarms
        end = alarms.raised + count
        self._run.set()
        while alarms.raised < end:
            try:
                while alarms.raised < end:
                    alarms.arm()
                    self.rng.choice(operations)()
            except KINDS:
                continue
        alarms.disarm()
        self._run.clear()
        for _ in self._others:
            if not self._idle.acquire(timeout=10):
                raise Failed("a thread that nobody interrupted is stuck")
        took = clean(self.cache._find().engine, 1.5, self._too_many)  # type: ignore[union-attr]
        self._calls_after()
        return took

    def _too_many(self) -> str | None:
        names = threads()
        wrong = [name for name in set(names) if names.count(name) > EXPECTED.get(name, 0)]
        return f"threads {names}" if wrong else None

    def _calls_after(self) -> None:
        for key in range(KEYS):
            self.f(key)
        before, began = self.cache.stats().counters.hits, time.monotonic()
        for number in range(50):
            self._read(self.f, number % KEYS)
        took, hits = time.monotonic() - began, self.cache.stats().counters.hits - before
        if took > PATIENCE or hits < 50:
            self.failed.append(f"fifty calls after a burst took {took:.3f} s, {hits} of them hit")
        if self.longest > PATIENCE:
            self.failed.append(f"a call of a thread that nobody interrupted took {self.longest:.3f} s")
        if self.failed:
            raise Failed("; ".join(self.failed[:5]))

    def run(self, count: int, end: float) -> tuple[int, float]:
        """Bursts of at most a thousand, until `end`; how many were raised, and the longest time to be clean."""
        for thread in self._others:
            thread.start()
        self._run.set()
        self._calls_after()
        opened, slowest = descriptors(), 0.0
        while self.alarms.raised < count and time.monotonic() < end:
            slowest = max(slowest, self.burst(min(500, count - self.alarms.raised)))
            if descriptors() > opened + 60:
                raise Failed(f"{descriptors()} descriptors, {opened} at the beginning")
        self._over.set()
        self._run.set()
        for thread in self._others:
            thread.join(10)
        self.cache.close()
        return self.alarms.raised, slowest
