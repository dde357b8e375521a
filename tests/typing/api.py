"""The public surface as a user's program uses it; read by mypy and pyright, never run.

Each `assert_type` must hold for both. Both take `# type: ignore`, and both say when there is nothing to ignore
(`warn_unused_ignores` of mypy, `reportUnnecessaryTypeIgnoreComment` of pyright): those lines are wrong calls.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from sqlalchemy.orm import Session

from evercache import (
    Ack,
    AsyncCachedFunction,
    AsyncCachedMany,
    Cache,
    CachedFunction,
    CachedMany,
    Explanation,
    Health,
    JSONCodec,
    Key,
    SignedPickleCodec,
    Stats,
)

cache = Cache("memory://", namespace="shop", budget=0.1, default_ttl=timedelta(minutes=5))


@cache.register
@dataclass(frozen=True)
class Product:
    id: int
    name: str


class NotFound(Exception):
    pass


def tags_of(product_id: int, *, trace: str | None = None) -> list[str]:
    return [f"all:{product_id}", f"trace:{trace}"]


# -- functions


@cache.cached
def plain(a: int, b: str = "") -> float:
    return a + len(b)


@cache.cached(
    ttl=300,
    tags=("product:{product_id}", tags_of),
    tags_from=lambda product: [f"name:{product.name}"],
    stale=60,
    stale_if_error=timedelta(hours=1),
    near=2,
    version=3,
    ignore=("trace",),
    cache_if=lambda product: product is not None,
    ttl_if_none=5,
    cache_errors={NotFound: 5},
    jitter=0.1,
    beta=1.0,
    budget=0.2,
    on_error="raise",
    codec=JSONCodec(),
    name="product",
)
def product(product_id: int, *, trace: str | None = None) -> Product | None:
    return Product(product_id, trace or "")


@cache.cached(tags=tags_of)
def by_callable(product_id: int) -> str:
    return str(product_id)


def functions() -> None:
    assert_type(plain(1), float)
    assert_type(plain(1, b="x"), float)
    assert_type(product(7, trace="t"), Product | None)
    assert_type(plain.key(1, "x"), Key)
    assert_type(plain.invalidate(1), Ack)
    assert_type(plain.invalidate_all(), Ack)
    assert_type(plain.refresh(1), float)
    assert_type(product.refresh(7), Product | None)
    assert_type(plain.peek(1), float | None)
    assert_type(plain.peek(1, default="none"), float | str)
    assert_type(plain.explain(1), Explanation)
    assert_type(plain.stats(), Stats)
    assert_type(plain.uncached(1), float)
    as_callable: Callable[[int, str], float] = plain
    as_callable(1, "")

    plain("1")  # type: ignore[arg-type]
    plain()  # type: ignore[call-arg]
    plain(1, c=2)  # type: ignore[call-arg]
    plain.key("1")  # type: ignore[arg-type]
    plain.peek("1")  # type: ignore[call-overload]
    plain.invalidate("1")  # type: ignore[arg-type]
    plain.invalidate()  # type: ignore[call-arg]
    plain.refresh(1, 2)  # type: ignore[arg-type]
    plain.explain(a="1")  # type: ignore[arg-type]
    plain.uncached("1")  # type: ignore[arg-type]


async def functions_for_tasks() -> None:
    assert_type(await plain.ainvalidate(1), Ack)
    assert_type(await plain.ainvalidate_all(), Ack)
    assert_type(await plain.arefresh(1), float)
    assert_type(await plain.aexplain(1), Explanation)
    assert_type(await plain.apeek(1), float | None)
    assert_type(await plain.apeek(1, default=b""), float | bytes)


# -- coroutine functions


@cache.cached
async def bare_task(a: int) -> str:
    return str(a)


@cache.cached(ttl=lambda product: product.id, near=1)
async def fetch(product_id: int) -> Product:
    return Product(product_id, "")


async def coroutines() -> None:
    assert_type(await bare_task(1), str)
    assert_type(await fetch(7), Product)
    assert_type(await fetch.arefresh(7), Product)
    assert_type(await fetch.ainvalidate(7), Ack)
    assert_type(fetch.key(7), Key)
    made: AsyncCachedFunction[[int], Product] = fetch
    assert_type(await made(1), Product)

    fetch("7")  # type: ignore[arg-type, unused-coroutine]
    fetch(7).name  # type: ignore[attr-defined]
    await fetch.ainvalidate("7")  # type: ignore[arg-type]


def coroutines_from_threads() -> None:
    assert_type(fetch.refresh(7), Product)
    assert_type(fetch.invalidate(7), Ack)


# -- functions of many ids


@cache.cached_many(ttl=60, tags=("product:{id}", tags_of), near=1)
def products(ids: Iterable[int], lang: str = "en") -> dict[int, Product]:
    return {id: Product(id, lang) for id in ids}


@cache.cached_many
async def names(ids: list[int]) -> dict[int, str]:
    return {id: str(id) for id in ids}


def many() -> None:
    assert_type(products([1, 2]), dict[int, Product])
    assert_type(products(ids=(1, 2), lang="de"), dict[int, Product])
    assert_type(products.invalidate([1], "de"), dict[int, Ack])
    assert_type(products.invalidate_all(), Ack)
    assert_type(products.peek([1]), dict[int, Product])
    assert_type(products.refresh([1]), dict[int, Product])
    assert_type(products.explain([1]), dict[int, Explanation])
    assert_type(products.key([1]), dict[int, Key])
    assert_type(products.stats(), Stats)
    made: CachedMany[..., int, Product] = products
    assert_type(made([1]), dict[int, Product])

    products(["1"])  # type: ignore[list-item]
    products(1)  # type: ignore[arg-type]
    products([1], lang=1)  # type: ignore[arg-type]
    products.invalidate(["1"])  # type: ignore[list-item]
    cache.cached_many(cache_errors={NotFound: 5})  # type: ignore[call-overload]
    cache.cached_many(plain)  # type: ignore[arg-type]


async def many_for_tasks(shop: Shop) -> None:
    assert_type(await names([1, 2]), dict[int, str])
    assert_type(await names.ainvalidate([1]), dict[int, Ack])
    assert_type(await names.arefresh([1]), dict[int, str])
    assert_type(await names.apeek([1]), dict[int, str])
    assert_type(await products.apeek([1]), dict[int, Product])
    coroutine: AsyncCachedMany[[list[int]], int, str] = names
    assert_type(await coroutine([1]), dict[int, str])
    assert_type(shop.prices([1]), dict[int, float])
    assert_type(shop.prices.invalidate([1]), dict[int, Ack])
    assert_type(Shop.prices(shop, [1]), dict[int, float])
    assert_type(await Shop.stocks(["CH"]), dict[str, int])
    assert_type(Shop.taxes([1]), dict[int, float])

    await names(["1"])  # type: ignore[list-item]
    shop.prices(["1"])  # type: ignore[list-item]


# -- methods


class Shop:
    @cache.cached_many
    def prices(self, ids: list[int]) -> dict[int, float]:
        return dict.fromkeys(ids, 1.0)

    @cache.cached_many(ttl=60)
    @classmethod
    async def stocks(cls, ids: list[str]) -> dict[str, int]:
        return dict.fromkeys(ids, 1)

    @cache.cached_many
    @staticmethod
    def taxes(ids: list[int]) -> dict[int, float]:
        return dict.fromkeys(ids, 1.0)

    def __cache_key__(self) -> str:
        return "shop"

    @cache.cached(ttl=60)
    def price(self, product_id: int, currency: str = "EUR") -> float:
        return product_id * len(currency)

    @cache.cached
    async def stock(self, product_id: int) -> int:
        return product_id

    @cache.cached(ttl=60)
    @classmethod
    def of_city(cls, city: str) -> list[int]:
        return [len(city)]

    @cache.cached
    @staticmethod
    def tax(country: str) -> float:
        return len(country)

    @classmethod
    @cache.cached
    def above(cls, city: str) -> list[int]:
        return [len(city)]

    @cache.cached
    @classmethod
    async def towns(cls, country: str) -> list[str]:
        return [country]

    @staticmethod
    @cache.cached
    def duty(country: str) -> float:
        return len(country)

    @property
    def first_price(self) -> float:
        return self.price(1)


class BookShop(Shop):
    @property
    def half_price(self) -> float:
        return super().price(1) / 2


def methods(shop: Shop) -> None:
    assert_type(shop.price(1), float)
    assert_type(shop.price(1, currency="CHF"), float)
    assert_type(Shop.price(shop, 1), float)
    assert_type(shop.price.invalidate(1), Ack)
    assert_type(shop.price.key(1, "CHF"), Key)
    assert_type(shop.price.refresh(1), float)
    assert_type(shop.price.uncached(1), float)
    assert_type(Shop.of_city("Bern"), list[int])
    assert_type(Shop.of_city.invalidate("Bern"), Ack)
    assert_type(Shop.tax("CH"), float)
    assert_type(shop.tax("CH"), float)
    assert_type(shop.of_city("CH"), list[int])
    assert_type(shop.of_city.refresh("CH"), list[int])
    assert_type(Shop.above("CH"), list[int])
    assert_type(Shop.duty("CH"), float)
    assert_type(shop.duty.invalidate("CH"), Ack)
    assert_type(BookShop.of_city("Bern"), list[int])
    assert_type(BookShop().price(1), float)

    shop.price("1")  # type: ignore[arg-type]
    shop.price(shop, 1)  # type: ignore[arg-type]
    shop.price.invalidate(shop, 1)  # type: ignore[arg-type]
    Shop.of_city(1)  # type: ignore[arg-type]
    Shop.tax(1)  # type: ignore[arg-type]


async def methods_for_tasks(shop: Shop) -> None:
    assert_type(await shop.stock(1), int)
    assert_type(await shop.stock.ainvalidate(1), Ack)
    assert_type(await Shop.stock(shop, 1), int)
    assert_type(await Shop.towns("CH"), list[str])
    assert_type(await shop.towns.arefresh("CH"), list[str])
    await shop.stock("1")  # type: ignore[arg-type]


# -- keys that the user names


def direct() -> None:
    assert_type(cache.set("k", 1, ttl=5, tags=("a",), since=cache.stamp()), Ack)
    assert_type(cache.add("k", 1), Ack)
    assert_type(cache.delete(plain.key(1)), Ack)
    assert_type(cache.touch("k", ttl=timedelta(minutes=1)), bool)
    assert_type(cache.incr("hits", 2, initial=10), int | None)
    assert_type(cache.get_many(["a", "b"], 0), dict[str, Any])
    assert_type(cache.set_many({"a": 1, "b": "x"}, ttl=5), dict[str, Ack])
    assert_type(cache.delete_many(["a"]), dict[str, Ack])
    assert_type(cache.get_or_compute("k", lambda: 3, ttl=5, stale=1), int)
    assert_type(cache.get_or_compute("k", lambda: [Product(1, "")]), list[Product])
    assert_type(cache.invalidate_tag("project:7"), Ack)
    assert_type(cache.clear(), Ack)
    assert_type(cache.stamp(), int | None)
    assert_type(cache.stats(), Stats)
    assert_type(cache.health(), Health)
    assert_type(cache.stats().hit_ratio, float)
    with cache.disabled():
        cache.get("k", "default")
    with cache.changing(plain.key(1), plain, tag=("a", "b"), at_most=timedelta(seconds=5)) as change:
        assert_type(change.held, bool)
    assert_type(change.done, bool)
    cache.invalidate_on_commit(Session(), plain.key(1), tag="a")
    with Cache(codec=SignedPickleCodec([b"0123456789abcdef"])) as other:
        assert_type(other, Cache)

    cache.changing(1)  # type: ignore[arg-type]
    cache.invalidate_on_commit("session", plain)  # type: ignore[arg-type]
    cache.set(1, "x")  # type: ignore[arg-type]
    cache.get_or_compute("k", 3)  # type: ignore[arg-type]
    cache.get("k", on_error="ignore")  # type: ignore[arg-type]
    cache.delete("k").stamp = 3  # type: ignore[misc]
    Cache("memory://", consistency="eventual")  # type: ignore[arg-type]
    cache.cached(ttl="60")  # type: ignore[call-overload]
    cache.cached(tll=60)  # type: ignore[call-overload]


async def direct_for_tasks() -> None:
    async def compute() -> int:
        return 3

    assert_type(await cache.aset("k", 1, since=await cache.astamp()), Ack)
    assert_type(await cache.aadd("k", 1), Ack)
    assert_type(await cache.adelete("k"), Ack)
    assert_type(await cache.atouch("k"), bool)
    assert_type(await cache.aincr("hits"), int | None)
    assert_type(await cache.aget_many(["a"]), dict[str, Any])
    assert_type(await cache.aset_many({"a": 1}), dict[str, Ack])
    assert_type(await cache.adelete_many(["a"]), dict[str, Ack])
    assert_type(await cache.aget_or_compute("k", compute), int)
    async with cache.achanging(tag="project:7") as change:
        assert_type(change.done, bool)
    assert_type(await cache.ainvalidate_tag("project:7"), Ack)
    assert_type(await cache.aclear(), Ack)
    assert_type(await cache.ahealth(), Health)
    async with Cache() as other:
        assert_type(other, Cache)

    await cache.aget_or_compute("k", 3)  # type: ignore[arg-type]


def takes_any_cached(function: CachedFunction[[int], float]) -> float:
    return function(1) + function.refresh(2)
