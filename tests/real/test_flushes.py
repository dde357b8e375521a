"""`FLUSHALL`, again and again: the first call after each stores its value, in one process and in many."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from tests.nursery import Program
from tests.servers import Server, wait_for

from evercache import Cache

#: Hits return in every process this long after a flush (seconds).
BACK = 0.3
#: For what a busy machine of two cores needs beyond that, with this many processes on it (seconds).
SLACK = {8: 0.3, 32: 0.9}

#: One process of a fleet: for each line it calls a function for that key until a call is a hit, and tells the time.
#: `flush` empties the server first; the last line is answered with what was logged.
MEMBER = """
import json, logging, sys, time
import redis
from evercache import Cache

lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("evercache").addHandler(Keep())
logging.getLogger("evercache").setLevel(logging.WARNING)
ran = 0
cache = Cache(sys.argv[1], budget=1.0)
@cache.cached(ttl=600, name="page")
def page(key):
    global ran
    ran += 1
    return {"key": key}
page(0)
page.invalidate_all()
lines.clear()
print("ready", flush=True)
for line in sys.stdin:
    if line == "log\\n":
        print(json.dumps(lines), flush=True)
        continue
    if line == "flush\\n":
        redis.Redis.from_url(sys.argv[1]).flushall()
        print("flushed", flush=True)
        continue
    began, before, key = time.monotonic(), -1, int(line)
    while before != ran and time.monotonic() < began + 5:
        before = ran
        page(key)
        time.sleep(0.001)
    print(json.dumps(time.monotonic() - began), flush=True)
"""


@pytest.fixture(scope="module")
def default_budget() -> float:
    """As a page has it: a process that is late to learn of a flush must not use it up."""
    return 0.25


#: Rounds of a flush and a call, and how long after each (seconds, on average). A process learns of one within a
#: quarter of a second, so that a quick series is one to it, and a slow one sets off a resync each time.
PACES = [(500, 0.0), pytest.param(60, 0.05, marks=pytest.mark.long)]


@pytest.mark.parametrize(("rounds", "pace"), PACES)
@pytest.mark.parametrize("how", ["never marked", "marked", "marked each time", "by this process"])
@pytest.mark.parametrize("tasks", [False, True], ids=["thread", "task"])
def test_what_is_computed_after_a_flush_is_stored(
    valkey: Server, tasks: bool, how: str, rounds: int, pace: float
) -> None:
    """Each value is stored at the first try, whatever the process knew and however it learns of the flush."""
    ran, missing, rng = 0, 0, random.Random(rounds)

    def page(number: int) -> int:
        nonlocal ran
        ran += 1
        return number

    async def apage(number: int) -> int:
        return page(number)

    def before(number: int, cache: Cache) -> None:
        admin.flushall()
        if how == "by this process":
            engine_of(cache).flushed()

    def after(number: int, key: str) -> None:
        nonlocal missing
        missing += not admin.exists(key)
        time.sleep(pace * 2 * rng.random())

    async def in_tasks() -> None:
        async with Cache(valkey.url) as cache:
            f: Any = cache.cached(ttl=600, name="site.page")(apage)
            await f(-1)
            if how != "never marked":
                await f.ainvalidate_all()
            for number in range(rounds):
                if how == "marked each time":
                    await f.ainvalidate(number)
                before(number, cache)
                assert await f(number) == number
                after(number, f.key(number))

    def in_a_thread() -> None:
        with Cache(valkey.url) as cache:
            f: Any = cache.cached(ttl=600, name="site.page")(page)
            f(-1)
            if how != "never marked":
                f.invalidate_all()
            for number in range(rounds):
                if how == "marked each time":
                    f.invalidate(number)
                before(number, cache)
                assert f(number) == number
                after(number, f.key(number))

    with redis.Redis(port=valkey.port) as admin:
        if tasks:
            asyncio.run(in_tasks())
        else:
            in_a_thread()
    assert missing == 0, f"{missing} of {rounds} were not stored"
    assert ran == rounds + 1


def test_a_value_stored_after_a_flush_is_a_hit(valkey: Server) -> None:
    """Also while the process learns that all it knew is gone."""
    ran = 0
    with redis.Redis(port=valkey.port) as admin, Cache(valkey.url) as cache:

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            nonlocal ran
            ran += 1
            return number

        page(-1)
        page.invalidate_all()
        for number in range(200):
            admin.flushall()
            for _ in range(3):
                assert page(number) == number
            time.sleep(0.001 * (number % 7))
    assert ran == 201


@contextmanager
def members(url: str, count: int) -> Iterator[list[Program]]:
    """That many processes of one fleet, which have all begun."""
    with ExitStack() as stack:
        fleet = [Program(MEMBER, url, imports=("redis",), stderr=subprocess.DEVNULL) for _ in range(count)]
        for one in fleet:
            stack.callback(one.communicate, timeout=20)
            stack.callback(one.kill)
        for one in fleet:
            assert one.stdout.readline() == "ready\n"
        yield fleet


def told(fleet: list[Program], what: str) -> list[Any]:
    """What each of them answers, when all were told this at once."""
    for one in fleet:
        one.stdin.write(what + "\n")
        one.stdin.flush()
    return [json.loads(one.stdout.readline()) for one in fleet]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [8, 32])
def test_hits_return_in_a_fleet(valkey: Server, count: int) -> None:
    """In every round, and nobody's log fills with them."""
    rounds = 20
    times: list[float] = []
    with members(valkey.url, count) as fleet:
        time.sleep(1.0)
        for number in range(rounds):
            flusher = fleet[number % count]
            flusher.stdin.write("flush\n")
            flusher.stdin.flush()
            assert flusher.stdout.readline() == "flushed\n"
            times += told(fleet, str(number % 3))
        logs = told(fleet, "log")
    most = max(len([line for line in lines if "was gone" in line]) for lines in logs)
    figures = f"{count} processes: hits after {max(times):.3f} s at most, {statistics.median(times):.3f} s usually"
    print(f"{figures}; {most} lines in a log", file=sys.stderr)
    assert max(times) < BACK + SLACK[count], figures
    assert most == 1, logs


def test_a_flush_between_the_lease_and_the_store(valkey: Server) -> None:
    """The value is not stored, since its lease is gone; the next call's is."""
    with redis.Redis(port=valkey.port) as admin, Cache(valkey.url) as cache:
        flush = True

        @cache.cached(ttl=600)
        def page(number: int) -> int:
            if flush:
                admin.flushall()
            return number

        page(-1)
        page.invalidate_all()
        for number in range(50):
            flush = True
            assert page(number) == number
            flush = False
            assert page(number) == number
            assert admin.exists(page.key(number)), number


def test_a_log_that_is_evicted_all_the_time_does_not_load_the_master(valkey: Server) -> None:
    """Each eviction wants all read anew; a process that nobody waits in spends a small part of its time on that."""
    with redis.Redis(port=valkey.port) as admin, Cache(valkey.url) as cache:
        page: Any = cache.cached(ttl=600, name="site.page")(lambda number: number)
        page(1)
        page.invalidate_all()
        wait_for(lambda: cache.health().ok, 5)
        time.sleep(1.2)
        before = engine_of(cache).state.resyncs
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            admin.delete("evercache~log", "evercache~state")
            time.sleep(0.002)
        done = engine_of(cache).state.resyncs - before
    print(f"{done} resyncs in 3 s")
    assert done <= 3 * 40


def engine_of(cache: Cache) -> Any:
    """Its engine."""
    clients = cache._find()
    assert clients is not None
    return clients.engine
