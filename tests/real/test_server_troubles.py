"""A server that is flushed, wiped, restarted or full: nothing stale, and no error at the caller."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from tests.real.trouble_tools import MESSAGE, Site, acknowledged, heard, position, reading, sees, timed, warm
from tests.servers import CliError, Server, wait_for
from tests.unit.call_tools import parts

from evercache import Cache
from evercache.engine import tail
from evercache.errors import OutOfMemory

BUDGET = 0.25


def invalidate(cache: Cache, page: Any, how: str) -> Any:
    """In one of four ways."""
    match how:
        case "key":
            return page.invalidate(1)
        case "tag":
            return cache.invalidate_tag("page:1")
        case "function":
            return page.invalidate_all()
        case _:
            return cache.clear()


@pytest.mark.parametrize("near", [0, 5])
@pytest.mark.parametrize("tasks", [False, True], ids=["thread", "task"])
def test_flushes_between_invalidations(valkey: Server, tasks: bool, near: float) -> None:
    """FLUSHALL, FLUSHDB and SCRIPT FLUSH by somebody else, while one edits and another reads."""
    rng = random.Random(3 + tasks)
    site = Site()
    flushes = [("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FLUSHDB", "ASYNC")]
    acknowledged: list[tuple[float, int]] = []
    with Cache(valkey.url) as one, Cache(valkey.url) as two:
        page = site.on(one, near=near)
        other = site.aon(two, near=near) if tasks else site.on(two, near=near)
        with reading(other, 1) as answers:
            for number in range(30):
                how = rng.choice(["key", "tag", "function", "everything"])
                if rng.random() < 0.5:
                    valkey.cli(*flushes[number % 3])
                version = site.change()
                assert invalidate(one, page, how), "a flushed server takes invalidations"
                acknowledged.append((time.monotonic(), version))
                if rng.random() < 0.3:
                    valkey.cli(*flushes[number % 2])
                assert page(1) == version
                time.sleep(rng.uniform(0, 0.06))
    assert answers.errors == []
    # A line that is flushed before it was read is noticed when a read of the log ends that blocks for 0.25 s.
    assert answers.stale(acknowledged, within=0.25 + MESSAGE) == []
    assert answers.slowest < 2 * BUDGET
    assert len(answers.all) > 100


@pytest.mark.parametrize("flush", [("FLUSHALL",), ("SCRIPT", "FLUSH")], ids=" ".join)
def test_a_computation_that_was_flushed_under_way(fresh_server: Server, flush: tuple[str, ...]) -> None:
    """The lease is gone, the caller still gets what its function returned, and the next call caches it."""
    runs = []
    with Cache(fresh_server.url) as cache:

        def compute() -> int:
            fresh_server.cli(*flush)
            runs.append(1)
            return len(runs)

        assert cache.get_or_compute("k", compute) == 1
        runs.append(1)
        flush = ("PING",)
        later = cache.get_or_compute("k", compute)
        assert later == cache.get_or_compute("k", compute), "and now it is cached"


def test_a_wiped_server(fresh_server: Server) -> None:
    """Killed, emptied and started again at the same port, with an invalidation while it was down."""
    site = Site()
    with Cache(fresh_server.url) as one, Cache(fresh_server.url) as two:
        page, other = site.on(one), site.on(two, near=60)
        assert page(1) == other(1) == 0
        assert page.invalidate_all()
        wait_for(lambda: other(1) == 0 and two.stats().counters.near_hits > 0, 2, "near to be in use")
        with reading(other, 1) as answers:
            fresh_server.kill()
            wait_for(lambda: not one.health().ok, 3, "the death to be seen")
            version = site.change()
            ack, took = timed(page.invalidate, 1)
            assert not ack
            assert ack.queued
            assert took < BUDGET + MESSAGE
            assert page(1) == version, "what is queued is obeyed here at once"
            fresh_server.wipe()
            heard(one)
            acknowledged = [(time.monotonic(), version)]
            wait_for(lambda: answers.all[-1][2] == version, 2, "the other process to see it")
        assert page(1) == version
        assert answers.errors == []
        assert answers.stale(acknowledged) == []
        assert answers.slowest < BUDGET + MESSAGE
        wait_for(lambda: one.health().ok, 1, f"{one.health().problems} to be over")


@pytest.mark.parametrize("survivor", ["the issuer", "a hearer"])
@pytest.mark.parametrize("how", ["key", "tag", "function", "everything"])
def test_a_restart_from_an_older_file(how: str, survivor: str) -> None:
    """The master comes back with the entry, and without the invalidation of it."""
    site = Site()
    with Server.start("valkey") as server, Cache(server.url) as two:
        one = Cache(server.url)
        page, other = site.on(one), site.on(two)
        assert page(1) == other(1) == 0
        assert page.invalidate_all()
        assert page(1) == 0
        server.cli("SAVE")
        resyncs = two.stats().resyncs
        version = site.change()
        assert invalidate(one, page, how)
        wait_for(lambda: other(1) == version, 2, "the other process to see it")
        # What it had not heard before the end of the master it would hear from the issuer, a moment later.
        wait_for(lambda: position(two) == position(one), 2, "the other process to hear of it")
        if survivor == "a hearer":
            one.close()
        server.kill()
        server.restart()
        for _ in range(20):
            assert other(1) == version
            assert survivor == "a hearer" or page(1) == version
        wait_for(lambda: two.stats().resyncs > resyncs, 5, "the resync")
        heard(two)
        assert other(1) == version
        # It was issued again, so that who comes from elsewhere knows of it too.
        with Cache(server.url) as three:
            wait_for(lambda: site.on(three)(1) == version, 1, "the replayed invalidation")
            assert site.on(three)(1) == version
        one.close()


def fill_up(server: Server) -> None:
    """Values until it refuses them."""
    server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.cli("CONFIG", "SET", "maxmemory", str(int(server.info("memory")["used_memory"]) + 2_000_000))

    def refused(number: int) -> bool:
        try:
            server.cli("SET", f"filler:{number}", "x" * 10_000)
        except CliError as error:
            return "OOM" in str(error)
        return False

    assert any(refused(number) for number in range(1000))
    # Buffers of clients come and go: it must not have room for a few bytes now and then.
    server.cli("CONFIG", "SET", "maxmemory", str(int(server.info("memory")["used_memory"]) - 200_000))


def test_a_full_server(fresh_server: Server) -> None:
    """`noeviction` at `maxmemory`: hits hit, the rest computes; invalidations work; writes say no."""
    site = Site()
    with Cache(fresh_server.url) as one, Cache(fresh_server.url) as two:
        page, other = site.on(one), site.on(two)
        assert page(1) == other(1) == 0
        assert one.set("plain", "old")
        assert one.set("counter", 5)
        fill_up(fresh_server)
        runs = site.runs
        assert page(1) == 0
        assert site.runs == runs, "a hit"
        assert [page(7) for _ in range(3)] == [0, 0, 0]
        assert site.runs == runs + 3, "computed, not stored"
        for how in ("key", "tag", "function", "everything"):
            version = site.change()
            assert invalidate(one, page, how), how
            assert page(1) == version
            sees(other, version)
        ack, took = timed(one.set, "plain", "new")
        assert not ack
        assert ack.queued
        assert took < BUDGET
        assert one.get("plain") is None, "the old value is not the new one"
        assert one.incr("counter") is None
        with pytest.raises(OutOfMemory, match="maxmemory"):
            one.incr("counter", on_error="raise")
        with pytest.raises(OutOfMemory):
            one.set("plain", "new", on_error="raise")
        assert any("maxmemory" in problem for problem in one.health().problems)
        heard(one)
        wait_for(lambda: two.get("plain") is None, 1, "the other to lose the old value")
        fresh_server.cli("CONFIG", "SET", "maxmemory", "0")
        assert one.set("plain", "new")
        assert two.get("plain") == "new"
        assert page(7) == 0
        assert other(7) == 0
        wait_for(lambda: one.health().ok, 1, f"{one.health().problems} to be over")


def test_a_log_that_is_refused_is_not_waited_for(fresh_server: Server) -> None:
    """The master acknowledges what is not heard here: nothing is served from this process or by plain reads."""
    site = Site()
    with Cache(fresh_server.url) as one, Cache(fresh_server.url) as two:
        page, other = site.on(one), site.on(two, near=30)
        told: list[str] = []
        two.subscribe(lambda event: told.append(event.kind))
        assert other(1) == 0
        wait_for(lambda: other(1) == 0 and other.stats().counters.near_hits, 5, "a near hit")
        fresh_server.cli("ACL", "SETUSER", "default", "-xread")
        wait_for(lambda: "LogNotFollowed" in told, 5, "the refusal")
        version = site.change()
        acknowledged(lambda: page.invalidate(1))
        assert other(1) == version
        fresh_server.cli("ACL", "SETUSER", "default", "+xread")
        wait_for(lambda: two.health().ok, 5, "the log to be heard again")
        sees(other, version)


async def test_a_full_server_and_tasks(fresh_server: Server) -> None:
    site = Site()
    async with Cache(fresh_server.url) as cache:
        page = site.aon(cache)
        assert await page(1) == 0
        assert await cache.aset("plain", "old")
        fill_up(fresh_server)
        version = site.change()
        assert await page.ainvalidate(1)
        assert await page(1) == version
        ack = await cache.aset("plain", "new")
        assert not ack
        assert ack.queued
        assert await cache.aget("plain") is None
        assert await cache.aincr("counter") is None
        assert (await cache.atouch("nothing")) is False


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru", "noeviction"])
def test_a_policy_that_may_evict_marks_is_reported(valkey: Server, policy: str) -> None:
    try:
        valkey.cli_many([("CONFIG", "SET", "maxmemory", "200mb"), ("CONFIG", "SET", "maxmemory-policy", policy)])
        with Cache(valkey.url) as cache:
            warm(cache)
            health = cache.health()
            assert health.nodes[0].eviction == policy
            told = [problem for problem in health.problems if policy in problem]
            assert bool(told) == policy.startswith("allkeys")
            assert health.ok == (not told)
            assert all("volatile-lru" in problem and "marks" in problem for problem in told)
    finally:
        valkey.cli_many([("CONFIG", "SET", "maxmemory", "0"), ("CONFIG", "SET", "maxmemory-policy", "noeviction")])


@pytest.mark.parametrize("gone", ["state", "marks", "log", "ids", "state marks", "state marks log ids"])
def test_bookkeeping_that_was_evicted_is_go_on(valkey: Server, gone: str) -> None:
    """Rule 18: a dead entry, whose mark is evicted, stays dead, also for who comes later."""
    site = Site()
    names = [f"evercache~{name}" for name in gone.split()]
    with Cache(valkey.url) as one, Cache(valkey.url) as two:
        page, other = site.on(one), site.on(two, near=60)
        tagged = one.cached(ttl=600, name="site.tagged", tags=("news",))(lambda: site.truth.get(1, 0))
        assert page(1) == other(1) == tagged() == 0
        version = site.change()
        assert page.invalidate_all()
        assert one.invalidate_tag("news")
        dead = valkey.cli_many([("GET", page.key(1)), ("GET", tagged.key())], decode=False)
        assert all(dead), "they are still there, and outdated by their marks alone"
        wait_for(lambda: other(1) == version, 1, "the other to hear")
        assert page(1) == tagged() == version

        valkey.cli("UNLINK", *names)
        # What an outdated store might bring: the dead entries are back.
        valkey.cli_many([("SET", page.key(1), dead[0]), ("SET", tagged.key(), dead[1])])
        for _ in range(30):
            assert page(1) == other(1) == tagged() == version
        if "marks" in names[0] + names[-1] or "state" in names[0]:
            wait_for(lambda: valkey.cli("ZCARD", "evercache~marks") == 2, 2, "the marks to be written back")
        valkey.cli_many([("SET", page.key(1), dead[0]), ("SET", tagged.key(), dead[1])])
        with Cache(valkey.url) as three:
            late = three.cached(ttl=600, name="site.tagged", tags=("news",))(lambda: site.truth.get(1, 0))
            assert site.on(three)(1) == late() == version
        # And invalidations go on.
        version = site.change()
        assert invalidate(one, page, "key")
        acknowledged = time.monotonic()
        wait_for(lambda: other(1) == version, 1, "the other to hear")
        assert time.monotonic() - acknowledged < 3 * MESSAGE
        assert page(1) == version


@pytest.mark.parametrize("what", ["key", "function"])
@pytest.mark.parametrize("gone", ["log", "state log", "marks log", "state marks log ids"])
def test_a_log_that_is_evicted_while_nobody_reads_it(
    valkey: Server, monkeypatch: pytest.MonkeyPatch, gone: str, what: str
) -> None:
    """Between two reads of the log; the next one would wait for its next line, here for five seconds.

    The dead entry of a function stays where it is, and its mark was heard by one process alone.
    """
    monkeypatch.setattr(tail, "_SHORTEST_PAUSE", 0.4)
    monkeypatch.setattr(tail, "_LONGEST_PAUSE", 0.4)
    site = Site()
    with Cache(valkey.url, max_staleness=20, lag_bound=30) as one, Cache(valkey.url) as two:
        page, other = site.on(one, near=600), site.on(two)
        assert page(1) == other(1) == 0
        before = position(one)
        acknowledged(lambda: other.invalidate(2))
        wait_for(lambda: position(one) != before, 2, "a line to be heard, and a pause to begin")
        version = site.change()
        acknowledged(lambda: other.invalidate(1) if what == "key" else other.invalidate_all())
        valkey.cli("UNLINK", *(f"evercache~{name}" for name in gone.split()))
        wait_for(lambda: page(1) == version, 2, "the loss to be noticed")
        assert page(1) == other(1) == version


def test_bookkeeping_that_was_evicted_for_hours_is_read_anew_in_the_end(valkey: Server) -> None:
    site = Site()
    with Cache(valkey.url) as one, Cache(valkey.url) as two:
        page, other = site.on(one, near=60), site.on(two)
        assert page(1) == other(1) == 0
        acknowledged(lambda: other.invalidate(2))
        now = time.monotonic()
        parts(one).engine.tail._resyncs.used(now - 10_000, now)  # so often in a row
        valkey.cli("UNLINK", "evercache~state")
        version = site.change()
        acknowledged(lambda: other.invalidate(1))
        wait_for(lambda: page(1) == version, 2, "the change to be heard")
        wait_for(lambda: parts(one).engine.state.ready, 2, "a resync")


def test_the_first_mark_of_all_is_no_eviction(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may hear of it while the reply to the tail, which has none, is under way."""
    with Cache(valkey.url) as one:
        page, engine, resyncs, acks = Site().on(one), parts(one).engine, list[Any](), list[Any]()
        assert page(1) == 0
        acknowledged(lambda: page.invalidate(2))
        wait_for(lambda: engine.state.ready, 2, "a resync")
        parse, resync = tail.parse_replication, engine.tail._resync

        async def counted(*where: Any) -> None:
            resyncs.append(where)
            await resync(*where)

        def invalidated_meanwhile(text: Any) -> Any:
            if not acks:
                call = threading.Thread(target=lambda: acks.append(page.invalidate_all()))
                call.start()
                call.join(5)
            return parse(text)

        before = position(one)
        monkeypatch.setattr(engine.tail, "_resync", counted)
        monkeypatch.setattr(tail, "parse_replication", invalidated_meanwhile)
        wait_for(lambda: position(one) != before, 3, "the line of the mark to be heard")
        assert [bool(ack) for ack in acks] == [True]
        assert not resyncs


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_result_is_stored_before_all_is_read_anew(valkey: Server, many: bool) -> None:
    """Others wait for the lease: the store under it waits for no resync of the same data (rule 5)."""
    runs: list[int] = []
    go_on = threading.Event()
    with Cache(valkey.url) as one, Cache(valkey.url) as two:
        engine = parts(one).engine
        resync = engine.tail._resync

        async def slow(*where: Any) -> None:
            for _ in range(300):
                if go_on.is_set():
                    break
                await asyncio.sleep(0.01)
            await resync(*where)

        def compute(number: int) -> int:
            runs.append(number)
            valkey.cli("HSET", "evercache~state", "last", "9-9")
            assert two.invalidate_tag("something else"), "a line behind one that nobody saw"
            wait_for(lambda: not engine.state.ready, 3, "the gap to be noticed")
            return number

        def page(cache: Cache) -> Any:
            if many:
                return cache.cached_many(name="page")(lambda numbers: {n: compute(n) for n in numbers})([1])[1]
            return cache.cached(name="page")(compute)(1)

        assert one.clear(), "there is bookkeeping"
        assert two.get("nothing") is None
        wait_for(lambda: engine.state.known_life, 1, "the first line to be heard")
        engine.tail._resync = slow
        try:
            assert page(one) == 1
            assert not engine.state.ready
            assert valkey.cli("EXISTS", f"{one.cached(name='page')(compute).key(1)}") == 1
        finally:
            go_on.set()
        wait_for(lambda: engine.state.ready, 2, "a resync")
        assert page(one) == page(two) == 1
        assert runs == [1]
