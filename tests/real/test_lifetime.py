"""Caches come and go in one process: what they share, what keeps them alive, what is left after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from tests.servers import Server, free_port, wait_for

from evercache import Cache, connect
from evercache.integrations.flask import Cache as FlaskCache
from evercache.results import Ack


def threads() -> int:
    return sum(thread.name.startswith("evercache") for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def ended(before: tuple[int, int], seconds: float = 1.0) -> None:
    """Everything is released within a second; a busy machine gets more time to notice it."""
    gc.collect()
    wait_for(lambda: threads() <= before[0] and descriptors() <= before[1], 5 * seconds)


@pytest.fixture
def before() -> tuple[int, int]:
    """Threads and descriptors, without those of earlier tests."""
    gc.collect()
    wait_for(lambda: threads() == 0)
    return 0, descriptors()


def factory(url: str, namespace: str) -> None:
    """An application that is made, used and dropped, as in a test suite."""
    cache = Cache(url, namespace=namespace)

    @cache.cached(ttl=60, tags=("project:{number}",))
    def page(number: int) -> dict[str, int]:
        return {"number": number}

    assert page(7) == page(7) == {"number": 7}
    assert page.invalidate(7)
    cache.set("key", "value")
    assert cache.get("key") == "value"


@pytest.mark.parametrize("namespaces", [1, 200])
def test_200_application_factories_leave_nothing(valkey: Server, before: tuple[int, int], namespaces: int) -> None:
    for number in range(200):
        factory(valkey.url, f"app-{number % namespaces}")
        if number % 20 == 19:
            gc.collect()
        assert threads() <= 1, "one background for one deployment"
    ended(before)


def test_200_application_factories_with_tasks_leave_nothing(valkey: Server, before: tuple[int, int]) -> None:
    async def one(number: int) -> None:
        cache = Cache(valkey.url, namespace=f"app-{number}")

        @cache.cached(ttl=60)
        async def page(number: int) -> int:
            return number

        assert await page(7) == await page(7) == 7
        await page.ainvalidate(7)

    for number in range(200):
        asyncio.run(one(number))
    ended(before)


@pytest.mark.parametrize("shared", [False, True], ids=["an extension for each", "one with init_app"])
def test_200_flask_applications_leave_nothing(valkey: Server, before: tuple[int, int], shared: bool) -> None:
    """As a test suite makes them: one application for each test."""
    kept = FlaskCache() if shared else None

    def application(number: int) -> None:
        app = Flask("shop")
        app.config.update(EVERCACHE_URL=valkey.url, CACHE_KEY_PREFIX=f"app-{number % 3}:", SECRET_KEY="s")
        cache = kept or FlaskCache()
        cache.init_app(app)

        @app.route("/")
        @cache.cached(timeout=60)
        def page() -> str:
            return "page"

        with app.test_client() as client:
            assert client.get("/").text == client.get("/").text == "page"
            with app.app_context():
                cache.set("key", number)
                assert cache.get("key") == number

    for number in range(200):
        application(number)
        if number % 20 == 19:
            gc.collect()
        assert threads() <= 1
    kept = None
    ended(before)


def test_1000_caches_of_one_url_share_one_deployment(valkey: Server, before: tuple[int, int]) -> None:
    caches = [Cache(valkey.url, namespace=f"shop-{number % 4}") for number in range(1000)]
    for cache in caches:
        cache.set("key", 1)
        assert cache.get("key") == 1
    engines = {id(cache._clients.engine) for cache in caches if cache._clients is not None}
    deployments = {id(cache._clients.engine.deployment) for cache in caches if cache._clients is not None}
    assert (len(engines), len(deployments), threads()) == (4, 1, 1)
    assert descriptors() - before[1] < 40
    del caches, cache
    ended(before)


def test_caches_that_differ_share_what_is_equal(valkey: Server) -> None:
    with (
        Cache(valkey.url) as one,
        Cache(valkey.url) as same,
        Cache(valkey.url, budget=0.5) as other,
        Cache(f"{valkey.url}?client_name=b") as elsewhere,
    ):
        clients = [cache._find() for cache in (one, same, other, elsewhere)]
        first, second, third, fourth = [found.engine for found in clients if found is not None]
        assert first is second
        assert first is not third
        assert first.deployment is third.deployment
        assert first.deployment is not fourth.deployment


def test_memory_caches_are_separate_stores(before: tuple[int, int]) -> None:
    one, two = Cache("memory://"), Cache("memory://")
    one.set("key", 1)
    assert two.get("key") is None
    assert threads() == 1
    del one, two
    ended(before)


def test_a_function_keeps_its_cache(valkey: Server, before: tuple[int, int]) -> None:
    runs: list[int] = []

    @Cache(valkey.url, namespace="inline").cached(ttl=60)
    def page(number: int) -> int:
        runs.append(number)
        return number

    assert page(1) == 1
    gc.collect()
    time.sleep(0.3)  # the background looks every tenth of a second
    assert page(1) == 1
    assert runs == [1]
    assert page.invalidate(1)
    assert page(1) == 1
    assert runs == [1, 1]
    del page
    ended(before)


def test_a_key_keeps_its_cache(valkey: Server, before: tuple[int, int]) -> None:
    cache = Cache(valkey.url, namespace="keyed")
    page = cache.cached(lambda: 1)
    assert page() == 1
    key = page.key()
    del cache, page
    gc.collect()
    time.sleep(0.3)
    assert threads() == 1
    with Cache(valkey.url, namespace="keyed") as other:
        assert other.delete(key).existed
    del key
    ended(before)


def test_a_raw_client_keeps_its_cache(valkey: Server, before: tuple[int, int]) -> None:
    master = Cache(valkey.url, namespace="raw").master
    master.set("key", "value")
    gc.collect()
    time.sleep(0.3)
    assert master.get("key") == b"value"
    assert threads() == 1
    del master
    ended(before)


def test_a_subscription_keeps_its_cache(valkey: Server, before: tuple[int, int]) -> None:
    seen: list[Any] = []
    cache = Cache(valkey.url, namespace="subscribed")
    stop = cache.subscribe(seen.append)
    cache.set("key", 1)
    wait_for(lambda: seen)
    seen.clear()
    del cache
    gc.collect()
    time.sleep(0.3)
    assert threads() == 1
    with Cache(valkey.url, namespace="subscribed") as other:
        other.set("key", 1)
        valkey.cli("FLUSHALL")
        wait_for(lambda: seen, what="the subscription of the dropped cache")
    stop()
    ended(before)


def test_a_running_call_keeps_its_cache(valkey: Server, before: tuple[int, int]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def call() -> None:
        def compute() -> int:
            begun.set()
            go_on.wait(10)
            return 1

        Cache(valkey.url, namespace="running").get_or_compute("key", compute)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(10)
    gc.collect()
    time.sleep(0.3)
    assert threads() == 1
    go_on.set()
    thread.join()
    ended(before)
    with Cache(valkey.url, namespace="running") as other:
        assert other.get("key") == 1, "it was stored"


def test_a_pending_invalidation_keeps_its_cache() -> None:
    gc.collect()
    wait_for(lambda: threads() == 0)
    with Server.start("valkey") as server:
        cache = Cache(server.url, namespace="pending")
        cache.set("key", "old")
        assert server.cli("EXISTS", "pending:k:key") == 1
        server.freeze()
        ack: Ack = cache.delete("key")
        assert ack.queued
        del cache
        gc.collect()
        server.thaw()
        wait_for(lambda: server.cli("EXISTS", "pending:k:key") == 0, what="the invalidation of the dropped cache")
        wait_for(lambda: threads() == 0)


def test_closing_one_cache_leaves_the_others(valkey: Server, before: tuple[int, int]) -> None:
    one, two = Cache(valkey.url), Cache(valkey.url)
    one.set("key", 1)
    assert two.get("key") == 1
    one.close()
    assert two.get("key") == 1
    assert threads() == 1
    two.close()
    assert threads() == 0
    assert descriptors() <= before[1]


def test_a_closed_cache_says_so_once_and_can_be_entered_again(
    valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []
    cache = Cache(valkey.url, namespace="reopened")

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        runs.append(number)
        return number

    with cache:
        page(1), page(1)
    assert runs == [1]
    with caplog.at_level(logging.WARNING, "evercache"):
        page(1), page(1), cache.get("key")
    (record,) = caplog.records
    assert "'reopened' was used after close()" in record.getMessage()
    assert runs == [1, 1, 1]
    with cache:
        page(1)
        assert runs == [1, 1, 1], "it is still cached"

    async def lifespan() -> None:
        async with cache:
            assert page(1) == 1

    asyncio.run(lifespan())
    asyncio.run(lifespan())
    assert runs == [1, 1, 1]


def test_a_dropped_cache_never_blocks_its_last_reference(valkey: Server) -> None:
    """Finalizers take no lock that a caller may hold."""
    cache = Cache(valkey.url, namespace="dropped")
    cache.set("key", 1)
    clients = cache._find()
    assert clients is not None
    engine = clients.engine
    del clients
    with engine.state.lock, engine.deployment.lock, connect._lock:
        done = threading.Event()

        def drop(holder: list[Cache]) -> None:
            holder.clear()
            gc.collect()
            done.set()

        holder = [cache]
        del cache
        threading.Thread(target=drop, args=(holder,), daemon=True).start()
        assert done.wait(5)
    del engine
    gc.collect()
    wait_for(lambda: threads() == 0)


def connections(port: int) -> set[int]:
    """The own ports of this process's connections to a server."""
    found = set()
    for name in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(name).st_mode):
                with socket.socket(fileno=os.dup(name)) as sock:
                    if sock.getpeername()[1:2] == (port,):
                        found.add(sock.getsockname()[1])
    return found


