"""Caches that end while others begin: races, signal handlers, forks, finalizers."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from tests.real.test_lifetime import connections, descriptors, ended, forked, threads
from tests.servers import Server, wait_for

from evercache import Cache, connect
from evercache.clients import Clients
from evercache.engine.background import Background
from evercache.engine.engine import Engine
from evercache.observe import EventHub, Subscribers, events
from evercache.protocol.types import Address
from evercache.url import parse_url


def engine_of(cache: Cache) -> Engine:
    clients = cache._find()
    assert clients is not None
    return clients.engine


@pytest.fixture
def before() -> tuple[int, int]:
    """Threads and descriptors, without those of earlier tests."""
    gc.collect()
    wait_for(lambda: threads() == 0)
    return 0, descriptors()


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_cache_that_begins_while_the_last_one_closes_has_a_living_engine(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, new = Cache(valkey.url, namespace="race"), Cache(valkey.url, namespace="race")
    last.set("key", 1)
    close = Engine.close

    def between(engine: Engine, timeout: float = 1.0) -> int:
        new._find()
        return close(engine, timeout)

    monkeypatch.setattr(Engine, "close", between)
    last.close()
    monkeypatch.undo()
    assert not engine_of(new).closed
    assert new.get("key") == 1
    new.close()


def test_a_signal_handler_that_uses_the_cache_while_it_begins_leaves_it_alive(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(valkey.url, namespace="interrupted")
    connect_to, handled = cache._connect, []

    def interrupted(location: Any) -> Clients:
        clients = connect_to(location)
        if not handled:
            handled.append(True)
            cache.set("key", 1)
        return clients

    monkeypatch.setattr(cache, "_connect", interrupted)
    assert cache.get("key") == 1
    assert not engine_of(cache).closed
    cache.close()


def test_32_threads_that_make_use_and_drop_caches(valkey: Server, before: tuple[int, int], hasty: None) -> None:
    wrong: list[Any] = []
    slow: list[float] = []
    end = time.monotonic() + 4.0

    def work(number: int) -> None:
        try:
            turn = 0
            while time.monotonic() < end:
                turn += 1
                # A budget that no busy machine exhausts.
                cache = Cache(valkey.url, namespace=f"shop-{(number + turn) % 3}", budget=5 + turn % 2)
                cache.set(f"key-{number}", turn)
                # A machine too busy to connect in time gives nothing, which is no fault of the engine.
                if (found := cache.get(f"key-{number}")) not in (turn, None):
                    wrong.append((found, turn))
                if engine_of(cache).closed:
                    wrong.append(cache)
                if turn % 2:
                    began = time.monotonic()
                    cache.close()
                    slow.append(time.monotonic() - began)
                del cache
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert slow
    ended(before)
    # Caches of other tests in this process may be alive: they have other servers.
    ours = parse_url(valkey.url)

    def collected() -> bool:
        gc.collect()
        servers = [*connect._deployments, *(servers for servers, _ in connect._engines)]
        return ours not in [location for location, _ in servers]

    wait_for(collected)


def test_closing_waits_for_no_thread_that_needs_its_lock(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background looks for unneeded engines under the lock of the deployment, at any moment."""
    cache = Cache(valkey.url, namespace="patient")
    cache.set("key", 1)
    deployment, stop = engine_of(cache).deployment, Background.stop
    waits: list[bool] = []

    def stopping(background: Background, timeout: float) -> None:
        if timeout > 0:
            waits.append(deployment.lock._is_owned())
        stop(background, timeout)

    monkeypatch.setattr(Background, "stop", stopping)
    cache.close()
    assert waits == [False]
    assert threads() == 0


def test_the_end_of_the_process_waits_once_for_all_namespaces() -> None:
    """A master that has just fallen silent, and an invalidation of each namespace."""
    with Server.start("valkey") as server:
        caches = [Cache(server.url, namespace=f"late-{number}") for number in range(12)]
        for cache in caches:
            cache.set("key", 1)
        deployment = engine_of(caches[0]).deployment
        server.freeze()
        workers = [threading.Thread(target=cache.delete, args=("key",)) for cache in caches]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sum(cache.stats().pending for cache in caches) == 12
        began = time.monotonic()
        deployment.close()  # as at the exit
        took = time.monotonic() - began
        server.thaw()
        assert took < 4, "half a second for each"


