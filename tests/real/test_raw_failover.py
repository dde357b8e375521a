"""Raw clients through failovers: planned, by SIGKILL, and of a master that is frozen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from tests.real.raw_tools import Background, all_have_it, in_use, served
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.observe import events
from evercache.raw import NotSent

HEARD = 1.0
#: Errors with which a command may end that was under way when its master died.
BROKEN = (redis.ConnectionError, redis.TimeoutError)


@pytest.fixture
def shop() -> Iterator[Deployment]:
    """A deployment without passwords, to be ill-treated."""
    with Deployment.start() as deployment:
        yield deployment


class Promotion(threading.Thread):
    """Notes when any of some servers says that it is master, and when it has a subscriber of "news"."""

    def __init__(self, servers: list[Server], *, once: bool = False) -> None:
        super().__init__(daemon=True)
        self._servers, self._once = servers, once
        self.at = self.subscribed = 0.0
        self.start()

    def run(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and not self.subscribed and not (self.at and self._once):
            for server in self._servers:
                with contextlib.suppress(OSError):
                    role, (_, count) = server.cli_many([("ROLE",), ("PUBSUB", "NUMSUB", "news")])
                    if role[0] == "master" and not self.at:
                        self.at = time.monotonic()
                    if self.at and int(count):
                        self.subscribed = time.monotonic()
            time.sleep(0.003)

    def took(self) -> float:
        """Seconds from the promotion to the subscription."""
        wait_for(lambda: self.subscribed, 20, "the subscription at the new master")
        return self.subscribed - self.at


def test_commands_go_on_after_a_planned_failover(shop: Deployment) -> None:
    with Cache(shop.url) as cache:
        master = cache.master
        old = shop.master()
        master.set("a", 1)
        new = shop.failover()
        began = time.monotonic()
        assert master.get("a") == b"1"
        assert master.incr("a") == 2
        assert time.monotonic() - began < HEARD
        assert served(old, "incrby") + served(old, "incr") == 0
        assert new.cli("GET", "a") == "2"


def test_no_command_goes_to_a_demoted_master(shop: Deployment) -> None:
    """PINGs are not replicated, so those that the old master counts were sent to it by us."""
    with Cache(shop.url) as cache:
        stop, left = threading.Event(), threading.Event()
        old = shop.master()

        def hear(event: Any) -> None:
            if isinstance(event, events.MasterChanged) and event.old:
                left.set()

        cache.subscribe(hear)

        def knock() -> int:
            answers = 0
            while not stop.is_set():
                with contextlib.suppress(*BROKEN):
                    cache.master.execute_command("DBSIZE")
                    with cache.master.pipeline() as pipe:
                        answers += len(pipe.dbsize().dbsize().execute())
                time.sleep(0.002)
            return answers

        knocking = [Background(knock) for _ in range(4)]
        wait_for(lambda: served(old, "dbsize") > 200, 10, "the knocking")
        shop.failover()
        assert left.wait(10)
        last = served(old, "dbsize")
        time.sleep(1.0)
        assert served(old, "dbsize") == last
        assert served(shop.master(), "dbsize") > 100
        stop.set()
        assert all(one.result() for one in knocking)


def test_a_command_waits_for_the_promotion_when_the_master_was_killed(shop: Deployment) -> None:
    with Cache(shop.url) as cache:
        master = cache.master
        master.set("a", 1)
        old = shop.master()
        old.kill()
        assert master.incr("a") == 2, "it was never sent to the dead one, so it waits for the next"
        assert shop.wait_new_master(old).cli("GET", "a") == "2"


def test_not_longer_than_wait(shop: Deployment) -> None:
    with Cache(shop.url) as cache:
        master = cache.raw(wait=0.3).master
        master.set("a", 1)
        for server in [*shop.sentinels, shop.master()]:
            server.kill()
        began = time.monotonic()
        with pytest.raises(NotSent):
            master.incr("a")
        assert 0.2 < time.monotonic() - began < 2


def _listen(client: Any, got: list[tuple[float, bytes]], ready: threading.Event, stop: threading.Event) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        pubsub.psubscribe("more.*")
        ready.set()
        while not stop.is_set():
            message = pubsub.get_message(timeout=0.5)
            if message is not None:
                got.append((time.monotonic(), message["data"]))


@pytest.mark.parametrize("how", ["planned", "killed", pytest.param("frozen", marks=pytest.mark.long)])
def test_pub_sub_subscribes_anew_within_a_second(shop: Deployment, how: str) -> None:
    with Cache(shop.url) as cache:
        got: list[tuple[float, bytes]] = []
        ready, stop = threading.Event(), threading.Event()
        listener = Background(lambda: _listen(cache.master, got, ready, stop))
        assert ready.wait(5)
        wait_for(lambda: cache.master.publish("news", "first") == 1, 5, "the subscription")
        old = shop.master()
        watch = Promotion([node for node in shop.nodes if node is not old])
        if how == "planned":
            shop.failover()
        elif how == "killed":
            old.kill()
        else:
            old.freeze()
        took = watch.took()
        new = shop.wait_new_master(old)
        assert int(new.cli("PUBLISH", "news", "second")) == 1
        wait_for(lambda: int(new.cli("PUBLISH", "more.x", "third")) == 1, 1, "the subscription by pattern")
        print(f"resubscribed after {how}: {took:.3f} s from the promotion")
        assert took < HEARD
        wait_for(lambda: {b"first", b"second", b"third"} <= {data for _, data in got}, 5, "the messages")
        stop.set()
        listener.result()
        if how == "frozen":
            old.thaw()


@pytest.mark.parametrize("how", ["planned", pytest.param("frozen", marks=pytest.mark.long)])
def test_listen_goes_on_though_it_blocks_for_ever(shop: Deployment, how: str) -> None:
    with Cache(shop.url) as cache:
        pubsub = cache.master.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe("news")
        stream = pubsub.listen()
        first = Background(lambda: next(stream))
        wait_for(lambda: cache.master.publish("news", "1"), 5, "the subscription")
        assert first.result()["data"] == b"1"
        second = Background(lambda: next(stream))
        old = shop.master()
        old.freeze() if how == "frozen" else shop.failover()
        new = shop.wait_new_master(old)
        wait_for(lambda: int(new.cli("PUBLISH", "news", "2")), 5, "the subscription", pause=0.01)
        assert second.result()["data"] == b"2"
        pubsub.close()
        if how == "frozen":
            old.thaw()


@pytest.mark.long
async def test_asyncio_pub_sub_subscribes_anew(shop: Deployment) -> None:
    async with Cache(shop.url) as cache:
        async with cache.amaster.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe("news")
            old = shop.master()
            old.freeze()
            task = asyncio.create_task(_next_message(pubsub))
            watch = Promotion([node for node in shop.nodes if node is not old])
            took = await asyncio.to_thread(watch.took)
            new = await asyncio.to_thread(shop.wait_new_master, old)
            assert int(new.cli("PUBLISH", "news", "x")) == 1
            print(f"asyncio: resubscribed {took:.3f} s after the promotion")
            assert took < HEARD
            assert (await asyncio.wait_for(task, 5))["data"] == b"x"
        old.thaw()


async def _next_message(pubsub: Any) -> Any:
    return await anext(pubsub.listen())


def _pops(server: Server) -> bool:
    """Whether a pop is blocked there (the cache's own reading of the log is blocked most of the time)."""
    return any("cmd=blpop" in line for line in str(server.cli("CLIENT", "LIST")).splitlines())


def test_a_blocked_pop_hears_of_the_new_master_at_once(shop: Deployment) -> None:
    """Blocked for ever at a frozen master: it ends with the promotion, not with a time-out."""
    with Cache(shop.url) as cache:
        popped = Background(lambda: cache.master.blpop("queue", timeout=0))
        old = shop.master()
        wait_for(lambda: _pops(old), 5, "the pop to block")
        old.freeze()
        watch = Promotion([node for node in shop.nodes if node is not old], once=True)
        with pytest.raises(redis.ConnectionError, match="may have run"):
            popped.result()
        shop.wait_new_master(old)
        print(f"blocked pop heard {popped.ended - watch.at:.3f} s after the promotion")
        assert popped.ended - watch.at < HEARD
        old.thaw()


@pytest.mark.long
async def test_a_blocked_pop_of_a_task_too(shop: Deployment) -> None:
    async with Cache(shop.url) as cache:
        task = asyncio.create_task(cache.amaster.blpop("queue", timeout=0))
        old = shop.master()
        await asyncio.to_thread(wait_for, lambda: _pops(old), 5, "the pop to block")
        old.freeze()
        await asyncio.to_thread(shop.wait_new_master, old)
        with pytest.raises(redis.ConnectionError, match="may have run"):
            await asyncio.wait_for(task, 5)
        old.thaw()


@pytest.mark.long
def test_no_acknowledged_increment_is_lost(shop: Deployment) -> None:
    """INCR with WAIT for a replica, while the master is frozen, and the next one killed; nothing is repeated."""
    with Cache(shop.url) as cache:
        stop, acknowledged, doubtful = threading.Event(), [0], [0]

        def count() -> None:
            while not stop.is_set():
                pipe = cache.master.pipeline(transaction=False)
                pipe.incr("counter")
                pipe.wait(1, 200)
                try:
                    _, replicas = pipe.execute()
                except NotSent:
                    continue
                except redis.RedisError:
                    doubtful[0] += 1
                    continue
                acknowledged[0] += replicas >= 1
                doubtful[0] += replicas < 1

        counter = Background(count)
        wait_for(lambda: acknowledged[0] > 100, 10, "a hundred increments")
        frozen = shop.master()
        frozen.freeze()
        shop.wait_new_master(frozen)
        before = acknowledged[0]
        wait_for(lambda: acknowledged[0] > before + 100, 15, "increments at the second master")
        frozen.thaw()
        wait_for(lambda: frozen.cli("ROLE")[0] == "slave", 30, "the former master to be a replica")
        shop.wait_whole()
        killed = shop.master()
        killed.kill()
        shop.wait_new_master(killed)
        before = acknowledged[0]
        wait_for(lambda: acknowledged[0] > before + 100, 15, "increments at the third master")
        stop.set()
        counter.result()
        value = int(shop.master().cli("GET", "counter"))
        print(f"acknowledged {acknowledged[0]}, doubtful {doubtful[0]}, counted {value}")
        assert acknowledged[0] <= value <= acknowledged[0] + doubtful[0]


@pytest.mark.long
def test_a_planned_failover_loses_nothing_that_all_replicas_had(shop: Deployment) -> None:
    with Cache(shop.url) as cache:
        stop, acknowledged = threading.Event(), [0]

        def count() -> None:
            while not stop.is_set():
                pipe = cache.master.pipeline(transaction=False)
                pipe.incr("counter")
                pipe.wait(2, 200)
                try:
                    acknowledged[0] += pipe.execute()[1] >= 2
                except redis.RedisError:
                    continue

        counter = Background(count)
        for _ in range(2):
            before = acknowledged[0]
            wait_for(lambda before=before: acknowledged[0] > before + 100, 30, "a hundred increments")
            shop.failover()
            shop.wait_settled()
        stop.set()
        counter.result()
        value = int(shop.master().cli("GET", "counter"))
        print(f"acknowledged {acknowledged[0]}, counted {value}")
        assert value >= acknowledged[0]


def test_a_pipeline_that_watches_is_told(shop: Deployment) -> None:
    with Cache(shop.url) as cache:
        with cache.master.pipeline() as pipe:
            pipe.watch("a")
            old = shop.master()
            shop.failover()
            wait_for(
                lambda: cache.master.info("server")["tcp_port"] != old.port, 5, "the new master to be heard of"
            )
            pipe.multi()
            pipe.set("a", 1)
            with pytest.raises(redis.WatchError):
                pipe.execute()

        def change(pipe: Any) -> None:
            pipe.multi()
            pipe.set("a", 2)

        assert cache.master.transaction(change, "a") == [True]
        assert served(old, "set") == 0


@pytest.mark.parametrize("how", ["master", "replica"])
def test_a_scan_through_a_failover_leaves_nothing_out(shop: Deployment, how: str) -> None:
    """It begins anew at another server, and may give a key twice, as SCAN may."""
    with in_use(shop, 2) as cache:
        pipe = cache.master.pipeline()
        for n in range(1500):
            pipe.set(f"scan:{n}", n)
        pipe.execute()
        all_have_it(shop, cache)
        client = cache.master if how == "master" else cache.replica
        seen: set[bytes] = set()
        for place, key in enumerate(client.scan_iter("scan:*", count=10)):
            seen.add(key)
            if place == 500:
                shop.failover() if how == "master" else shop.replicas[0].kill()
            if place == 700 and how == "replica":
                shop.master().kill()
        assert len(seen) == 1500


def test_scripts_and_locks_after_a_failover(shop: Deployment) -> None:
    with Cache(shop.url) as cache:
        script = cache.master.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert script(keys=["n"], args=[2]) == 2
        lock = cache.master.lock("lock", timeout=30)
        assert lock.acquire(blocking=False)
        shop.failover()
        for server in shop.nodes:
            server.cli("SCRIPT", "FLUSH")
        assert script(keys=["n"], args=[2]) == 4
        with cache.master.pipeline() as pipe:
            script(keys=["n"], args=[1], client=pipe)
            assert pipe.execute() == [5]
        assert not cache.master.lock("lock").acquire(blocking=False)
        lock.release()
        assert cache.master.lock("lock", timeout=5).acquire(blocking=False)


def test_replicas_that_die_are_not_met_by_readers(shop: Deployment) -> None:
    with in_use(shop, 2) as cache:
        cache.master.set("a", 1)
        shop.master().cli("WAIT", 2, 1000)
        stop = threading.Event()

        def read() -> int:
            reads = 0
            while not stop.is_set():
                assert cache.replica.get("a") == b"1"
                reads += 1
            return reads

        readers = [Background(read) for _ in range(3)]
        time.sleep(0.3)
        shop.replicas[0].kill()
        time.sleep(0.5)
        shop.failover() if shop.replicas[1].alive else None
        time.sleep(0.5)
        stop.set()
        assert all(reader.result() > 50 for reader in readers)
