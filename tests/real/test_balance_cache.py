"""Reads over the replicas, command by command: the shares, a newcomer, a frozen one, one without its link."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.real.trouble_tools import MESSAGE, Site, reading
from tests.servers import Deployment, Server, wait_for

from evercache import Cache

BUDGET = 0.25
KEYS = 50


def gets(server: Server) -> int:
    """GETs that it has served."""
    line = server.info("commandstats").get("cmdstat_get", "calls=0")
    return int(line.split(",")[0].removeprefix("calls="))


def shares(servers: list[Server], before: list[int]) -> list[float]:
    """What each served of the GETs of all since `before`."""
    served = [gets(server) - was for server, was in zip(servers, before, strict=True)]
    return [count / max(1, sum(served)) for count in served]


@contextlib.contextmanager
def shop(deployment: Deployment, replicas: int, **options: Any) -> Iterator[tuple[Cache, Any]]:
    """A cache in front of the deployment, its entries on every replica, all of them in use."""
    with Cache(deployment.url, **options) as cache:
        page = Site().on(cache)
        for number in range(KEYS):
            page(number)

        def in_use() -> bool:
            return sum(node.use == "reads" for node in cache.health().nodes) == replicas

        wait_for(in_use, 5, "the replicas to be used")
        wait_for(lambda: _all_hits(cache, page), 5, "the entries to be on every replica")
        yield cache, page


def _all_hits(cache: Cache, page: Any) -> bool:
    before = cache.stats().counters.replica_hits
    for number in range(KEYS):
        page(number)
    return cache.stats().counters.replica_hits == before + KEYS


@pytest.fixture(scope="module")
def whole() -> Iterator[Deployment]:
    """A master and two replicas; nobody harms them."""
    with Deployment.start(replicas=2) as deployment:
        yield deployment


def test_one_thread_reads_both_replicas_evenly(whole: Deployment) -> None:
    calls = 2000
    with shop(whole, 2, hedge=0) as (cache, page):
        replicas, master = whole.replicas, whole.master()
        before, at_master = [gets(server) for server in replicas], gets(master)
        for call in range(calls):
            page(call % KEYS)
        for share in shares(replicas, before):
            assert 0.4 <= share <= 0.6
        assert sum(gets(s) for s in replicas) - sum(before) == calls, "one GET for each call"
        assert gets(master) == at_master
        assert cache.stats().counters.replica_failures == 0


@pytest.mark.parametrize("at_once", [1, 20])
async def test_tasks_read_both_replicas_evenly(whole: Deployment, at_once: int) -> None:
    async with Cache(whole.url) as cache:
        page = Site().aon(cache)
        await asyncio.gather(*(page(number) for number in range(KEYS)))

        async def all_used() -> bool:
            return sum(node.use == "reads" for node in (await cache.ahealth()).nodes) == 2

        while not await all_used():
            await asyncio.sleep(0.02)
        replicas = whole.replicas
        before = [gets(server) for server in replicas]

        async def reader(first: int) -> None:
            for call in range(1000 // at_once):
                await page((first + call) % KEYS)

        await asyncio.gather(*(reader(number) for number in range(at_once)))
        for share in shares(replicas, before):
            assert 0.25 <= share <= 0.75  # a node that the machine lets run less is asked less


def test_a_third_replica_takes_its_part() -> None:
    with Deployment.start(replicas=2) as deployment, shop(deployment, 2) as (_, page), reading(page, 1) as answers:
        third = deployment.add_replica()
        joined = time.monotonic()
        wait_for(lambda: gets(third) > 0, 2, "the first read at the newcomer", pause=0.01)
        assert time.monotonic() - joined < 1.5
        time.sleep(max(0.0, joined + 1.0 - time.monotonic()))  # its part is looked at in the second second
        replicas = deployment.replicas
        assert third in replicas
        found = []
        for _ in range(3):  # a node that the machine lets run less for a moment is asked less
            before = [gets(server) for server in replicas]
            for call in range(1500):
                page(call % KEYS)
            found.append(shares(replicas, before))
            assert len(found) > 1 or time.monotonic() - joined < 4
            if all(0.25 <= share <= 0.42 for share in found[-1]):
                break
        else:
            pytest.fail(f"the shares were {found}")
    assert answers.errors == []
    assert answers.slowest < BUDGET


@pytest.mark.parametrize("tasks", [pytest.param(False, marks=pytest.mark.long), True], ids=["thread", "task"])
def test_a_frozen_replica_takes_no_read_after_its_first_time_out(tasks: bool) -> None:
    with Deployment.start(replicas=2, down_after_ms=60_000) as deployment, shop(deployment, 2) as (cache, page):
        frozen, other = deployment.replicas
        call = Site().aon(cache, name="site.page") if tasks else page
        with reading(call, 1) as answers:
            wait_for(lambda: len(answers.all) > 20, what="reads")
            before, since = gets(frozen), time.monotonic()
            with frozen.frozen():
                time.sleep(1.5)
                until = time.monotonic()
                counters = cache.stats().counters
                assert counters.replica_failures <= 1 + counters.hedged, "one time-out beside the hedged"
            during = [a for a in answers.all if since < a[1] < until]
            slow = [ended - began for began, ended, _ in during if ended - began > 0.05]
            # On a busy machine a hedge comes late.
            assert len(slow) <= 2 + counters.hedged, "those that were hedged late, one that had no hedge left"
            assert max(slow, default=0) < BUDGET + MESSAGE
            assert len(during) > 100, "the other one serves"
            wait_for(lambda: gets(frozen) > before + 20, 5, "the thawed one to be used again")
        assert answers.errors == []
        assert answers.slowest < BUDGET + MESSAGE
        assert gets(other) > 0


def test_a_replica_without_its_link_is_not_read() -> None:
    """It answers, and quickly; but what it has grows old."""
    with (
        Deployment.start(replicas=2, replica_delays=[0.001], sentinels=1) as deployment,
        shop(deployment, 2) as (cache, page),
    ):
        alone = next(s for s in deployment.replicas if s is deployment.nodes[1])
        with reading(page, 1) as answers:
            deployment.proxies[0].cut()
            cut = time.monotonic()

            def told() -> bool:
                return any(
                    node.address == str(alone.address) and "link to the master is down" in node.use
                    for node in cache.health().nodes
                )

            wait_for(told, 3, "the broken link to be seen")
            assert time.monotonic() - cut < 2
            before = gets(alone)
            for call in range(300):
                page(call % KEYS)
            assert gets(alone) == before
            # What is changed meanwhile is seen at once, of course.
            assert page.invalidate_all()
            deployment.proxies[0].heal()
            wait_for(lambda: gets(alone) > before, 10, "the healed one to be used again")
        assert answers.errors == []
        assert answers.slowest < BUDGET
