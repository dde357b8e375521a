"""`evercache.testing`: memory, off and record, as a test of an application would use them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from tests.unit.memory_time import eventually

from evercache import Cache, modes
from evercache.errors import ConfigurationError
from evercache.testing import Call, Calls, MemoryStores, Recording, memory, off, record
from evercache.testing.plugin import evercache_memory, evercache_off, evercache_record

__all__ = ["evercache_memory", "evercache_off", "evercache_record"]

# As in an application: a cache of the module, whose servers are not there in the tests.
CACHE = Cache("redis://127.0.0.1:1", namespace="shop", jitter=0, beta=0, spool="/nowhere/spool", bookkeeping_db=1)
RAN: list[int] = []


@CACHE.cached(ttl=300, tags=("project:{project_id}",), stale=60)
def stats(project_id: int) -> dict[str, int]:
    RAN.append(project_id)
    if project_id < 0:
        raise LookupError(project_id)
    return {"id": project_id}


@CACHE.cached(ttl=300)
async def astats(project_id: int) -> dict[str, int]:
    RAN.append(project_id)
    await asyncio.sleep(0)
    return {"id": project_id}


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()


# -- memory


def test_memory_keeps_entries_whatever_the_url(evercache_memory: MemoryStores) -> None:
    assert stats(7) == stats(7)
    assert RAN == [7]
    assert CACHE.set("k", 1)
    assert CACHE.get("k") == 1
    assert CACHE.health().ok
    assert CACHE.stats().pending == 0


@pytest.mark.parametrize("time", [1, 2])
def test_memory_begins_empty_each_time(evercache_memory: MemoryStores, time: int) -> None:
    assert CACHE.get("k") is None
    CACHE.set("k", time)
    stats(7)
    assert RAN == [7]


async def test_memory_with_tasks(evercache_memory: MemoryStores) -> None:
    assert await asyncio.gather(*(astats(7) for _ in range(5))) == [{"id": 7}] * 5
    assert RAN == [7]


def test_memory_lets_time_pass(evercache_memory: MemoryStores) -> None:
    stats(7)
    evercache_memory.advance(299)
    stats(7)
    assert RAN == [7]
    evercache_memory.advance(62)
    stats(7)
    assert RAN == [7, 7]
    with pytest.raises(ConfigurationError):
        evercache_memory.advance(-1)


def test_memory_holds_for_all_threads(evercache_memory: MemoryStores) -> None:
    threads = [threading.Thread(target=stats, args=(7,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert RAN == [7]


def test_memory_can_be_emptied(evercache_memory: MemoryStores) -> None:
    stats(7)
    evercache_memory.clear()
    stats(7)
    assert RAN == [7, 7]


def test_each_cache_has_a_store_of_its_own(evercache_memory: MemoryStores) -> None:
    other = Cache("redis://127.0.0.1:1", namespace="shop")
    CACHE.set("k", 1)
    assert other.get("k") is None


def test_a_cache_closed_in_one_test_works_in_the_next() -> None:
    cache = Cache("memory://")
    for _ in range(2):
        with memory():
            cache.set("k", 1)
            assert cache.get("k") == 1
            cache.close()
            assert cache.get("k", "closed") == "closed"
    assert cache.get("k", "closed") == "closed"


def test_disabled_counts_within_memory_and_the_kill_switch_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCACHE_DISABLED", "1")
    cache = Cache("memory://")
    with memory():
        cache.set("k", 1)
        with cache.disabled():
            assert cache.get("k") is None
        assert cache.get("k") == 1


def test_memory_leaves_the_spool_file_alone(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text('{"v": 1, "id": "00", "kind": "*", "name": ""}\n')
    cache = Cache("redis://127.0.0.1:1", spool=spool)
    with memory():
        cache.set("k", 1)
        assert cache.stats().pending == 0
    assert spool.exists()


def test_modes_nest_and_end_with_their_block() -> None:
    assert modes.active is None
    with memory():
        CACHE.set("k", 1)
        with off():
            assert CACHE.get("k") is None
        with memory():
            assert CACHE.get("k") is None
        assert CACHE.get("k") == 1
        with pytest.raises(KeyError), off():
            raise KeyError
        assert CACHE.get("k") == 1
    assert modes.active is None


def test_the_background_ends_with_the_mode(own_deployments: None) -> None:
    before = set(threading.enumerate())
    with memory():
        stats(7)
        assert set(threading.enumerate()) - before
    eventually(lambda: not set(threading.enumerate()) - before)


# -- off


def test_off_runs_every_function_and_does_nothing(evercache_off: None) -> None:
    assert stats(7) == stats(7) == {"id": 7}
    assert RAN == [7, 7]
    assert CACHE.set("k", 1)
    assert CACHE.get("k") is None
    assert stats.invalidate(7)
    assert CACHE.invalidate_tag("project:7")
    CACHE.close()
    assert CACHE.get("k") is None


async def test_off_with_tasks(evercache_off: None) -> None:
    assert await astats(7) == await astats(7)
    assert RAN == [7, 7]


# -- record


def test_record_tells_hits_from_misses_and_runs(evercache_record: Recording) -> None:
    stats(7), stats(7), stats(8)
    assert len(evercache_record.computed) == 2
    assert len(evercache_record.hits) == 1
    assert len(evercache_record.misses) == 2
    assert len(evercache_record.of(stats)) == 5
    assert [call.operation for call in evercache_record.of(stats, 7)] == ["compute", "call", "call"]
    assert [call.outcome for call in evercache_record.of(stats, project_id=7)] == ["returned", "miss", "hit"]
    assert not evercache_record.of(stats, 9)
    assert evercache_record[0] == Call(
        "compute", "returned", stats.key(7), stats._core.name, evercache_record[0].tags, cache=None
    )


def test_record_knows_what_was_invalidated(evercache_record: Recording) -> None:
    stats(7)
    assert not evercache_record.invalidated
    stats.invalidate(7)
    assert len(evercache_record.of(stats, 7).invalidated) == 1
    CACHE.invalidate_tag("project:7")
    assert [call.operation for call in evercache_record.tag("project:7").invalidated] == ["invalidate_tag"]
    assert len(evercache_record.tag("project:7")) == 3
    assert not evercache_record.tag("project:8")
    stats.invalidate_all()
    assert [call.operation for call in evercache_record.of(stats).invalidated] == ["invalidate", "invalidate_all"]
    CACHE.delete("k")
    CACHE.clear()
    assert [call.operation for call in evercache_record.invalidated][3:] == ["delete", "clear"]


def test_record_knows_operations_on_keys(evercache_record: Recording) -> None:
    CACHE.get("k")
    CACHE.set("k", 1)
    CACHE.add("k", 2)
    CACHE.incr("k")
    CACHE.get_many(["k", "none"])
    CACHE.touch("k"), CACHE.touch("none")
    CACHE.delete("k")
    CACHE.set("long" * 100, object())
    told = [(call.operation, call.outcome) for call in evercache_record.key("k")]
    assert told == [
        ("get", "miss"),
        ("set", "done"),
        ("add", "exists"),
        ("incr", "done"),
        ("get", "hit"),
        ("touch", "done"),
        ("delete", "done"),
    ]
    assert [call.outcome for call in evercache_record.key("none")] == ["miss", "miss"]
    assert [call.outcome for call in evercache_record.key("long" * 100)] == ["uncacheable"]
    assert [call.operation for call in evercache_record.written] == ["set", "incr", "touch"]
    assert evercache_record.key("shop:k:k") == evercache_record.key("k")


def test_record_of_runs_that_raise_and_of_refreshes(evercache_record: Recording) -> None:
    with pytest.raises(LookupError):
        stats(-1)
    with pytest.raises(LookupError):
        stats.refresh(-1)
    stats.refresh(1)
    assert stats.peek(1) == {"id": 1}
    assert stats.peek(2) is None
    told = [(call.operation, call.outcome) for call in evercache_record]
    assert told == [
        ("compute", "raised"),
        ("call", "miss"),
        ("compute", "raised"),
        ("refresh", "raised"),
        ("compute", "returned"),
        ("refresh", "done"),
        ("peek", "hit"),
        ("peek", "miss"),
    ]


def test_record_sees_background_refreshes(evercache_record: Recording) -> None:
    stats(7)
    evercache_record.advance(301)
    stats(7)
    eventually(lambda: len(evercache_record.computed) == 2)
    assert [call.outcome for call in evercache_record.hits] == ["stale"]


async def test_record_of_twins(evercache_record: Recording) -> None:
    await asyncio.gather(astats(7), astats(7))
    await astats.arefresh(7)
    assert await astats.apeek(7)
    await astats.ainvalidate(7)
    await CACHE.aset("k", 1)
    await CACHE.aadd("k", 1)
    await CACHE.aget("k")
    await CACHE.aincr("n")
    await CACHE.atouch("n")
    await CACHE.adelete("k")
    await CACHE.ainvalidate_tag("t")
    told = [(call.operation, call.outcome) for call in evercache_record]
    assert sorted(told[:3]) == [("call", "joined"), ("call", "miss"), ("compute", "returned")]
    assert told[3:] == [
        ("compute", "returned"),
        ("refresh", "done"),
        ("peek", "hit"),
        ("invalidate", "done"),
        ("set", "done"),
        ("add", "exists"),
        ("get", "hit"),
        ("incr", "done"),
        ("touch", "done"),
        ("delete", "done"),
        ("invalidate_tag", "done"),
    ]
    assert len(evercache_record.computed) == 2


def test_record_get_or_compute(evercache_record: Recording) -> None:
    assert CACHE.get_or_compute("k", lambda: 1) == CACHE.get_or_compute("k", lambda: 2) == 1
    assert len(evercache_record.key("k").computed) == 1
    assert len(evercache_record.key("k").hits) == 1


def test_record_without_a_store() -> None:
    with record(store=False) as recorded:
        assert stats(7) == stats(7) == stats.refresh(7)
        assert stats.peek(7) is None
        assert CACHE.set("k", 1)
        assert CACHE.get("k") is None
        assert CACHE.incr("n") is None
        assert CACHE.touch("k") is False
        assert stats.invalidate(7)
    assert RAN == [7, 7, 7]
    assert len(recorded.computed) == 3
    assert not recorded.hits
    assert len(recorded.written) == 1
    assert len(recorded.of(stats, 7).invalidated) == 1


async def test_record_without_a_store_for_tasks() -> None:
    with record(store=False) as recorded:
        assert await astats(7) == await astats(7) == await astats.arefresh(7)
        assert await astats.apeek(7) is None
        assert await CACHE.aget("k") is None
        assert await CACHE.ainvalidate_tag("t")
    assert len(recorded.computed) == 3
    assert len(recorded.tag("t").invalidated) == 1


def test_a_selection_is_a_sequence_that_does_not_change(evercache_record: Recording) -> None:
    stats(7)
    before = evercache_record.of(stats)
    assert isinstance(before, Calls)
    stats(7)
    assert len(before) == 2
    assert len(evercache_record) == 3
    assert before == evercache_record[:2] == list(before)
    assert before != evercache_record
    assert "call shop:f:" in repr(before)
    evercache_record.clear()
    assert not evercache_record
    stats(7)
    assert [call.outcome for call in evercache_record] == ["hit"]


def test_the_record_of_a_bound_method() -> None:
    class Repo:
        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

        @CACHE.cached
        def stars(self) -> int:
            return 1

    with record() as recorded:
        Repo("a").stars(), Repo("b").stars()
        assert len(recorded.of(Repo("a").stars).computed) == 1
        assert len(recorded.of(Repo.stars).computed) == 2
