"""What sites use of Flask-Caching although its name begins with an underscore, and `cache.cache.serializer`."""

from __future__ import annotations

import io
import logging
import pickle
import time
from typing import Any

import pytest
from cachelib.serializers import JSONSerializer, RedisSerializer, SimpleSerializer
from flask import Flask

from evercache.integrations.flask import Cache
from evercache.integrations.flask.backends import RedisCache, SimpleCache
from evercache.testing import MemoryStores


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.config.update(CACHE_TYPE="SimpleCache", SECRET_KEY="a secret of the application's")
    return app


@pytest.fixture
def cache(app: Flask, evercache_memory: MemoryStores) -> Cache:
    return Cache(app)


class Own:
    """Can only be pickled."""

    went_off = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own)


class Bomb:
    def __reduce__(self) -> Any:
        return Bomb.explode, ()

    @staticmethod
    def explode() -> str:
        Own.went_off = True
        return "exploded"


# -- the serializer


@pytest.mark.parametrize("value", [1, "text", b"bytes", None, [1, {"a": (1.5, True)}], "long " * 1000, Own()])
def test_the_serializer_gives_back_what_it_took(cache: Cache, value: Any) -> None:
    serializer = cache.cache.serializer
    assert serializer is cache.cache.serializer
    assert serializer.loads(serializer.dumps(value)) == value
    stream = io.BytesIO()
    serializer.dump(value, stream)
    stream.seek(0)
    assert serializer.load(stream) == value


@pytest.mark.parametrize(
    "foreign", [b"!" + pickle.dumps(Bomb()), pickle.dumps(Bomb()), b"\x02\x00" + pickle.dumps(Bomb()), b"", b"x"]
)
def test_the_serializer_unpickles_nothing_that_was_not_signed(
    cache: Cache, foreign: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.cache.serializer.loads(foreign) is None
    assert cache.cache.serializer.loads(None) is None
    assert not Own.went_off
    assert len(caplog.records) == 1


def test_what_cannot_be_written_is_told(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.cache.serializer.dumps(lambda: 1) is None
    assert len(caplog.records) == 1


def test_another_serializer_takes_its_place_and_leaves_it(cache: Cache) -> None:
    own = cache.cache.serializer
    assert isinstance(own, SimpleSerializer)
    assert isinstance(RedisCache().serializer, RedisSerializer)
    cache.cache.serializer = JSONSerializer()
    cache.set("a", (1, 2))
    assert cache.get("a") == [1, 2]
    assert cache.cache._cache["a"][1] == b"[1, 2]"
    cache.cache.serializer = own
    cache.set("a", (1, 2))
    assert cache.get("a") == (1, 2)


# -- the dict of a SimpleCache


def test_what_is_kept_can_be_looked_at_and_taken_out(cache: Cache, evercache_memory: MemoryStores) -> None:
    @cache.memoize(timeout=60)
    def double(n: int) -> int:
        return 2 * n

    long = "x" * 300
    cache.set("front:a", 1, timeout=10)
    cache.set("front:b", 2, timeout=60)
    cache.set(long, 3)
    double(21)
    kept = cache.cache._cache
    assert len(kept) == 4
    assert {"front:a", "front:b"} < set(kept)
    assert sorted(cache.get_many(*kept), key=str) == [1, 2, 3, 42]
    assert [kept[key] for key in kept]
    assert kept["front:a"][0] - time.time() == pytest.approx(10, abs=5)
    for key in list(kept):  # as sites delete by a prefix
        if key.startswith("front:"):
            kept.pop(key)
    assert cache.get("front:a") is None
    assert len(kept) == 2
    cache.delete_memoized(double)
    assert len(kept) == 1, "what was invalidated is not there, although its bytes still are"
    cache.set("c", 1, timeout=5)
    evercache_memory.advance(6)
    assert "c" not in set(kept)
    with pytest.raises(KeyError):
        kept["c"]
    with pytest.raises(KeyError):
        kept.pop("c")
    assert kept.pop("c", None) is None
    kept.clear()
    assert dict(kept) == {}


def test_there_is_no_dict_where_servers_hold_the_entries() -> None:
    assert not hasattr(RedisCache(), "_cache")


@pytest.mark.parametrize(("threshold", "kept"), [(2, 3), (50, 51), (None, 60)])
def test_a_threshold(threshold: int | None, kept: int, evercache_memory: MemoryStores) -> None:
    app = Flask(__name__)
    app.config.update(CACHE_TYPE="SimpleCache", CACHE_THRESHOLD=threshold)
    for backend in (Cache(app).cache, SimpleCache(threshold)):
        for n in range(60):
            backend.set(f"k{n}", n)
        assert len(backend._cache) == kept
        assert backend.get("k59") == 59


# -- keys


def test_the_key_of_a_call_by_the_private_name(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """As a decorator of another package makes keys for functions that `memoize` never saw."""

    def plain(a: int, b: int = 2) -> int:
        return a + b

    make = cache._memoize_make_cache_key(make_name=None, timeout=60)
    assert make(plain, 1) == make(plain, 1, 2) == make(plain, a=1, b=2)
    assert len({make(plain, 1), make(plain, "1"), make(plain, 2)}) == 3
    with caplog.at_level(logging.WARNING):
        cache.set(make(plain, 1), "kept")
    assert cache.get(make(plain, 1)) == "kept"
    memoized = cache.memoize()(plain)
    assert memoized.make_cache_key(plain, 1) == make(plain, 1) == make(memoized, 1)
    assert memoized(1) == "kept"  # type: ignore[comparison-overlap]
    cache.delete_memoized(memoized)
    assert cache.get(make(plain, 1)) is None
    assert memoized(1) == 3
    assert cache.delete(make(plain, 1))
    functions = len(cache.cache.evercache._functions)
    for _ in range(50):  # as sites that make it for each call
        assert cache._memoize_make_cache_key()(plain, 1) == make(plain, 1)
    assert len(cache.cache.evercache._functions) == functions
    ignoring = cache._memoize_make_cache_key(args_to_ignore=["b"])
    assert ignoring(plain, 1, 5) == ignoring(plain, 1, 6)
    assert not caplog.records


def test_arguments_by_position(cache: Cache) -> None:
    def f(a: int, b: int, c: object = None, *more: int, **named: int) -> None: ...

    assert cache._memoize_kwargs_to_args(f, 1, 2) == ((1, 2, None), {})
    assert cache._memoize_kwargs_to_args(f, 2, 3, a=1) == ((1, 2, 3), {})
    assert cache._memoize_kwargs_to_args(f, 1, 2, 3, 4, 5, z=1, y=2) == ((1, 2, 3, 4, 5), {"y": 2, "z": 1})
    assert cache._memoize_kwargs_to_args(f, 1, 2, 3, args_to_ignore=["b"]) == ((1, None, 3), {})

    class Adder:
        def __caching_id__(self) -> str:
            return "adder 1"

        def add(self, b: int) -> None: ...

    assert cache._memoize_kwargs_to_args(Adder.add, Adder(), 3) == (("adder 1", 3), {})
    with pytest.raises(ValueError, match="`self`"):
        cache._memoize_kwargs_to_args(Adder.add, b=3)
