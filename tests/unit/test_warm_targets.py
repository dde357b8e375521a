"""The functions that `warm` finds, what it asks of them, and what it calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evercache import Cache
from evercache.errors import ConfigurationError
from evercache.ops.warm.targets import Item, Target, find_targets

SITE = """
from evercache import Cache

cache, empty = Cache("memory://"), Cache("memory://")
ran = []


@cache.cached(ttl=60)
def totals(n, lang="en"):
    ran.append((n, lang))
    if n == 13:
        raise ValueError("no such project")
    return n


@cache.cached(ttl=60)
async def price(n):
    ran.append(n)
    return n


@cache.cached_many(ttl=60)
def users(ids, lang="en"):
    ran.append((list(ids), lang))
    return {id: id for id in ids if id > 0}


class Shop:
    def __init__(self, number):
        self.number = number

    def __cache_key__(self):
        return self.number

    @cache.cached(ttl=60)
    def revenue(self, year):
        ran.append((self.number, year))
        return self.number * year


def plain(n):
    return n


shop = Shop(3)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "warm_site.py").write_text(SITE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    find_targets([], tmp_path)
    import warm_site  # type: ignore[import-not-found]

    yield warm_site
    warm_site.cache.close()
    del sys.modules["warm_site"]


def test_the_names_of_functions(site: Any, tmp_path: Path) -> None:
    def names(*given: str) -> list[str]:
        return [target.core.name for target in find_targets(given, tmp_path)]

    assert names("warm_site:totals", "warm_site:shop.revenue") == ["warm_site.totals", "warm_site.Shop.revenue"]
    # All functions of a cache, each once; of a method nobody knows the object.
    assert names("warm_site:totals", "warm_site:cache") == [
        f"warm_site.{name}" for name in ("totals", "price", "users")
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("totals", "names no function: write module:function"),
        ("warm_nowhere:totals", "there is no module 'warm_nowhere' here"),
        ("warm_site.deep:totals", "there is no module 'warm_site.deep'"),
        ("warm_site:total", "warm_site has no total"),
        ("warm_site:plain", "is no cached function, and no Cache"),
        ("warm_site:Shop.revenue", "is a method: name it by an object"),
        ("warm_site:empty", "no function of the cache"),
    ],
)
def test_names_that_lead_nowhere(site: Any, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        find_targets([name], tmp_path)


def test_what_a_module_raises_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "warm_broken.py").write_text("import warm_missing_dependency")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ModuleNotFoundError, match="warm_missing_dependency"):
        find_targets(["warm_broken:f"], tmp_path)


def test_one_call_at_a_time(site: Any, tmp_path: Path) -> None:
    (target,) = find_targets(["warm_site:totals"], tmp_path)
    assert site.totals(1) == 1
    assert target.standing([Item(1, (1,)), Item(2, (2,))]) == ["fresh", "nothing"]
    assert [one.what for one in target.call(Item(1, (1,)))] == ["cached"]
    assert [one.what for one in target.call(Item(2, (2,)))] == ["warmed"]
    assert [one.what for one in target.call(Item(2, (), {"n": 2}))] == ["cached"]
    (failed,) = target.call(Item(3, (13,)))
    assert (failed.line, failed.what, failed.why) == (3, "failed", "ValueError: no such project")
    assert site.ran == [(1, "en"), (2, "en"), (13, "en")]
    target.call(Item(4, (2,)), stale=True)
    assert site.ran[3:] == [(2, "en")], "what is stale is computed anew at once, not behind its caller's back"


def test_coroutine_functions_and_methods(site: Any, tmp_path: Path) -> None:
    price, revenue = find_targets(["warm_site:price", "warm_site:shop.revenue"], tmp_path)
    assert [one.what for one in price.call(Item(1, (7,)))] == ["warmed"]
    assert [one.what for one in price.call(Item(1, (7,)))] == ["cached"]
    assert price.standing([Item(1, (7,))]) == ["fresh"]
    assert [one.what for one in revenue.call(Item(1, (2026,)))] == ["warmed"]
    assert site.shop.revenue.peek(2026) == 6078
    assert site.ran == [7, (3, 2026)]


def test_many_ids_are_computed_together(site: Any, tmp_path: Path) -> None:
    (target,) = find_targets(["warm_site:users"], tmp_path)
    items = [Item(line, (line,)) for line in (1, 2, 3)]
    assert target.others(items[0]) == target.others(items[1]) != target.others(Item(4, (1, "de")))
    assert site.users([2]) == {2: 2}
    assert target.standing(items) == ["nothing", "fresh", "nothing"]
    assert [(one.line, one.what) for one in target.call_many(items)] == [
        (1, "warmed"),
        (2, "cached"),
        (3, "warmed"),
    ]
    assert site.ran == [([2], "en"), ([1, 3], "en")]


def test_a_target_needs_no_name() -> None:
    with Cache("memory://") as cache:

        @cache.cached(ttl=60)
        def f(n: int) -> int:
            return n

        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            Target(f._core).check(Item(1))
