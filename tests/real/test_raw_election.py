"""Raw clients while the sentinels take their usual time (5 s of silence, then the election), or promote nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from tests.real.raw_tools import Background, all_have_it, in_use
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.raw import NotSent, RawClients

#: What Sentinel's own documents, PyBossa and most sites have.
USUAL = 5000


@pytest.fixture
def usual() -> Iterator[Deployment]:
    with Deployment.start(down_after_ms=USUAL, failover_timeout_ms=10_000) as deployment:
        yield deployment


@pytest.fixture
def quick() -> Iterator[Deployment]:
    """Its replica is promoted within a second or two."""
    with Deployment.start(replicas=1) as deployment:
        yield deployment


@pytest.fixture
def leaderless() -> Iterator[Deployment]:
    """Nobody promotes while a test lasts."""
    with Deployment.start(down_after_ms=600_000) as deployment:
        yield deployment


# -- how long a command waits


def test_commands_wait_for_the_election_that_the_sentinels_are_set_to(usual: Deployment) -> None:
    async def increment() -> int:
        async with Cache(usual.url) as cache:
            await cache.amaster.set("b", 1)
            await asyncio.to_thread(killed.wait, 10)
            return int(await cache.amaster.incr("b"))

    killed = threading.Event()
    with Cache(usual.url) as cache:
        cache.master.set("a", 1)
        task = Background(lambda: asyncio.run(increment()))
        wait_for(lambda: cache.master.exists("b"), 5, "the task's first write")
        old = usual.master()
        old.cli("WAIT", 2, 1000)
        old.kill()
        killed.set()
        began = time.monotonic()
        assert cache.master.incr("a") == 2, "it was never sent to the dead one, so it waits for the next"
        took = time.monotonic() - began
        assert task.result(20) == 2
        print(f"waited {took:.2f} s for the promotion")
        assert took > 4, "the promotion came sooner than this test is about"


def test_wait_is_what_is_given(usual: Deployment) -> None:
    with Cache(usual.url) as cache:
        master = cache.raw(wait=0.5).master
        master.set("a", 1)
        usual.master().kill()
        began = time.monotonic()
        with pytest.raises(NotSent, match=r"waited 0\.\d s.*down-after-milliseconds 5000.*wait="):
            master.incr("a")
        assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("down_after", "expected"), [(500, 5.5), (USUAL, 10.0), (600_000, 30.0)], ids=["short", "usual", "endless"]
)
def test_the_wait_follows_the_sentinels_within_bounds(quick: Deployment, down_after: int, expected: float) -> None:
    for sentinel in quick.sentinels:
        sentinel.cli("SENTINEL", "SET", quick.name, "down-after-milliseconds", down_after)
    with Cache(quick.url) as cache:
        clients = RawClients(cache)
        clients.master.ping()
        wait_for(lambda: clients.wait == expected, 5, "the sentinels' word")
        assert cache.raw(wait=1).wait == 1


def test_without_sentinels_it_is_five_seconds(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        cache.master.ping()
        assert cache.raw().wait == 5.0


# -- what was cut off, and only reads


def _freeze(server: Server) -> None:
    server.freeze()
    time.sleep(0.1)  # the signal is on its way: a command that follows at once may still be answered


@pytest.mark.parametrize("transaction", [None, True, False], ids=["command", "transaction", "pipeline"])
def test_reads_at_a_frozen_master_go_on_at_the_next(quick: Deployment, transaction: bool | None) -> None:
    """A read that was cut off is sent again by itself, since it changes nothing."""
    with Cache(quick.url) as cache:
        cache.master.set("a", 1)
        quick.master().cli("WAIT", 1, 1000)

        def read() -> Any:
            if transaction is None:
                return cache.master.get("a")
            with cache.master.pipeline(transaction=transaction) as pipe:
                return pipe.get("a").exists("a").execute()[0]

        assert read() == b"1"
        old = quick.master()
        _freeze(old)
        assert read() == b"1"
        assert cache.health().master != f"127.0.0.1:{old.port}"
        old.thaw()


async def test_reads_of_a_task_go_on_too(quick: Deployment) -> None:
    async with Cache(quick.url) as cache:
        await cache.amaster.set("a", 1)
        assert await cache.amaster.get("a") == b"1"
        old = await asyncio.to_thread(quick.master)
        await asyncio.to_thread(_freeze, old)
        assert await cache.amaster.get("a") == b"1"
        async with cache.amaster.pipeline() as pipe:
            assert await pipe.get("a").execute() == [b"1"]
        old.thaw()


def test_a_write_that_was_cut_off_is_not_sent_again(quick: Deployment) -> None:
    with Cache(quick.url) as cache:
        cache.master.set("a", 1)
        old = quick.master()
        _freeze(old)
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)) as caught:
            cache.master.incr("a")
        assert not isinstance(caught.value, NotSent)
        old.thaw()


# -- subscriptions


def _hear(client: Any, how: str, got: list[bytes], stop: threading.Event, ready: threading.Event) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        ready.set()
        if how == "listen":
            for message in pubsub.listen():
                got.append(message["data"])
                if message["data"] == b"last":
                    return
        while not stop.is_set():
            began = time.monotonic()
            message = pubsub.get_message(timeout=0.2)
            assert time.monotonic() - began < 2, "the time-out holds while there is no master, too"
            if message is not None:
                got.append(message["data"])
                if message["data"] == b"last":
                    return


@pytest.mark.parametrize("how", ["listen", "get_message", "health_check"])
def test_a_subscription_outlives_any_wait(quick: Deployment, how: str) -> None:
    """The master is away for far longer than `wait`; nobody promotes."""
    with Cache(quick.url) as cache:
        client = cache.raw(wait=0.3, health_check_interval=1 if how == "health_check" else 0).master
        client.ping()
        for sentinel in quick.sentinels:
            sentinel.kill()
        stop, ready = threading.Event(), threading.Event()
        got: list[bytes] = []
        listener = Background(lambda: _hear(client, how, got, stop, ready))
        assert ready.wait(5)
        master = quick.nodes[0]
        wait_for(lambda: int(master.cli("PUBLISH", "news", "first")) == 1, 5, "the subscription")
        wait_for(lambda: got == [b"first"], 5, "the message")
        master.kill()
        time.sleep(2)
        master.restart()
        wait_for(lambda: int(master.cli("PUBLISH", "news", "last")) == 1, 15, "the subscription, anew")
        listener.result()
        assert got == [b"first", b"last"]
        stop.set()


@pytest.mark.parametrize("how", ["listen", "get_message", "health_check"])
async def test_a_subscription_of_a_task_outlives_any_wait(quick: Deployment, how: str) -> None:
    async with Cache(quick.url) as cache:
        client = cache.raw(wait=0.3, health_check_interval=1 if how == "health_check" else 0).amaster
        await client.ping()
        for sentinel in quick.sentinels:
            sentinel.kill()
        master, got, ready = quick.nodes[0], [], asyncio.Event()

        async def listen() -> None:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe("news")
                ready.set()
                while b"last" not in got:
                    if how == "listen":
                        got.append((await anext(pubsub.listen()))["data"])
                        continue
                    began = time.monotonic()
                    message = await pubsub.get_message(timeout=0.2)
                    assert time.monotonic() - began < 2, "the time-out holds while there is no master, too"
                    if message is not None:
                        got.append(message["data"])

        task = asyncio.create_task(listen())
        await asyncio.wait_for(ready.wait(), 5)
        await _until_published(master, "first")
        while not got:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(master.kill)
        await asyncio.sleep(2)
        await asyncio.to_thread(master.restart)
        await _until_published(master, "last")
        await asyncio.wait_for(task, 15)
        assert got == [b"first", b"last"]


async def _until_published(master: Server, word: str) -> None:
    await asyncio.to_thread(
        wait_for, lambda: int(master.cli("PUBLISH", "news", word)) == 1, 15, f"a subscriber for {word}"
    )


def test_a_first_subscription_waits_no_longer_than_a_command(leaderless: Deployment) -> None:
    with Cache(leaderless.url) as cache:
        client = cache.raw(wait=0.3).master
        client.ping()
        leaderless.master().kill()
        with pytest.raises(redis.ConnectionError):
            client.pubsub().subscribe("news")


def test_a_subscription_ends_with_its_cache(leaderless: Deployment) -> None:
    cache = Cache(leaderless.url)
    pubsub = cache.master.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("news")
    assert pubsub.get_message(timeout=0.2) is None
    listener = Background(lambda: next(pubsub.listen()))
    leaderless.master().kill()
    time.sleep(0.5)
    cache.close()
    with pytest.raises(NotSent, match="closed"):
        listener.result()


# -- reads of replicas while nobody is promoted


def test_reads_of_replicas_go_on_while_one_answers(leaderless: Deployment) -> None:
    """Raw reads carry no promise of freshness: the lag bound is over after a second here."""
    with in_use(leaderless, 2, lag_bound=1.0) as cache:
        cache.master.set("a", 1)
        all_have_it(leaderless, cache)
        ours = cache.raw(read_your_writes=True)
        ours.master.set("b", 2)
        wait_for(lambda: ours.replica.get("b") == b"2", 5)
        time.sleep(0.5)
        replicas = leaderless.replicas
        leaderless.master().kill()
        end = time.monotonic() + 4
        slowest = 0.0
        while time.monotonic() < end:
            began = time.monotonic()
            assert cache.replica.get("a") == b"1"
            assert ours.replica.get("b") == b"2"
            with cache.replica.pipeline() as pipe:
                assert pipe.get("a").exists("a").execute() == [b"1", 1]
            assert asyncio.run(_get(cache)) == b"1"
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2.5
        replicas[0].kill()
        for _ in range(20):
            assert cache.replica.get("a") == b"1", "at the other one"
        nodes = {node.address: node for node in cache.health().nodes}
        alive = nodes[f"127.0.0.1:{replicas[1].port}"]
        assert "raw reads" in alive.use
        assert alive.lag is not None
        assert alive.lag > 3, "it may be as old as that"
        dead = nodes[f"127.0.0.1:{replicas[0].port}"]
        assert "raw reads" not in dead.use


async def _get(cache: Cache) -> Any:
    async with cache.raw().areplica as client:
        return await client.get("a")


def test_a_process_that_never_saw_the_master_reads_what_is_left(leaderless: Deployment) -> None:
    leaderless.master().cli("SET", "a", "1")
    leaderless.master().cli("WAIT", 2, 1000)
    leaderless.master().kill()
    with Cache(leaderless.url) as cache:
        assert cache.raw(wait=3).replica.get("a") == b"1"


def test_what_this_process_wrote_is_waited_for_and_then_read_as_it_is(leaderless: Deployment) -> None:
    """The write may be lost: a promotion would decide that; where none comes in time, the page goes on."""
    with in_use(leaderless, 2) as cache:
        ours = cache.raw(read_your_writes=True, wait=1.0)
        ours.master.set("a", 1)
        all_have_it(leaderless, cache)
        for replica in leaderless.replicas:
            replica.freeze()
        ours.master.set("a", 2)
        leaderless.master().kill()
        for replica in leaderless.replicas:
            replica.thaw()
        began = time.monotonic()
        assert ours.replica.get("a") in (b"1", b"2")
        assert time.monotonic() - began < 5
