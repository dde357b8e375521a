"""What type checkers see of the Flask extension; never run."""

from typing import assert_type

from evercache.integrations.flask import Cache

cache = Cache()


@cache.cached(timeout=1)
def page(number: int, lang: str = "en") -> bytes:
    return b""


@cache.memoize(timeout=1, tags=("n:{number}",))
def plain(number: int, lang: str = "en") -> bytes:
    return b""


class Adder:
    @cache.memoize()
    def add(self, b: int) -> int:
        return b

    @cache.cached()
    def page(self, b: int) -> str:
        return ""

    @classmethod
    @cache.memoize()
    def of_class(cls, b: int) -> int:
        return b

    def inside(self) -> int:
        return self.add(1)


adder = Adder()
assert_type(page(1, "de"), bytes)
assert_type(plain(1, lang="de"), bytes)
assert_type(plain.uncached(1), bytes)
assert_type(plain.delete_memoized(), None)
assert_type(page.make_cache_key(path="/"), str)
assert_type(adder.add(1), int)
assert_type(Adder.add(adder, 1), int)
assert_type(adder.add.uncached(adder, 1), int)
assert_type(adder.page(1), str)
plain.cache_timeout = 5
cache.delete_memoized(plain, 1, "en")
cache.delete_memoized(adder.add)
cache.delete_memoized(Adder.of_class, Adder)
cache.delete_memoized_verhash(plain)
plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