def test_a_cache_that_is_opened_again_asks_anew_who_is_the_master(valkey: Server) -> None:
    """The collector may not run for hours, in which there may be another master."""
    cache = Cache(valkey.url, namespace="long-ago")
    with cache:
        cache.set("key", 1)
        before = engine_of(cache).deployment
    with cache:
        assert engine_of(cache).deployment is not before
        assert cache.get("key") == 1


def test_closing_is_quick(valkey: Server) -> None:
    began = time.monotonic()
    for number in range(10):
        with Cache(valkey.url, namespace=f"quick-{number}") as cache:
            cache.set("key", 1)
    assert time.monotonic() - began < 5, "a second for each"


@pytest.mark.parametrize("where", ["in a critical section", "on the thread of the background"])
def test_closing_from_inside_waits_for_nothing(where: str) -> None:
    """As a signal handler or a finalizer does that runs there; the master has just fallen silent."""
    with Server.start("valkey") as server:
        cache = Cache(server.url, namespace="inside")
        cache.set("key", 1)
        engine = engine_of(cache)
        server.freeze()
        assert cache.delete("key").queued
        took: list[float] = []

        def close() -> None:
            began = time.monotonic()
            cache.close()
            took.append(time.monotonic() - began)

        if where.startswith("in"):
            with engine.state.lock:
                close()
        else:
            engine.post(close)
        wait_for(lambda: took)
        server.thaw()
        assert took[0] < 0.4
        wait_for(lambda: threads() == 0)


def test_a_call_that_ends_while_the_cache_is_closed_disturbs_no_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server.start("valkey") as server:
        cache = Cache(server.url, namespace="spooled", spool=tmp_path / "spool")
        cache.set("key", 1)
        engine = engine_of(cache)
        server.freeze()
        assert cache.delete("key").queued
        assert cache.delete("other").queued
        dumps = json.dumps

        def acknowledged(*args: Any) -> str:
            engine.state.journal.pending.popitem()
            return dumps(*args)

        monkeypatch.setattr("evercache.engine.spool.json.dumps", acknowledged)
        cache.close()
        monkeypatch.undo()
        assert len((tmp_path / "spool").read_text().splitlines()) == 2
        server.thaw()


def test_closing_waits_for_no_jobs_that_were_never_begun(valkey: Server) -> None:
    with Cache(valkey.url, namespace="other") as other:
        other.set("key", 1)
        began = time.monotonic()
        for number in range(10):
            cache = Cache(valkey.url, namespace=f"brief-{number}")
            assert engine_of(cache).start()
            cache.close()
        assert time.monotonic() - began < 5, "a second for each"


def test_the_background_that_ends_takes_no_engine_of_the_next_one(valkey: Server) -> None:
    one, two = Cache(valkey.url, namespace="one"), Cache(valkey.url, namespace="two")
    one.set("key", 1)
    engine, next_engine = engine_of(one), engine_of(two)
    deployment, look = engine.deployment, engine.deployment._end_unneeded
    former, begun = deployment._background, threading.Event()

    def looking(*background: Any) -> Any:
        result = look(*background)
        if deployment._background is not former and not begun.is_set():
            begun.set()
            starter = threading.Thread(target=two.get, args=("key",))
            starter.start()
            wait_for(lambda: next_engine in deployment._started)
        return result

    loops: list[Any] = []
    jobs = next_engine.jobs
    next_engine.jobs = lambda: (loops.append(threading.get_ident()), jobs())[1]  # type: ignore[method-assign]
    deployment._end_unneeded = looking  # type: ignore[method-assign]
    del one, engine
    gc.collect()
    assert begun.wait(5)
    wait_for(lambda: loops)
    assert two.set("key", 2)
    assert two.get("key") == 2
    time.sleep(0.3)
    assert len(loops) == 1
    assert not next_engine.ended.is_set()
    two.close()


def test_caches_that_come_and_go_while_an_event_is_emitted(hasty: None) -> None:
    hub = EventHub()
    wrong: list[BaseException] = []
    end = time.monotonic() + 1.5

    def come_and_go() -> None:
        while time.monotonic() < end:
            some = [Subscribers() for _ in range(20)]
            for one in some:
                hub.attach(one)

    def emit() -> None:
        try:
            while time.monotonic() < end:
                hub.emit(events.UsedAfterClose("x"))
                hub._everybody()
                hub.flush(0.0)
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=target) for target in (come_and_go, come_and_go, emit)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_child_without_hooks_that_closes_first_leaves_the_parent_alone(valkey: Server) -> None:
    cache = Cache(valkey.url, namespace="closing-child")
    cache.set("key", 1)
    mine = connections(valkey.port)

    def child() -> None:
        began = time.monotonic()
        cache.close()
        assert time.monotonic() - began < 0.9, "it waited for a thread of the parent's"

    assert 0 in (forked(child, 5) for _ in range(4)), "see `forked`"
    assert cache.get("key") == 1
    assert connections(valkey.port) == mine
    cache.close()


