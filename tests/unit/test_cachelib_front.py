from __future__ import annotations

from datetime import timedelta

import pytest
from cachelib import BaseCache
from cachelib.serializers import JSONSerializer

from evercache import Cache
from evercache.integrations.cachelib import CachelibCache
from evercache.results import Ack
from evercache.testing import MemoryStores


@pytest.fixture
def front(evercache_memory: MemoryStores) -> CachelibCache:
    return CachelibCache(Cache("memory://", namespace="front"))


def test_it_is_one_of_cachelibs_own(front: CachelibCache) -> None:
    assert isinstance(front, BaseCache)


def test_none_is_a_value(front: CachelibCache) -> None:
    assert not front.has("k")
    assert front.set("k", None)
    assert front.has("k")
    assert front.get("k") is None


@pytest.mark.parametrize("timeout", [2, timedelta(seconds=2)])
def test_times(front: CachelibCache, evercache_memory: MemoryStores, timeout: int) -> None:
    front.set("two", 1, timeout)
    front.set("ever", 1, 0)
    front.set("gone", 1, -1)
    front.set("long", 1, 100 * 86400)  # beyond the longest: as long as possible
    assert front.get_many("two", "ever", "gone", "long") == [1, 1, None, 1]
    evercache_memory.advance(400)
    assert front.get_many("two", "ever", "gone", "long") == [None, 1, None, 1]


def test_clear_of_one_prefix_leaves_the_others(front: CachelibCache) -> None:
    one, two = (CachelibCache(front.evercache, key_prefix=prefix) for prefix in ("one:", lambda: "two:"))
    for cache in (one, two, front):
        cache.set("k", "v")
        cache.inc("counter")
    assert one.clear()
    assert one.get_dict("k", "counter") == {"k": None, "counter": None}
    assert two.get_many("k", "counter") == front.get_many("k", "counter") == ["v", 1]
    assert front.clear()
    assert two.get("k") is None


def test_keys_that_are_no_text(front: CachelibCache) -> None:
    for key in (7, "", ("a", 1)):
        assert front.set(key, "v")
        assert front.get(key) == "v"
        assert front.delete(key)
        assert not front.delete(key)


def test_a_serializer_is_used_for_everything(front: CachelibCache) -> None:
    front.serializer = JSONSerializer()
    front.set_many({"a": {"x": 1}, "n": 4})
    assert front.evercache.get("a") == b'{"x": 1}'
    assert front.get_many("a", "n", "none") == [{"x": 1}, 4, None]
    assert front.inc("n", 2) == 6


def test_what_could_not_be_deleted(front: CachelibCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Cache, keys: list[str], **_: object) -> dict[str, Ack]:
        return {key: Ack(key == "b") for key in keys}

    monkeypatch.setattr(Cache, "delete_many", refuses)
    assert front.delete_many("a", "b") == ["b"]
    front.ignore_delete_many_errors = False
    with pytest.raises(RuntimeError, match="Failed to delete keys"):
        front.delete_many("a", "b")


def test_without_servers_it_is_a_cache_that_misses() -> None:
    front = CachelibCache("redis://127.0.0.1:1", budget=0.05)
    assert front.get("k") is None
    assert front.set("k", 1) is False
    assert front.add("k", 1) is False
    assert front.inc("k") is None
    assert front.delete_many("k") == []
    assert front.clear() is False
    front.evercache.close()
