"""Methods, class methods and static methods, on a store inside the process."""

from __future__ import annotations

import pytest
from tests.unit.memory_time import Calls, cache, stores

from evercache import Cache
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]


def test_methods(cache: Cache) -> None:
    ran = Calls()

    class Repo:
        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

        @cache.cached(tags=("n:{n}",))
        def stars(self, n: int) -> str:
            ran(1)
            return f"{self.name}{n}"

    assert Repo("a").stars(1) == Repo("a").stars(1) == "a1"
    assert Repo("b").stars(1) == "b1"
    assert len(ran) == 2
    assert Repo("a").stars.peek(1) == "a1"
    assert Repo("a").stars.uncached(1) == "a1"
    assert Repo.stars(Repo("a"), 1) == "a1"
    Repo("a").stars.invalidate(1)
    assert Repo("a").stars.peek(1) is None
    assert Repo("b").stars.peek(1) == "b1"
    assert Repo("a").stars.key(1) != Repo("b").stars.key(1)
    assert Repo("a").stars.__name__ == "stars"
    assert "Repo" in repr(Repo("a").stars)


def test_an_object_without_a_key_says_what_to_do(cache: Cache) -> None:
    class Plain:
        @cache.cached
        def f(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"(?s)self.*__cache_key__"):
        Plain().f()


RAN = Calls()
PLACE = Cache("memory://", jitter=0, beta=0)


class Base:
    """Class and static methods, with the decorator on either side."""

    @classmethod
    @PLACE.cached
    def class_inside(cls, n: int) -> str:
        RAN(1)
        return f"{cls.__name__}{n}"

    @PLACE.cached
    @classmethod
    def class_outside(cls, n: int) -> str:
        RAN(1)
        return f"{cls.__name__}{n}"

    @staticmethod
    @PLACE.cached
    def static_inside(n: int) -> str:
        RAN(1)
        return f"static{n}"

    @PLACE.cached
    @staticmethod
    def static_outside(n: int) -> str:
        RAN(1)
        return f"static{n}"

    @classmethod
    @PLACE.cached
    async def coroutine(cls) -> str:
        RAN(1)
        return cls.__name__


class Derived(Base):
    pass


@pytest.mark.parametrize("name", ["class_inside", "class_outside"])
def test_class_methods_in_both_orders_key_on_the_class(stores: MemoryStores, name: str) -> None:
    RAN.clear()
    base, derived = getattr(Base, name), getattr(Derived, name)
    assert (base(1), derived(1)) == ("Base1", "Derived1")
    assert (getattr(Base(), name)(1), getattr(Derived(), name)(n=1)) == ("Base1", "Derived1")
    assert len(RAN) == 2
    assert base.peek(1) == base.uncached(1) == "Base1"
    base.invalidate(1)
    assert base.peek(1) is None
    assert derived.peek(1) == "Derived1"


@pytest.mark.parametrize("name", ["static_inside", "static_outside"])
def test_static_methods_in_both_orders(stores: MemoryStores, name: str) -> None:
    RAN.clear()
    for owner in (Base, Derived, Base(), Derived()):
        assert getattr(owner, name)(1) == "static1"
    assert len(RAN) == 1
    assert getattr(Base(), name).invalidate(1)
    assert getattr(Base, name).peek(1) is None


async def test_coroutine_methods(cache: Cache) -> None:
    ran = Calls()

    class Repo:
        def __cache_key__(self) -> int:
            return 1

        @cache.cached
        async def f(self, n: int) -> int:
            ran(1)
            return n

    assert await Repo().f(1) == await Repo().f(1) == 1
    RAN.clear()
    assert await Base.coroutine() == await Base().coroutine() == "Base"
    assert len(ran) == len(RAN) == 1
    assert await Repo().f.ainvalidate(1)
    assert await Repo().f.apeek(1) is None
