"""What cannot be cached is refused where it is written, with the mend."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.memory_time import cache, stores

from evercache import Cache, JSONCodec, SignedPickleCodec
from evercache.errors import ConfigurationError

__all__ = ["cache", "stores"]


def test_what_cannot_be_cached_is_a_type_error_at_decoration(cache: Cache) -> None:
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for wrong, said in (
        (generator, "generator"),
        (async_generator, "generator"),
        (property(lambda self: 1), "property"),
        (int, "class"),
        (object(), "not a function"),
    ):
        with pytest.raises(TypeError, match=said):
            cache.cached(wrong)  # type: ignore[call-overload]


def test_an_unkeyable_argument_is_named_with_the_mend(cache: Cache) -> None:
    @cache.cached
    def f(a: int, connection: object) -> int:
        return a

    with pytest.raises(TypeError, match=r"(?s)connection.*ignore="):
        f(1, object())


def test_an_unknown_name_in_a_tag_is_a_type_error_at_decoration(cache: Cache) -> None:
    with pytest.raises(TypeError, match="names 'nobody'"):
        cache.cached(tags=("p:{nobody}",))(lambda project: 1)
    with pytest.raises(TypeError, match="sequence of tags"):
        cache.cached(tags="p:{project}")(lambda project: 1)


def test_a_life_of_no_seconds_is_refused_where_it_means_nothing(cache: Cache) -> None:
    cache.set("k", 1)
    with pytest.raises(ConfigurationError, match=r"touch\(ttl=0\) keeps nothing.*delete\(\)"):
        cache.touch("k", ttl=0)
    with pytest.raises(ConfigurationError, match=r"incr\(ttl=0\) keeps nothing"):
        cache.incr("k", ttl=0)
    assert cache.get("k") == 1
    assert cache.set("k", 2, ttl=0).reason == "expired"
    assert cache.get("k") is None
    assert not cache.add("k", 3, ttl=0)


@pytest.mark.parametrize("decorator", ["cached", "cached_many"])
@pytest.mark.parametrize(
    ("given", "options", "right"),
    [
        ((60,), {}, r"@cache.\w+\(ttl=60\)"),
        ((timedelta(1),), {"tags": ("a",)}, r"@cache.\w+\(ttl=datetime.timedelta\(days=1\)\)"),
        (("a",), {}, r"@cache.\w+\(ttl=60\)"),
        ((len, 60), {}, r"@cache.\w+\(ttl=60\)"),
        ((), {"timeout": 60}, "write ttl=60"),
        ((), {"ex": 60}, "write ttl=60"),
        ((), {"expire": 60, "stale": 5}, "write ttl=60"),
        ((), {"tll": 60}, "write ttl=60"),
        ((), {"tag": "a"}, r"write tags=\('a',\)"),
        ((), {"args_to_ignore": "a"}, r"write ignore=\('a',\)"),
        ((), {"key_prefix": "a"}, "write name='a'"),
        ((), {"serializer": JSONCodec()}, r"write codec=JSONCodec\(\)"),
        ((), {"typed": True}, "no option typed=; it has .*tags.*ttl"),
        ((len,), {"timeout": 60}, "write ttl=60"),
    ],
)
def test_what_other_libraries_take_is_answered_with_the_right_line(
    cache: Cache, decorator: str, given: tuple[Any, ...], options: dict[str, Any], right: str
) -> None:
    """At the line of the decorator, not when the function is decorated."""
    with pytest.raises(TypeError, match=right) as caught:
        getattr(cache, decorator)(*given, **options)
    assert f"{decorator}(" in str(caught.value)
    assert "_core_options" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"tags": (5,)}, r"write tags=\('5',\)"),
        ({"tags": (b"a",)}, r"write tags=\('a',\)"),
        ({"tags": 5}, r"tags=\('project:\{project_id\}',\)"),
        ({"tags": None}, r"tags=\('project:\{project_id\}',\)"),
        ({"tags": "a"}, r"tags=\('a',\)"),
        ({"tags_from": ("a",)}, "tags_from=lambda result"),
        ({"cache_if": True}, "cache_if=lambda result"),
        ({"cache_errors": (KeyError, ValueError)}, r"write cache_errors=\{KeyError: 5, ValueError: 5\}"),
        ({"cache_errors": KeyError}, r"write cache_errors=\{KeyError: 5\}"),
        ({"cache_errors": {"KeyError": 5}}, "no class of exceptions"),
    ],
    ids=str,
)
def test_a_wrong_value_of_an_option_is_refused_at_decoration(
    cache: Cache, options: dict[str, Any], right: str
) -> None:
    with pytest.raises(TypeError, match=right):
        cache.cached(**options)(lambda: 1)


def test_a_callable_of_the_arguments_is_tags(cache: Cache) -> None:
    """Alone, as in a sequence."""

    @cache.cached(tags=lambda number, more=(): [f"n:{number}", *more])
    def f(number: int, more: tuple[str, ...] = ()) -> int:
        return number

    f(1)
    f(2, ("extra",))
    cache.invalidate_tag("n:1")
    assert (f.peek(1), f.peek(2, ("extra",))) == (None, 2)
    cache.invalidate_tag("extra")
    assert f.peek(2, ("extra",)) is None

    @cache.cached_many(tags=lambda id: f"u:{id}")
    def users(ids: list[int]) -> dict[int, int]:
        return dict.fromkeys(ids, 0)

    users([1, 2])
    cache.invalidate_tag("u:1")
    assert users.peek([1, 2]) == {2: 0}
    with pytest.raises(TypeError, match="tags of the key themselves"):
        cache.set("k", 1, tags=lambda: "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, "sum"])
def test_a_partial_is_answered_with_a_function_around_it(cache: Cache, name: str | None) -> None:
    with pytest.raises(TypeError, match=r"def pow_with\(\.\.\.\): return pow\("):
        cache.cached(name=name)(functools.partial(pow, 2))


@pytest.mark.parametrize("option", ["codec", "fallback_codec", "also_read"])
def test_what_is_no_codec_is_refused_where_it_is_given(option: str) -> None:
    secret = r"SignedPickleCodec\(\[secret\]\)"
    for wrong, right in (("json", r"evercache.JSONCodec\(\)"), (SignedPickleCodec, secret)):
        with pytest.raises(ConfigurationError, match=right):
            Cache("memory://", **{option: (wrong,) if option == "also_read" else wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"JSONCodec\(\)"):
        Cache("memory://").cached(codec=JSONCodec)(lambda: 1)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options", [{"ttl": "5"}, {"ttl": -1}, {"stale": -1}, {"near": "1"}, {"cache_errors": {KeyError: -1}}], ids=str
)
def test_options_that_cannot_work_are_refused_at_decoration(cache: Cache, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        cache.cached(**options)(lambda: 1)


def test_two_local_functions_of_one_name_warn_once(cache: Cache) -> None:
    def decorated(number: int) -> Any:
        if number == 1:
            return cache.cached(first)
        if number == 2:

            def f() -> int:
                return 2
        else:

            def f() -> int:
                return 3

        f.__qualname__ = first.__qualname__
        return cache.cached(f)

    def first() -> int:
        return 1

    kept = [decorated(1), decorated(1)]
    with pytest.warns(UserWarning, match="version= or name="):
        kept.append(decorated(2))
    kept.append(decorated(3))  # a warning is an error here