def forked(work: Callable[[], object], seconds: float = 20.0) -> int:
    """Run in a child that was forked in C, as by uWSGI: no hook of Python runs. Its exit code, -1 if it hung.

    Where another thread waits for the interpreter's lock (GIL) at the moment of the fork, the child hangs when it
    releases that lock: the interpreter signals a waiter that does not exist there. Nothing can be done about it.
    """
    fork = ctypes.PyDLL(None).fork
    pid: int = fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            logging.exception("in the child")
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


@pytest.fixture
def spare() -> Iterator[Server]:
    with Server.start("valkey") as server:
        yield server


def test_a_child_that_ran_no_hooks_has_a_background_of_its_own(valkey: Server) -> None:
    """uWSGI without `lazy-apps`: the application is imported, and used, before the fork."""
    cache = Cache(valkey.url, namespace="uwsgi")
    runs: list[int] = []

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        runs.append(number)
        return number

    for number in range(20):
        assert page(number) == number
    parent = threads()
    assert parent == 1
    mine, inherited = descriptors(), connections(valkey.port)
    assert inherited

    def child() -> None:
        assert page(0) == 0
        assert not connections(valkey.port) & inherited, "it speaks on connections of the parent's"
        for number in range(20):
            assert page(number) == number, "an answer to a question of the parent's"
        assert len(runs) == 20
        assert page.invalidate(3)
        assert page(3) == 3
        assert len(runs) == 21
        clients = cache._find()
        assert clients is not None
        engine = clients.engine
        wait_for(lambda: engine.state.ready and engine.heard_lately(), what="a background in the child")
        assert cache.health().ok

    assert 0 in (forked(child, 10) for _ in range(3)), "see `forked`"
    for number in range(20):
        assert page(number) == number
    assert descriptors() == mine
    cache.close()


def test_nobody_connects_before_the_first_use() -> None:
    before = threads()
    cache = Cache(f"redis://127.0.0.1:{free_port()}", namespace="unused")
    cache.cached(lambda: 1)
    assert threads() == before
    assert cache._clients is None
