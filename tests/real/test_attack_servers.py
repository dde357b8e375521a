"""Attacks that need a real server: frozen masters, refused logs, foreign values, forks, processes that end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.servers import DelayProxy, Server, wait_for

from evercache import Cache
from evercache.client.serving import NOT_ASKED
from evercache.ops.stalls import Stalls

BUDGET = 0.25
#: What a call may take longer on a busy machine of two cores before it counts as over its budget.
GRACE = 0.1


@pytest.fixture(scope="module")
def default_budget() -> float:
    return BUDGET


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """A master and a replica in sync."""
    with Server.start() as master, Server.start(replica_of=master) as replica:
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up", what="the link")
        yield master, replica


def pair_url(pair: tuple[Server, Server]) -> str:
    return f"{pair[0].url}?replicas=127.0.0.1:{pair[1].port}"


def engine_of(cache: Cache) -> Any:
    client = cache._client_sync()
    assert client is not None
    return client.engine


def serves(cache: Cache) -> bool:
    """Whether the tail is sure and a replica serves reads."""
    engine = engine_of(cache)
    engine.start()
    now = engine.state.now()
    return bool(engine.state.sure(now) and engine.replicas.admitted(engine.state.tau, now, 10.0))


def test_promises_2_and_3_a_queued_tag_is_obeyed_while_only_a_replica_serves(pair: tuple[Server, Server]) -> None:
    """The tag stands in the envelope alone: it came from the result."""
    versions = iter(range(1000))
    with Cache(pair_url(pair), namespace="tags", beta=0) as cache:

        @cache.cached(ttl=600, tags_from=lambda value: ("x",))
        def page(number: int) -> int:
            return next(versions)

        wait_for(lambda: serves(cache), what="a replica that serves")
        first = page(1)
        wait_for(lambda: page.explain(1).node == "replica", what="a hit at the replica")
        assert page(1) == first
        with pair[0].frozen():
            ack = cache.invalidate_tag("x")
            assert ack.queued
            assert engine_of(cache).state.master_down
            assert page(1) > first
        wait_for(lambda: not engine_of(cache).state.journal.pending, what="the tag to be brought")
        assert page(1) > first


@pytest.mark.parametrize("threads", [1, 16])
def test_promise_1_a_master_frozen_at_any_moment_costs_no_more_than_the_budget(
    pair: tuple[Server, Server], threads: int
) -> None:
    """Hits, fills and invalidations of many threads; the function's own time is taken off."""
    master, _ = pair
    slowest: list[tuple[float, str]] = []
    errors: list[BaseException] = []
    own = threading.local()
    stop = threading.Event()
    with Cache(pair_url(pair), namespace=f"frozen{threads}") as cache:

        @cache.cached(ttl=600, tags=("t:{number}",))
        def page(number: int) -> int:
            began = time.monotonic()
            time.sleep(0.01)
            own.time = getattr(own, "time", 0.0) + time.monotonic() - began
            return number

        wait_for(lambda: serves(cache), what="a replica that serves")

        def call(name: str, fn: Callable[[], Any]) -> None:
            own.time = 0.0
            began = time.monotonic()
            try:
                fn()
            except BaseException as error:
                errors.append(error)
            slowest.append((stalls.without(began, time.monotonic()) - own.time, name))

        def work(seed: int) -> None:
            number = seed
            while not stop.is_set():
                number = (number * 7 + 1) % 1000
                call("read", lambda n=number % 20: page(n))  # type: ignore[misc]
                call("miss", lambda n=number + 1000 * seed + 20: page(n))  # type: ignore[misc]
                if number % 5 == 0:
                    call("invalidate", lambda n=number % 20: page.invalidate(n))  # type: ignore[misc]
                    call("tag", lambda n=number % 20: cache.invalidate_tag(f"t:{n}"))  # type: ignore[misc]
                    call("set_many", lambda n=number: cache.set_many({f"k{n}": 1, "x": 2}))  # type: ignore[misc]
                    call("get_many", lambda: cache.get_many(["x", "y"]))
                time.sleep(0.002)

        pool = ThreadPoolExecutor(threads)
        with Stalls() as stalls:
            jobs = [pool.submit(work, seed) for seed in range(threads)]
            try:
                time.sleep(0.3)
                with master.frozen():
                    time.sleep(1.2)
                time.sleep(0.3)
            finally:
                stop.set()
                pool.shutdown()
        for job in jobs:
            job.result()
    assert errors == []
    # Who joins a computation waits for it as well: that is the function's own time, of another thread.
    assert max(slowest)[0] < BUDGET + 0.01 * 4 + GRACE, sorted(slowest)[-5:]