def test_a_child_without_hooks_uses_no_lock_of_the_parent(valkey: Server) -> None:
    first = Cache(valkey.url, namespace="parent")
    first.set("key", 1)
    held, let_go = threading.Event(), threading.Event()
    unused = Cache(valkey.url, namespace="child")

    def hold() -> None:
        with connect._lock, first._lock, unused._lock, first._subscribers._lock:
            held.set()
            let_go.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        for work in (lambda: unused.set("key", 1), first.close, lambda: first.subscribe(print)):
            assert 0 in (forked(work, 5) for _ in range(4)), "see `forked`"
    finally:
        let_go.set()
        holder.join()
    first.close()


def test_a_copy_of_a_cache_is_the_cache(valkey: Server) -> None:
    cache = Cache(valkey.url, namespace="copied")
    cache.set("key", 1)
    for twin in (copy.copy(cache), copy.deepcopy({"extension": cache})["extension"]):
        assert twin is cache
    with pytest.raises(TypeError, match="Cache"):
        pickle.dumps(cache)
    cache.close()


def test_a_cache_opened_again_takes_the_fast_path(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is entered while another thread closes it."""
    cache = Cache(valkey.url, namespace="again")
    seen: list[Any] = []
    stop = cache.subscribe(seen.append)
    with cache:
        cache.set("key", 1)
    closing, go_on = threading.Event(), threading.Event()
    with cache, Cache(valkey.url, namespace="again") as other:
        cache.set("key", 1), other.set("key", 1)
        engine, leave = engine_of(cache), engine_of(cache).leave

        def leaving(user: Any) -> int:
            closing.set()
            go_on.wait(10)
            return leave(user)

        monkeypatch.setattr(engine, "leave", leaving)
        closer = threading.Thread(target=cache.close)
        closer.start()
        assert closing.wait(10)
        with cache:
            cache.set("key", 2)
            go_on.set()
            closer.join()
            assert cache._hot.sync is not None
            engine_of(cache).events.emit(events.UsedAfterClose("seen"))
            wait_for(lambda: any(getattr(event, "namespace", "") == "seen" for event in seen))
    stop()


def test_raw_clients_of_a_cache_opened_again_are_open(valkey: Server) -> None:
    cache = Cache(valkey.url, namespace="raw-again")

    async def lifespan() -> None:
        async with cache:
            await cache.amaster.set("raw-again", 2)
            assert await cache.amaster.get("raw-again") == b"2"

    for _ in range(2):
        with cache:
            cache.master.set("raw-again", 1)
            assert cache.master.get("raw-again") == b"1"
        asyncio.run(lifespan())


def test_a_connection_keeps_nothing_of_the_task_that_was_the_first_to_need_it(valkey: Server) -> None:
    """An application in a context variable would keep its cache, and so the connection, alive."""

    class Application:
        """As of Flask or Quart."""

    current: ContextVar[Application] = ContextVar("current")

    async def request(cache: Cache) -> weakref.ref[Application]:
        application = Application()
        current.set(application)
        await cache.aset("key", 1)
        assert await cache.aget("key") == 1
        return weakref.ref(application)

    async def serve() -> None:
        with Cache(valkey.url, namespace="context") as cache:
            application = await asyncio.create_task(request(cache))
            end = time.monotonic() + 5  # timers keep it for as long as the call had
            while application() is not None and time.monotonic() < end:
                await asyncio.sleep(0.1)
                gc.collect()
            assert application() is None

    asyncio.run(serve())


@pytest.mark.parametrize("mapping", ["an object that has no hash", "lists from a file"])
def test_an_address_map_that_cannot_be_compared_is_taken(valkey: Server, mapping: str) -> None:
    class Mapping:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, address: Address) -> Address:
            return address

    address_map: Any = Mapping() if mapping.startswith("an object") else {Address("shop", 1): ["localhost", 2]}
    with Cache(valkey.url, namespace="mapped", address_map=address_map) as cache:
        assert cache.set("key", 1)
        assert cache.get("key") == 1
