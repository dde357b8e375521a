"""Invalidating a function, a tag or everything: as much work for many entries as for few, and all of them miss.

The timing at a million entries is `python -m benchmarks.invalidate`; here the server counts its commands.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from benchmarks.filling import TTL, cached_rows, fill, row
from benchmarks.invalidate import OPERATIONS, Side, measure, missing
from tests.servers import Server, wait_for

from evercache import Cache
from evercache.protocol.envelope import unpack

FEW, MANY, REALLY, SAMPLE = 1_000, 20_000, 300, 1_000


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    """One server with few entries, one with many; `revive` makes them fit for the next test.

    Each has been invalidated once: scripts and bookkeeping are there.
    """
    with Server.start("valkey") as one, Server.start("valkey") as two:
        small, large = Side(one, FEW, really=REALLY), Side(two, MANY, really=REALLY)
        try:
            yield small, large
        finally:
            small.close()
            large.close()


@pytest.fixture(params=list(OPERATIONS))
def operation(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def written(side: Side, operation: str) -> dict[str, int]:
    """How often each kind of command ran for one invalidation, the background's own left out."""
    side.revive()
    side.server.cli("CONFIG", "RESETSTAT")
    assert OPERATIONS[operation](side)
    counts = {
        name.removeprefix("cmdstat_"): int(line.split(",")[0].removeprefix("calls="))
        for name, line in side.server.info("commandstats").items()
    }
    # What the tail, the monitor and this question send at moments of their own.
    for name in ("config|resetstat", "exists", "hget", "hmget", "info", "ping", "role", "time", "xread"):
        counts.pop(name, None)
    return counts


def test_as_many_commands_for_many_entries_as_for_few(sides: tuple[Side, Side], operation: str) -> None:
    small, large = (written(side, operation) for side in sides)
    assert small == large
    assert small["evalsha"] == 1
    # The one key that never exists; no entry is touched.
    assert small["unlink"] == 1
    assert not {"scan", "keys", "del", "hscan", "zscan", "eval"} & small.keys()


def test_all_random_entries_hit_before_and_miss_after(sides: tuple[Side, Side], operation: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    small, large = sides
    measured = measure(operation, small, large, cycles=1, rounds=5, sample=SAMPLE, rng=random.Random(seed))
    assert (measured.hits_before, measured.misses_here, measured.misses_there) == (SAMPLE,) * 3, seed
    # Nothing is removed: dead entries lie there until their TTL.
    assert measured.small.still_there == FEW
    assert measured.large.still_there == MANY


def test_every_call_computes_again_and_is_cached_again(sides: tuple[Side, Side], operation: str) -> None:
    _, side = sides
    side.revive()
    counters = side.rows.stats().counters
    numbers = random.SystemRandom().sample(range(MANY), 50)
    before = counters.computed
    assert [side.rows(number) for number in numbers] == [row(number) for number in numbers]
    assert counters.computed == before
    OPERATIONS[operation](side)
    for _ in range(2):
        assert [side.rows(number) for number in numbers] == [row(number) for number in numbers]
    assert counters.computed == before + len(numbers)


def test_what_is_filled_is_what_a_real_call_stores(valkey: Server) -> None:
    with Cache(valkey.url, namespace="bench", on_error="raise") as cache:
        rows = cached_rows(cache)
        rows(7)
        real = valkey.cli("GET", rows.key(7), decode=False)
        real_ttl = valkey.cli("PTTL", rows.key(7))
        now_ms = int(valkey.cli("TIME")[0]) * 1000
        fill(rows, range(7, 8), valkey, now_ms=now_ms, stamp=cache.stamp() or 0)
        filled = valkey.cli("GET", rows.key(7), decode=False)
        a, b = unpack(real), unpack(filled)
        assert (a.version, a.flags, a.stamp, a.codec, a.tags, a.payload) == (
            b.version,
            b.flags,
            b.stamp,
            b.codec,
            b.tags,
            b.payload,
        )
        assert a.hard_ms - a.soft_ms == b.hard_ms - b.soft_ms
        # The filling takes the server's time in whole seconds.
        assert abs(a.soft_ms - b.soft_ms) < 2_000
        assert abs(real_ttl - valkey.cli("PTTL", rows.key(7))) < 2_000
        assert real_ttl > (TTL - 2) * 1_000


def test_a_filled_entry_hits_without_a_run_of_the_function(valkey: Server) -> None:
    with Cache(valkey.url, namespace="bench", on_error="raise") as cache:
        rows = cached_rows(cache)
        now_ms = int(valkey.cli("TIME")[0]) * 1000
        fill(rows, range(2_500), valkey, now_ms=now_ms, stamp=cache.stamp() or 0)
        assert valkey.cli("DBSIZE") == 2_501, "with the state of the bookkeeping"
        assert [rows(number) for number in range(0, 2_500, 25)] == [row(n) for n in range(0, 2_500, 25)]
        assert rows.stats().counters.computed == 0


def test_what_is_not_meant_stays(valkey: Server) -> None:
    with (
        Cache(valkey.url, namespace="bench", on_error="raise") as cache,
        Cache(valkey.url, namespace="other", on_error="raise") as elsewhere,
    ):
        rows = cached_rows(cache)
        newer = cache.cached(ttl=TTL, version=2)(row)
        foreign = cached_rows(elsewhere)
        numbers = list(range(30))

        def warm() -> None:
            for cached in (rows, newer, foreign):
                assert [cached(number) for number in numbers] == [row(number) for number in numbers]
            assert cache.set("user", "Ada", ttl=TTL)
            wait_for(lambda: cache.get("user") == "Ada", 2.0, "the value to be there")

        def gone() -> tuple[int, int, int, bool]:
            absent = [missing(cached, numbers) for cached in (rows, newer, foreign)]
            return absent[0], absent[1], absent[2], cache.get("user") is None

        warm()
        assert gone() == (0, 0, 0, False)
        assert rows.invalidate_all()
        assert gone() == (30, 0, 0, False)
        warm()
        assert cache.invalidate_tag("rows")
        assert gone() == (30, 0, 0, False)
        warm()
        assert cache.clear()
        assert gone() == (30, 30, 0, True)