def test_promise_1_a_half_open_link_costs_no_more_than_the_budget(pair: tuple[Server, Server]) -> None:
    """Bytes are taken and lost: connections stay, nothing answers."""
    with (
        DelayProxy(pair[0].port) as proxy,
        Cache(f"redis://127.0.0.1:{proxy.port}", namespace="halfopen") as cache,
    ):

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            return number

        page(1)
        proxy.half_open()
        took = []
        with Stalls() as stalls:
            for number in range(8):
                began = time.monotonic()
                assert page(number) == number
                took.append(stalls.without(began, time.monotonic()))
        assert max(took) < BUDGET + GRACE, took
        assert sum(took[2:]) < BUDGET, "once it is known to be down nobody waits for it"
        proxy.heal()
        wait_for(lambda: cache.set("k", 1), what="the master to be used again")


def test_a_caller_in_a_hurry_does_not_call_the_master_down(pair: tuple[Server, Server]) -> None:
    """Its own budget is shorter than the way there; the others go on as before."""
    with (
        DelayProxy(pair[0].port, 0.01) as proxy,
        Cache(f"redis://127.0.0.1:{proxy.port}", namespace="hurry", beta=0) as cache,
    ):

        @cache.cached(ttl=600, budget=0.005)
        def hurried(number: int) -> int:
            return number

        @cache.cached(ttl=600)
        def patient(number: int) -> int:
            return number

        wait_for(lambda: cache.stamp() is not None, what="the master to be followed")
        assert patient(1) == 1
        assert engine_of(cache).state.sure(engine_of(cache).state.now())
        for number in range(20):
            assert hurried(number) == number
            assert not engine_of(cache).state.master_down
            assert patient(1) == 1
        assert patient.stats().counters.computed == 1


def test_rule_14_a_master_that_refuses_the_log_is_blind_not_down(pair: tuple[Server, Server]) -> None:
    """The replicas must not serve for it: nobody would hear what others invalidate."""
    master, replica = pair
    for server in pair:
        server.cli("ACL", "SETUSER", "deaf", "on", ">p", "~*", "&*", "+@all", "-xread")
    url = f"redis://deaf:p@127.0.0.1:{master.port}?replicas=127.0.0.1:{replica.port}"
    values = iter(range(1000))
    with Cache(url, namespace="deaf", beta=0) as deaf, Cache(pair_url(pair), namespace="deaf") as other:

        def make(cache: Cache) -> Any:
            return cache.cached(ttl=600, name="deaf.page")(lambda number: next(values))

        mine, theirs = make(deaf), make(other)
        wait_for(lambda: engine_of(deaf).start() and engine_of(deaf).state.ready, what="the resync")
        wait_for(lambda: mine(1) == mine(1), what="a value that is cached by way of the master")
        for _ in range(10):
            old = mine(1)
            assert theirs.invalidate(1)
            assert mine(1) > old
        assert mine.stats().counters.replica_hits == 0


def test_a_foreign_value_under_a_key_takes_no_replica_out_of_service(pair: tuple[Server, Server]) -> None:
    with Cache(pair_url(pair), namespace="foreign", beta=0) as cache:

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            return number

        wait_for(lambda: serves(cache), what="a replica that serves")
        pair[0].cli("RPUSH", page.key(1), "not ours")
        wait_for(lambda: pair[1].cli("EXISTS", page.key(1)), what="the replica to have it")
        failures = page.stats().counters.replica_failures
        assert page(1) == 1
        assert page.stats().counters.replica_failures == failures
        assert serves(cache)
        assert page.invalidate(1)
        assert page(1) == 1
        wait_for(lambda: page.peek(1) == 1, what="the value in its place")


