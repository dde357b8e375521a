"""A key belongs to the cache that made it: another one does not take it."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from evercache import Cache, Key
from evercache.errors import EvercacheError, WrongCache

URL = "redis://127.0.0.1:1"


def cached(cache: Cache) -> Any:
    return cache.cached(name="app.f")(lambda n: n)


TAKING: dict[str, Callable[[Cache, Any], Any]] = {
    "get": lambda cache, key: cache.get(key),
    "get_many": lambda cache, key: cache.get_many(["a", key]),
    "set": lambda cache, key: cache.set(key, 1),
    "set_many": lambda cache, key: cache.set_many({"a": 1, key: 1}),
    "add": lambda cache, key: cache.add(key, 1),
    "delete": lambda cache, key: cache.delete(key),
    "delete_many": lambda cache, key: cache.delete_many(["a", key]),
    "touch": lambda cache, key: cache.touch(key),
    "incr": lambda cache, key: cache.incr(key),
    "get_or_compute": lambda cache, key: cache.get_or_compute(key, lambda: 1),
    "changing": lambda cache, key: cache.changing(key),
}


@pytest.mark.parametrize("name", TAKING)
def test_a_key_of_another_cache_is_refused(name: str) -> None:
    with Cache("memory://", namespace="one") as one, Cache("memory://", namespace="two") as two:
        f = cached(one)
        key = f.key(1)
        two.set("a", "kept")
        with pytest.raises(WrongCache) as caught:
            TAKING[name](two, key)
        text = str(caught.value)
        for part in (repr(one), repr(two), str(key)):
            assert part in text
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, EvercacheError)
        assert two.get("a") == "kept"  # nothing was done of a batch
        TAKING[name](one, key)


async def test_tasks_too() -> None:
    one, two = Cache("memory://", namespace="one"), Cache("memory://", namespace="two")
    key = cached(one).key(1)
    with pytest.raises(WrongCache):
        await two.adelete(key)
    with pytest.raises(WrongCache):
        two.achanging(key)
    await one.adelete(key)
    await one.aclose()
    await two.aclose()


def test_a_function_of_another_cache_cannot_be_changed_here() -> None:
    with Cache("memory://", namespace="one") as one, Cache("memory://", namespace="two") as two:
        f = cached(one)
        with pytest.raises(WrongCache, match=r"app\.f"):
            two.changing(f)
        with one.changing(f):
            pass


def test_a_batch_of_keys() -> None:
    with Cache("memory://", namespace="one") as one, Cache("memory://", namespace="two") as two:
        many = one.cached_many(name="app.many")(lambda ids: {id: id for id in ids})
        many([1, 2])
        with pytest.raises(WrongCache):
            two.delete_many(many.key([1, 2]).values())
        assert all(one.delete_many(many.key([1, 2]).values()).values())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"url": URL}, {"url": URL}, True),
        ({"url": URL}, {"url": f"{URL}?replicas=127.0.0.1:2"}, True),
        ({"url": URL}, {"url": "redis://user:pass@127.0.0.1:1/0"}, True),
        ({"url": URL}, {"url": f"{URL}/1"}, False),
        ({"url": URL}, {"url": "redis://127.0.0.1:2"}, False),
        ({"url": URL}, {"url": URL, "namespace": "other"}, False),
        ({"url": URL}, {"url": URL, "bookkeeping_db": 3}, False),
        ({"url": URL}, {"url": URL, "bookkeeping_db": 0}, True),
        ({"url": URL}, {"url": "memory://"}, False),
        ({"url": "memory://"}, {"url": "memory://"}, False),
        ({"url": "sentinel://a:1,b:1/m"}, {"url": "sentinel://b:1,c:1/m"}, True),
        ({"url": "sentinel://a:1,b:1/m"}, {"url": "sentinel://c:1/m"}, False),
        ({"url": "sentinel://a:1/m"}, {"url": "sentinel://a:1/other"}, False),
        ({"url": "sentinel://a:1/m/2"}, {"url": "sentinel://a:1/m"}, False),
        ({"url": "unix:///run/a"}, {"url": "unix:///run/a"}, True),
    ],
)
def test_what_a_key_means_is_compared(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    first, second = Cache(**one), Cache(**other)
    for mine, yours in ((first, second), (second, first)):
        key = cached(mine).key(1)
        if same:
            assert yours._subject(key, ()).key == str(key)
        else:
            with pytest.raises(WrongCache):
                yours._subject(key, ())


def test_a_key_is_a_text_that_can_be_copied_and_sent() -> None:
    one, two = Cache(URL, namespace="one"), Cache(URL, namespace="two")
    key = cached(one).key(1)
    text = str(key)
    assert type(text) is str
    assert key == text
    assert hash(key) == hash(text)
    assert {key: 1}[text] == 1  # type: ignore[index]
    assert json.loads(json.dumps({key: [key]})) == {text: [text]}
    assert copy.copy(key) is key
    assert copy.deepcopy({"k": key})["k"] is key
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        sent = pickle.dumps(key, protocol)
        back = pickle.loads(sent)
        assert type(back) is Key
        assert (back, back.function) == (key, "app.f")
        for again in (back, pickle.loads(pickle.dumps(back))):
            assert one._subject(again, ()) == one._subject(key, ())
            with pytest.raises(WrongCache, match="two"):
                two._subject(again, ())
    secret = Cache("redis://user:hunter2@127.0.0.1:1")
    assert b"hunter2" not in pickle.dumps(cached(secret).key(1))
    with pytest.raises(WrongCache) as caught:
        two._subject(cached(secret).key(1), ())
    assert "hunter2" not in str(caught.value)


def test_a_key_of_memory_comes_back_from_a_pickle() -> None:
    with Cache("memory://", namespace="one") as one, Cache("memory://", namespace="two") as two:
        f = cached(one)
        f(1)
        back = pickle.loads(pickle.dumps(f.key(1)))
        assert one.get(back) == 1
        with pytest.raises(WrongCache):
            two.get(back)


def test_a_key_that_was_pickled_before_it_knew_its_cache() -> None:
    class Old:
        def __reduce__(self) -> Any:
            return Key, ("evercache:f:app.f(1)",), (None, {"function": "app.f"})

    back = pickle.loads(pickle.dumps(Old()))
    assert Cache(URL)._subject(back, ()).function == "app.f"


def test_a_key_keeps_its_cache() -> None:
    cache = Cache("memory://")
    alive = weakref.ref(cache)
    key = cached(cache).key(1)
    del cache
    gc.collect()
    assert alive() is key.cache is not None
