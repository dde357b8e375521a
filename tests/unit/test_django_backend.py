"""The backend of Django beside what Django's own tests ask of it (`make suites`)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy
from tests.unit.django_site import BACKEND, caches_setting
from tests.unit.memory_time import eventually

import evercache
from evercache.errors import CorruptEnvelope
from evercache.integrations import django
from evercache.integrations.django import cache_of, get_redis_connection
from evercache.testing import MemoryStores, memory


@pytest.fixture
def stores() -> Iterator[MemoryStores]:
    with memory() as stores:
        yield stores


@pytest.fixture
def cache(stores: MemoryStores) -> Iterator[Any]:
    with override_settings(CACHES=caches_setting()):
        yield caches["default"]


def test_one_cache_serves_all_threads_tasks_and_aliases_of_one_prefix() -> None:
    location = "memory://?max_entries=77"
    setting = caches_setting(location) | {
        "v2": {"BACKEND": BACKEND, "LOCATION": location, "VERSION": 2},
        "other": {"BACKEND": BACKEND, "LOCATION": location, "KEY_PREFIX": "other"},
    }
    with override_settings(CACHES=setting):
        found: list[Any] = [caches["default"].evercache, caches["v2"].evercache]
        thread = threading.Thread(target=lambda: found.append(caches["default"].evercache))
        thread.start()
        thread.join()

        async def task() -> evercache.Cache:
            return cache_of("default")

        found.append(asyncio.run(task()))
        assert len(set(map(id, found))) == 1
        assert cache_of("other") is not found[0]
        assert cache_of("other").settings.namespace == "other"
    assert found[0]._closed, "the settings have changed"


def test_a_prefix_is_cleared_alone(stores: MemoryStores) -> None:
    setting = caches_setting() | {"other": {"BACKEND": BACKEND, "LOCATION": "memory://", "KEY_PREFIX": "other"}}
    with override_settings(CACHES=setting):
        for each in caches["default"], caches["other"]:
            each.set("k", 1)
        assert caches["other"].clear()
        assert (caches["default"].get("k"), caches["other"].get("k")) == (1, None)


@pytest.mark.parametrize(
    "value", [mark_safe("<b>"), gettext_lazy("a lazy text"), SimpleNamespace(a=[1]), {"a": (1,)}]
)
def test_values_come_back_as_they_went_in(cache: Any, value: Any) -> None:
    cache.set("k", value)
    assert cache.get("k") == value
    assert isinstance(cache.get("k"), SafeString) == isinstance(value, SafeString)


def test_a_secret_key_is_changed_without_losing_what_it_signed(cache: Any) -> None:
    payload, codec, packed = cache.evercache._encoder.encode(SimpleNamespace(a=1), b"k")
    former = "a secret key for tests, of some length"

    def read() -> Any:
        return cache_of("default")._encoder.decode(payload, codec, packed, b"k")

    with override_settings(SECRET_KEY="the next secret key, of some length", SECRET_KEY_FALLBACKS=[former]):
        assert read().a == 1
    with override_settings(SECRET_KEY="that of another site, of some length"), pytest.raises(CorruptEnvelope):
        read()


def test_timeouts(cache: Any, stores: MemoryStores) -> None:
    cache.set("k", 1, timedelta(seconds=90))
    assert cache.ttl("k") == 90
    cache.set("k", 1, 0.5)
    assert 400 < cache.pttl("k") <= 500
    assert cache.expire("k", 50)
    assert cache.ttl("k") == 50
    assert cache.pexpire("k", 1500)
    assert 1000 < cache.pttl("k") <= 1500
    assert cache.persist("k")
    assert (cache.ttl("k"), cache.evercache.expires_in(":1:k")) == (None, inf)
    assert cache.expire_at("k", datetime.now() + timedelta(hours=1))
    assert 3590 < cache.ttl("k") <= 3600
    assert cache.pexpire_at("k", (time.time() + 60) * 1000)
    assert 50 < cache.ttl("k") <= 60
    assert cache.expire_at("k", 1)
    assert cache.get("k") is None
    assert not cache.persist("k")


def test_what_never_expires_outlives_max_ttl_while_it_is_read(cache: Any, stores: MemoryStores) -> None:
    cache.set("k", "kept", None)
    for renewals in range(1, 4):
        stores.advance(25 * 86_400)
        assert cache.get("k") == "kept"
        eventually(lambda expected=renewals: cache.evercache.stats().counters.refreshed == expected)


def test_a_version_is_moved_with_its_time_out(cache: Any) -> None:
    cache.set("k", 1, 40)
    assert cache.incr_version("k") == 2
    assert cache.ttl("k", version=2) == 40
    cache.set("theme", 1, None)
    cache.incr_version("theme")
    assert cache.ttl("theme", version=2) is None


def test_get_or_set_computes_once_for_all_threads(cache: Any) -> None:
    runs: list[int] = []

    def slow() -> int:
        runs.append(1)
        time.sleep(0.1)
        return 7

    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get_or_set("k", slow))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, len(runs)) == ([7] * 10, 1)
    assert cache.incr("k") == 8


async def test_the_form_for_tasks_awaits_a_default_that_is_a_coroutine_function(cache: Any) -> None:
    async def made() -> str:
        return "made"

    assert await cache.aget_or_set("k", made) == "made"
    assert await cache.aget("k") == "made"
    assert [key async for key in cache.aiter_keys("*")] == ["k"]
    assert await cache.akeys() == ["k"]
    assert await cache.adelete_pattern("k*") == 1


def test_tags_end_groups_of_keys(cache: Any) -> None:
    cache.set("a", 1, tags=["project:7"])
    cache.add("b", 1, tags=["project:7"])
    cache.set_many({"c": 1, "d": 1}, tags=["project:7"])
    cache.get_or_set("e", lambda: 1, tags=["project:7"])
    cache.set("f", 1)
    assert cache.invalidate_tag("project:7")
    assert cache.keys() == ["f"]


def test_nx_and_xx(cache: Any) -> None:
    assert not cache.set("k", 1, xx=True)
    assert cache.set("k", 1, nx=True)
    assert not cache.set("k", 2, nx=True)
    assert cache.set("k", 3, xx=True)
    assert cache.get("k") == 3


def test_patterns_take_the_prefix_as_it_is(stores: MemoryStores) -> None:
    setting = caches_setting(KEY_PREFIX="a*[b]")
    with override_settings(CACHES=setting):
        cache = caches["default"]
        cache.set_many({"x1": 1, "x2": 1, "y": 1})
        assert sorted(cache.keys("x?")) == ["x1", "x2"]
        assert cache.delete_pattern("x[^1]") == 1
        assert sorted(cache.iter_keys("*")) == ["x1", "y"]


def test_the_cache_behind_is_usable_at_import_time(cache: Any) -> None:
    from evercache.integrations.django import cache as behind

    assert behind is cache.evercache

    @behind.cached(ttl=60)
    def answer() -> int:
        return 42

    assert answer() == 42
    with pytest.raises(AttributeError, match="no attribute 'cach'"):
        getattr(django, "cach")  # noqa: B009


def test_an_alias_with_another_backend_is_named() -> None:
    setting = caches_setting() | {"local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with override_settings(CACHES=setting), pytest.raises(TypeError, match="LocMemCache, not"):
        get_redis_connection("local")