def test_rule_13_an_invalidated_or_unrenewed_computation_is_not_taken_for_one_that_starves(
    pair: tuple[Server, Server],
) -> None:
    """Its later leases stay one second long, so that a killed holder costs its waiters no more."""
    with Cache(pair_url(pair), namespace="starved") as cache:
        computing = threading.Event()

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            computing.set()
            time.sleep(1.7)
            return number

        wait_for(lambda: serves(cache), what="a replica that serves")
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(page, 1)
            assert computing.wait(5)
            assert page.invalidate(1)  # takes the lease away
            assert job.result() == 1
            assert page._core.usual.lease == 1.0
            computing.clear()
            job = pool.submit(page, 2)
            assert computing.wait(5)
            with pair[0].frozen():  # nothing can be renewed
                time.sleep(1.3)
            assert job.result() == 2
        assert page._core.usual.lease == 1.0


def test_rule_13_a_function_that_holds_the_interpreter_gets_longer_leases(valkey: Server) -> None:
    with Cache(valkey.url, namespace="gil") as cache:

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            # The interpreter changes threads at the end of this only.
            interval = sys.getswitchinterval()
            sys.setswitchinterval(30)
            try:
                end = time.monotonic() + 1.3
                while time.monotonic() < end:
                    pass
            finally:
                sys.setswitchinterval(interval)
            return number

        assert page(1) == 1
        assert page._core.usual.lease > 2.5


