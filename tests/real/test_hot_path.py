"""Hits of the code that is made for a function, on real servers that are ill-treated while they are read."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.real.trouble_tools import MESSAGE, Site, timed, warm
from tests.servers import DelayProxy, Server, wait_for

from evercache import Cache

BUDGET = 0.25


@pytest.fixture(params=[0, 30], ids=["store", "near"])
def near(request: pytest.FixtureRequest) -> int:
    seconds: int = request.param
    return seconds


@contextlib.contextmanager
def caches(*urls: str, **options: Any) -> Iterator[list[Cache]]:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Cache(url, **{"budget": BUDGET, "beta": 0, **options})) for url in urls]
        for cache in opened:
            warm(cache)
        yield opened


def is_hot(page: Any, *args: Any) -> None:
    """The next calls are answered by the hot path."""
    assert "__find" in page.explain_code()
    wait_for(lambda: _hits(page, *args), what="hits")


def _hits(page: Any, *args: Any) -> bool:
    before = page.stats().counters.hits
    page(*args)
    return bool(page.stats().counters.hits == before + 1)


def test_each_way_to_invalidate_is_seen_here_at_once_and_there_soon(valkey: Server, near: int) -> None:
    site = Site()
    with caches(valkey.url, valkey.url) as (one, other):
        mine, others = site.on(one, near=near), site.on(other, near=near)
        ways: list[Callable[[], Any]] = [
            lambda: mine.invalidate(1),
            mine.invalidate_all,
            lambda: one.invalidate_tag("page:1"),
            one.clear,
            lambda: mine.refresh(1),
        ]
        for way in ways * 3:
            for page in (mine, others):
                is_hot(page, 1)
            version = site.change()
            way()
            assert mine(1) == version
            if way != ways[-1]:  # what is only computed anew outdates nothing
                wait_for(lambda v=version: others(1) == v, 5 * MESSAGE, "the other one to hear")  # type: ignore[misc]
            else:
                mine.invalidate(1)
                wait_for(lambda v=version: others(1) == v, 5 * MESSAGE, "the other one to hear")  # type: ignore[misc]


def test_an_invalidation_wins_against_whoever_puts_near(valkey: Server) -> None:
    """Eight threads read and keep; after an acknowledged invalidation nobody gets what was before it."""
    site, over, wrong = Site(), threading.Event(), []
    with caches(valkey.url) as (cache,):
        page = site.on(cache, near=30)
        known = [0]

        def read() -> None:
            while not over.is_set():
                least = known[0]
                got = page(1)
                if got < least:
                    wrong.append((got, least))

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(150):
            version = site.change()
            page.invalidate(1)
            known[0] = version
            time.sleep(random.random() * 0.004)
        over.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert page.stats().counters.near_hits > 100


def test_near_stays_within_its_bytes_under_churn(valkey: Server) -> None:
    limit = 200_000
    with caches(valkey.url, near_bytes=limit) as (cache,):

        @cache.cached(near=30, tags=("t:{extra}",), ignore=("extra",))
        def f(n: int, extra: str) -> list[str]:
            return ["x" * (n % 700)] * 3

        held: list[int] = []

        def churn(seed: int) -> None:
            rng = random.Random(seed)
            for turn in range(250):
                n = rng.randrange(300)
                value = f(n, "y" * rng.choice((1, 1, 1, 3000)))
                assert value == ["x" * (n % 700)] * 3
                value.append("spoilt")
                if turn % 50 == 49:
                    f.invalidate(n, "y")
                held.append(cache.stats().near_bytes)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(churn, range(8)))
        assert 0 < max(held) <= limit
        state = cache._clients.engine.state  # type: ignore[union-attr]
        assert state.near.size == sum(entry.cost for entry in state.near._entries.values())
        assert len(state.near._by_arguments) <= len(state.near)


def test_the_ttl_and_cached_errors_hold_on_the_hot_path(valkey: Server, near: int) -> None:
    with caches(valkey.url, jitter=0) as (cache,):
        runs: list[int] = []

        @cache.cached(ttl=lambda value: 0.4 if value else 60, ttl_if_none=0.4, near=near)
        def f(n: int) -> int | None:
            runs.append(n)
            return n or None

        @cache.cached(cache_errors={LookupError: 0.4}, near=near)
        def fails(n: int) -> int:
            runs.append(n)
            raise LookupError(f"no {n}")

        for argument in (1, 0):
            del runs[:]
            end = time.monotonic() + 0.35
            while time.monotonic() < end:
                assert f(argument) == (argument or None)
                time.sleep(0.001)
            assert runs == [argument]
            time.sleep(0.15)
            assert f(argument) == (argument or None)
            assert runs == [argument] * 2
        del runs[:]
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            with pytest.raises(LookupError, match="no 7"):
                fails(7)
            time.sleep(0.001)
        assert runs == [7]
        time.sleep(0.25)
        with pytest.raises(LookupError, match="no 7"):
            fails(7)
        assert runs == [7, 7]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_late_answers_go_to_nobody_else_and_the_budget_holds(valkey: Server, kind: str) -> None:
    """The link is slower than a node's share of the budget at times; every value is its argument's own."""
    with DelayProxy(valkey.port) as proxy, caches(f"valkey://127.0.0.1:{proxy.port}", budget=0.1) as (cache,):
        plain = cache.cached(lambda n: f"value {n}")

        async def coroutine(n: int) -> str:
            return f"value {n}"

        tasks = cache.cached(coroutine)
        slowest = 0.0

        def once(n: int) -> None:
            nonlocal slowest
            value, took = timed(plain, n)
            assert value == f"value {n}"
            slowest = max(slowest, took)

        async def turns() -> None:
            nonlocal slowest
            for turn in range(40):
                proxy.set_delay((0.0, 0.02, 0.038, 0.045, 0.2)[turn % 5])
                began = time.monotonic()
                assert await asyncio.gather(*map(tasks, range(8))) == [f"value {n}" for n in range(8)]
                slowest = max(slowest, time.monotonic() - began)

        if kind == "tasks":
            asyncio.run(turns())
        else:
            with ThreadPoolExecutor(8) as pool:
                for turn in range(40):
                    proxy.set_delay((0.0, 0.02, 0.038, 0.045, 0.2)[turn % 5])
                    list(pool.map(once, range(8)))
        proxy.set_delay(0.0)
        assert slowest < 0.1 + 0.3, "the budget, and what a busy machine takes"


def test_a_frozen_server_costs_each_call_its_budget_at_most(valkey: Server, near: int) -> None:
    with Server.start("valkey") as own, caches(own.url) as (cache,):
        page = Site().on(cache, near=near)
        is_hot(page, 1)
        with own.frozen():
            for _ in range(12):
                value, took = timed(page, 1)
                assert value == 0
                assert took < BUDGET + 0.2
        wait_for(lambda: _hits(page, 1), what="hits after the thaw")


def test_connections_that_are_killed_and_passwords_that_change_reach_no_caller(near: int) -> None:
    with Server.start("valkey", password="first") as own, caches(own.url) as (cache,):
        page = Site().on(cache, near=near)
        is_hot(page, 1)
        for turn in range(20):
            own.cli("CLIENT", "KILL", "TYPE", "normal")
            time.sleep(0.003 * (turn % 3))
            assert page(1) == 0
        own.cli("CONFIG", "SET", "requirepass", "second")
        own.password = "second"
        own.cli("CLIENT", "KILL", "TYPE", "normal")
        for _ in range(10):
            assert page(1) == 0
        own.cli("CONFIG", "SET", "requirepass", "first")
        own.password = "first"
        wait_for(lambda: _hits(page, 1), what="hits under the old password")


def test_a_foreign_or_damaged_value_under_the_key_is_a_miss(valkey: Server) -> None:
    with caches(valkey.url) as (cache,):
        page = Site().on(cache)
        page(1)
        whole: bytes = valkey.cli("GET", page.key(1), decode=False)
        bad = [whole[:n] for n in range(0, len(whole), 5)]
        bad += [bytes([*whole[:n], whole[n] ^ 0xFF, *whole[n + 1 :]]) for n in range(len(whole))]
        for data in bad:
            valkey.cli("SET", page.key(1), data)
            assert page(1) == 0
        valkey.cli_many([("DEL", page.key(1)), ("RPUSH", page.key(1), "a")])
        assert page(1) == 0


def test_through_a_unix_socket_that_goes_and_comes(near: int) -> None:
    with Server.start("valkey") as own:
        path = str(own.dir / "s")
        own.stop()
        with (own.dir / "server.conf").open("a") as config:
            config.write(f'unixsocket "{path}"\n')
        own.restart()
        with caches(f"unix://{path}") as (cache,):
            page = Site().on(cache, near=near)
            is_hot(page, 1)
            own.stop()
            for _ in range(5):
                value, took = timed(page, 1)
                assert value == 0
                assert took < BUDGET + 0.2
            own.restart()
            wait_for(lambda: _hits(page, 1), what="hits after the restart")
