"""Reads at a node that is late are answered by another one: soon, rarely twice, and never with another's answer."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.deployment import Deployment
from tests.real.trouble_tools import MESSAGE
from tests.servers import Server, wait_for

from evercache import Cache
from evercache.clock import monotonic
from evercache.protocol.balance import HEDGES_SAVED

#: A read has 40 % of it; the second node is asked long before that.
BUDGET = 2.0
SHARE = 0.05
KEYS = [f"key:{number}" for number in range(40)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Deployment]:
    """A master and two replicas; whoever freezes one thaws it."""
    with Deployment.start(replicas=2, sentinels=1, down_after_ms=60_000) as deployment:
        yield deployment


def value(key: str) -> str:
    """Each key has its own, of a size of its own (a few replies come in several pieces)."""
    number = KEYS.index(key)
    return f"{key} is {number} " * (1 + number * number * 8)


class Reader:
    """Gets keys by a thread's methods or by a task's, in an event loop of its own."""

    def __init__(self, cache: Cache, kind: str) -> None:
        self.cache = cache
        self._runner = asyncio.Runner() if kind == "tasks" else None

    def get(self, key: str) -> Any:
        return self.cache.get(key) if self._runner is None else self._runner.run(self.cache.aget(key))

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return self.cache.get_many(keys) if self._runner is None else self._runner.run(self.cache.aget_many(keys))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


@contextmanager
def filled(deployment: Deployment, kind: str, **options: Any) -> Iterator[tuple[Cache, Reader]]:
    """A cache whose keys are on both replicas, and whose usual latency is known."""
    with Cache(deployment.url, **{"budget": BUDGET, "hedge": SHARE, **options}) as cache:
        for key in KEYS:
            assert cache.set(key, value(key), ttl=600)
        wait_for(lambda: sum(n.use == "reads" for n in cache.health().nodes) == 2, 10, "the replicas to be used")
        reader = Reader(cache, kind)
        try:
            assert reader.get_many(KEYS) == {key: value(key) for key in KEYS}
            for turn in range(400):
                key = KEYS[turn % len(KEYS)]
                assert reader.get(key) == value(key)
            yield cache, reader
        finally:
            reader.close()


def engine_of(cache: Cache) -> Any:
    clients = cache._find()
    assert clients is not None
    return clients.engine


def preferred(cache: Cache, nodes: Deployment) -> Server:
    """The replica with the better score. A busy machine may have made the other one look slow for a moment: frozen
    now, it would be asked too seldom to show anything."""
    best = min(engine_of(cache).replicas.members, key=lambda replica: replica.score.decayed(monotonic()))
    return next(server for server in nodes.replicas if server.address == best.address)


def connections(servers: list[Server]) -> int:
    """How many clients named as ours all of them have."""
    return sum(server.cli("CLIENT", "LIST").count(" name=evercache ") for server in servers)


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_reads_at_a_frozen_replica_are_answered_by_the_other_one(nodes: Deployment, kind: str) -> None:
    with filled(nodes, kind) as (cache, reader):
        before = cache.stats().counters.hedge_wins
        took = []
        with preferred(cache, nodes).frozen():
            end = monotonic() + 1.0
            while monotonic() < end:
                key = random.choice(KEYS)
                began = monotonic()
                assert reader.get(key) == value(key)
                took.append(monotonic() - began)
                time.sleep(0.001)
            began = monotonic()
            assert reader.get_many(KEYS) == {key: value(key) for key in KEYS}
            took.append(monotonic() - began)
        counters = cache.stats().counters
        assert counters.hedge_wins > before
        assert max(took) < 0.4 * BUDGET, "without a hedge, this is the time-out of a read"
        wait_for(
            lambda: sum(n.use == "reads" for n in cache.health().nodes) == 2, 10, "the thawed one to be used again"
        )
        settled(cache, reader)
        for key in KEYS * 3:
            assert reader.get(key) == value(key)


def settled(cache: Cache, reader: Reader) -> None:
    """What was left alone is over, and nothing counts as under way. (A task's loop runs only while it reads.)"""

    def over() -> bool:
        assert reader.get(KEYS[0]) == value(KEYS[0])
        return all(replica.outstanding == 0 for replica in engine_of(cache).replicas.members)

    wait_for(over, 5, "late answers")


@contextmanager
def stumbling(servers: list[Server]) -> Iterator[None]:
    """One of the servers stops for some milliseconds, then another one, all the time."""
    over = threading.Event()

    def stumble() -> None:
        while not over.is_set():
            for server in servers:
                with server.frozen():
                    over.wait(0.03)
                over.wait(0.02)

    thread = threading.Thread(target=stumble)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_mixed_reads_get_their_own_answers_within_the_budget(nodes: Deployment, kind: str) -> None:
    readers, reads_each = 8, 250
    wrong: list[tuple[str, Any]] = []
    with filled(nodes, kind) as (cache, reader):

        def one(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(reads_each):
                if rng.random() < 0.25:
                    keys = rng.sample(KEYS, rng.randint(2, 12))
                    check(cache.get_many(keys))
                else:
                    key = rng.choice(KEYS)
                    check({key: cache.get(key)})

        async def aone(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(reads_each):
                if rng.random() < 0.25:
                    check(await cache.aget_many(rng.sample(KEYS, rng.randint(2, 12))))
                else:
                    key = rng.choice(KEYS)
                    check({key: await cache.aget(key)})

        async def all_tasks() -> None:
            await asyncio.gather(*(aone(seed) for seed in range(readers)))

        def check(found: dict[str, Any]) -> None:
            wrong.extend((key, got) for key, got in found.items() if got != value(key))

        with stumbling(nodes.replicas):
            if kind == "tasks":
                asyncio.run(all_tasks())
            else:
                threads = [threading.Thread(target=one, args=(seed,)) for seed in range(readers)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        assert wrong == []
        counters = cache.stats().counters
        reads = engine_of(cache).hedges.reads
        assert counters.hedged > 0
        assert counters.hedge_wins <= counters.hedged <= SHARE * reads + HEDGES_SAVED
        settled(cache, reader)
        # At most one connection for each reader at each node, beside those of the background.
        wait_for(lambda: connections(nodes.nodes) <= 3 * (readers + 6), 5, "no connection left behind")
        endpoints = engine_of(cache).sync_endpoints.all()
        assert all(endpoint.outstanding == 0 for endpoint in endpoints)


def test_without_hedging_a_read_waits(nodes: Deployment) -> None:
    with filled(nodes, "threads", hedge=0, budget=0.5) as (cache, reader):
        took = []
        with nodes.replicas[0].frozen():
            for key in KEYS:
                began = monotonic()
                assert reader.get(key) == value(key)
                took.append(monotonic() - began)
        assert cache.stats().counters.hedged == 0
        assert max(took) < 0.5 + MESSAGE


def test_many_threads_do_not_reconnect_to_a_dead_server_at_once() -> None:
    with Server.start("valkey") as server, Cache(server.url, budget=0.2) as cache:
        assert cache.set("key:1", 1, ttl=60)
        endpoint = engine_of(cache).sync_endpoints.get(server.address)
        attempts = []
        real = endpoint._open

        def opening(*arguments: Any) -> Any:
            attempts.append(monotonic())
            return real(*arguments)

        endpoint._open = opening
        server.kill()
        end = monotonic() + 1.0

        def hammer() -> None:
            while monotonic() < end:
                try:
                    endpoint.execute([("PING",)], monotonic() + 0.05)
                except Exception:
                    time.sleep(0.001)

        threads = [threading.Thread(target=hammer) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The first of each thread may be under way together; then a few each second.
        assert len(attempts) <= 16 + 40