def script(code: str, *arguments: str, timeout: float = 20.0) -> tuple[str, float]:
    """Run a program in a process of its own: what it printed, and how long it took after its last word."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "end\n":
                break
        began = time.monotonic()
        rest, errors = process.communicate(timeout=timeout)
        assert process.returncode == 0, errors
        return "".join(lines) + rest + errors, time.monotonic() - began
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_a_process_does_not_wait_for_its_background_refreshes_to_end(valkey: Server) -> None:
    said, took = script(
        """
        import sys, time
        from evercache import Cache

        cache = Cache(sys.argv[1], namespace="exit", jitter=0)
        quick = [True]

        @cache.cached(ttl=0.1, stale=60)
        def page(number):
            if not quick[0]:
                time.sleep(30)
            return number

        for number in range(10):
            page(number)
        quick[0] = False
        time.sleep(0.15)
        for number in range(10):
            assert page(number) == number
        time.sleep(0.1)
        print("end", flush=True)
        """,
        valkey.url,
    )
    assert took < 5, said


def test_a_fork_while_other_threads_hold_every_lock(valkey: Server) -> None:
    """Threads hammer the cache, and hold the locks that live across calls, while children are made."""
    said, _ = script(
        """
        import os, signal, sys, threading, time
        from evercache import Cache

        cache = Cache(sys.argv[1], namespace="fork", budget=2.0)  # no lock is waited for; servers are
        stop = threading.Event()

        @cache.cached(ttl=60, near=1, tags=("t",))
        def page(number):
            return number

        def hammer(seed):
            while not stop.is_set():
                page(seed % 50)
                page.invalidate(seed % 50)
                cache.set("k", seed)
                seed += 7

        def child(held=None):
            pid = os.fork()
            if pid == 0:
                signal.alarm(8)
                try:
                    for number in range(30):
                        assert page(number) == number
                        assert cache.set("child", number)
                        assert page.invalidate(number)
                    os._exit(0)
                except BaseException as error:
                    print("child:", repr(error), flush=True)
                    os._exit(1)
            return os.waitpid(pid, 0)[1]

        fresh = Cache(sys.argv[1], namespace="fork2")
        cached = fresh.cached(lambda number: number)
        with fresh._lock:  # another thread is making the clients
            pid = os.fork()
            if pid == 0:
                signal.alarm(8)
                os._exit(0 if cached(1) == 1 else 1)
        print("first use:", os.waitpid(pid, 0)[1], flush=True)

        threads = [threading.Thread(target=hammer, args=(seed,), daemon=True) for seed in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        engine = cache._client_sync().engine
        codes = [child() for _ in range(4)]
        with engine.state.lock:
            codes.append(child())
        with engine.deployment.lock:
            codes.append(child())
        with engine.events._lock:
            codes.append(child())
        stop.set()
        print("codes:", codes, flush=True)
        """,
        valkey.url,
        timeout=50,
    )
    assert "first use: 0" in said, said
    assert "codes: [0, 0, 0, 0, 0, 0, 0]" in said, said


async def test_promise_1_tasks_while_every_node_is_frozen(pair: tuple[Server, Server]) -> None:
    """Nobody can say anything: each call ends in time, and most at once."""
    master, replica = pair
    async with Cache(pair_url(pair), namespace="tasks") as cache:

        @cache.cached(ttl=600)
        async def page(number: int) -> int:
            return number

        await page(1)
        await asyncio.to_thread(wait_for, lambda: serves(cache))
        took: list[float] = []

        async def reader(seed: int) -> None:
            for number in range(12):
                began = time.monotonic()
                assert await page(seed * 3 + number % 6) == seed * 3 + number % 6
                took.append(stalls.without(began, time.monotonic()))
                await asyncio.sleep(0.03)

        with Stalls() as stalls, master.frozen(), replica.frozen():
            await asyncio.gather(*(reader(seed) for seed in range(24)))
        assert max(took) < BUDGET + GRACE, sorted(took)[-5:]
        assert sorted(took)[len(took) // 2] < 0.02


def test_rule_3_a_failover_learnt_between_the_answer_and_the_acknowledgement(valkey: Server) -> None:
    """The caller's thread sleeps on the answer of a life of the data that ends meanwhile, with the mark in it."""
    with Server.start() as server, Cache(server.url, namespace="late") as cache:

        @cache.cached(ttl=600, tags=("earlier", "late"))
        def page(number: int) -> int:
            return number

        page(1)
        assert cache.invalidate_tag("earlier")  # the bookkeeping exists now
        writes: Any = cache._client_sync().writes  # type: ignore[union-attr]
        state = engine_of(cache).state
        run_many = writes._link.run_many
        generation = state.generation

        def overtaken(*args: Any, **more: Any) -> Any:
            replies = run_many(*args, **more)
            server.wipe()
            wait_for(lambda: state.ready and state.generation != generation, what="the next life")
            return replies

        writes._link.run_many = overtaken
        assert cache.invalidate_tag("late")
        writes._link.run_many = run_many
        wait_for(
            lambda: server.cli("XLEN", "late~log") >= 2 and not state.journal.pending,
            what="both to be issued again",
        )


@pytest.mark.parametrize("many", [False, True])
def test_rule_2_an_answer_of_the_master_that_an_invalidation_overtakes(valkey: Server, many: bool) -> None:
    """The master looked at its marks, and then its answer was on the way: it is held against those heard since."""
    with Cache(valkey.url, namespace="overtaken") as cache:
        assert cache.set("k", "old")
        client: Any = cache._client_sync()
        reads = client.operations._reads
        run_many = reads._link.run_many

        def overtaken(*args: Any, **more: Any) -> Any:
            replies = run_many(*args, **more)
            reads._link.run_many = run_many
            assert cache.delete("k")
            return replies

        client.operations._hits.get = lambda *args: NOT_ASKED
        reads.look_many = lambda subjects, *args: [None] * len(subjects)
        reads._link.run_many = overtaken
        assert (cache.get_many(["k"]).get("k") if many else cache.get("k")) is None


def test_rule_13_who_gave_up_leaves_no_lease_that_a_thawing_master_grants(pair: tuple[Server, Server]) -> None:
    """The lease is granted when nobody computes any more: the next caller must not wait for its end."""
    with Cache(pair_url(pair), namespace="thaw", beta=0) as cache:

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            return number

        wait_for(lambda: serves(cache), what="a replica that serves")
        assert page(1) == 1  # there is a connection to the master now, on which the question is sent
        with pair[0].frozen():
            assert page(2) == 2
        wait_for(lambda: pair[0].cli("PING"), what="the thaw")
        wait_for(lambda: not engine_of(cache).state.master_down, what="the master to be heard", pause=0.005)
        with Stalls() as stalls:
            began = time.monotonic()
            assert page(2) == 2
            assert stalls.without(began, time.monotonic()) < BUDGET + GRACE
