"""A process that nobody calls: what it asks its servers, and what it serves on its first call."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.engine.engine import Engine


@pytest.fixture(scope="module")
def whole() -> Iterator[Deployment]:
    with Deployment.start() as deployment:
        yield deployment


def engine_of(cache: Cache) -> Engine:
    clients = cache._find()
    assert clients is not None
    return clients.engine


def wait_idle(*caches: Cache) -> None:
    wait_for(lambda: all(engine_of(cache).state.idle for cache in caches), 20, "the process to be idle")


def connections(server: Server, name: str) -> dict[str, int]:
    """How many commands each connection of this name has sent."""
    found = {}
    for line in server.cli("CLIENT", "LIST").splitlines():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if facts.get("name") == name:
            found[facts["id"]] = int(facts["tot-cmds"])
    return found


def test_an_idle_process_asks_its_servers_seldom(whole: Deployment) -> None:
    servers = [*whole.nodes, *whole.sentinels]
    with Cache(f"{whole.url}?client_name=idler", namespace="seldom") as cache:
        cache.cached(lambda: 7, ttl=60, name="f")()
        wait_idle(cache)
        wait_for(lambda: engine_of(cache).deployment.idle, 20, "the deployment to be idle")
        before = [connections(server, "idler") for server in servers]
        began = time.monotonic()
        time.sleep(6.0)
        after = [connections(server, "idler") for server in servers]
        took = time.monotonic() - began
        assert engine_of(cache).state.idle
        assert engine_of(cache).state.sure_until < 0, "nothing that it heard counts"
        health = cache.health()
        assert health.ok, health.problems
    sent: Counter[str] = Counter()
    for all_before, all_after in zip(before, after, strict=True):
        for ident, count in all_after.items():
            sent["all"] += count - all_before.get(ident, 0)
    assert sum(map(len, after)) <= 8
    assert [len(found) for found in after[1:]] == [1] * 5, "one to each replica and to each sentinel"
    assert sent["all"] / took < 15, "62 before there was a difference between idle and in use"


def test_the_first_call_of_an_idle_process_is_not_stale(whole: Deployment) -> None:
    """Rule 14: the process reads the log now and then only, and still knows what was invalidated just now."""
    value = [0]
    with (
        Cache(whole.url, namespace="first", max_staleness=0.4) as idle,
        Cache(whole.url, namespace="first", max_staleness=0.4, gutter=0.0) as other,
    ):
        assert engine_of(idle) is not engine_of(other)
        read = idle.cached(lambda: value[0], ttl=60, near=60, name="f")
        change = other.cached(lambda: value[0], ttl=60, name="f")
        for number in range(1, 7):
            assert read() == value[0]
            read()
            wait_idle(idle)
            time.sleep(0.03 * number)
            value[0] = number
            assert change.invalidate()
            assert read() == number


def test_a_process_is_in_use_again_soon_after_its_first_call(whole: Deployment) -> None:
    with Cache(whole.url, namespace="again", max_staleness=0.4) as cache:
        read = cache.cached(lambda: 7, ttl=60, near=60, name="f")
        read()
        engine = engine_of(cache)
        wait_idle(cache)
        assert not engine.state.sure(engine.state.now())
        read()
        wait_for(lambda: engine.state.sure(engine.state.now()), 5, "the log to be heard again")
        before = read.stats().counters.near_hits
        read()
        assert read.stats().counters.near_hits == before + 1


def test_a_process_whose_calls_are_all_near_is_not_idle(whole: Deployment) -> None:
    with Cache(whole.url, namespace="near", max_staleness=0.25) as cache:
        read = cache.cached(lambda: 7, ttl=60, near=60, name="f")
        wait_for(lambda: read() == 7 and read.stats().counters.near_hits, 10, "a near hit")
        engine, was_idle = engine_of(cache), 0
        elsewhere = read.stats().counters.master_hits
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            was_idle += engine.state.idle
            read()
            time.sleep(0.002)
        assert not was_idle
        assert read.stats().counters.master_hits <= elsewhere + 1  # a busy machine may leave it blind for a moment


def test_under_strict_no_process_is_idle(whole: Deployment) -> None:
    """The master must be confirmed all the time, else the first call would compute."""
    with Cache(whole.url, namespace="strict", max_staleness=0.25, consistency="strict") as cache:
        cache.cached(lambda: 7, ttl=60, name="f")()
        time.sleep(1.5)
        assert not engine_of(cache).state.idle
