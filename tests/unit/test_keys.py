"""Keys of calls, names of functions, tags."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.errors import ConfigurationError
from evercache.protocol.keys import (
    DEFAULT_NAMING,
    MAX_KEY_BYTES,
    Naming,
    ReadableNaming,
    Signature,
    TagTemplate,
    check_cacheable,
    check_namespace,
)


def simple(a: int, b: int = 2) -> None: ...


def rich(a: Any, /, b: Any, *rest: Any, c: Any = 3, **named: Any) -> None: ...


def keyword_only(*, a: Any, b: Any = None) -> None: ...


def text(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    return Signature.of(fn).call_text(args, kwargs)


def test_one_call_has_one_text_however_it_is_written() -> None:
    forms = {text(simple, 1), text(simple, a=1), text(simple, 1, 2), text(simple, b=2, a=1)}
    assert forms == {"1,2"}
    assert text(simple, 1, 3) != text(simple, 1)
    assert text(rich, 1, 2) == text(rich, 1, b=2, c=3) == "1,2,(),3,{}"
    assert text(rich, 1, 2, 4, x=5) == "1,2,(4,),3,{'x':5}"
    assert text(rich, 1, 2, x=5, y=6) == text(rich, 1, 2, y=6, x=5)
    assert text(keyword_only, b=1, a=2) == "2,1"
    assert text(lambda: None) == ""


@pytest.mark.parametrize("args", [(1,), (True,), (1.0,), ("1",), (b"1",), ((1,),), (None,)])
def test_types_make_a_difference(args: tuple[Any, ...]) -> None:
    others = [(1,), (True,), (1.0,), ("1",), (b"1",), ((1,),), (None,)]
    assert sum(text(simple, *args) == text(simple, *other) for other in others) == 1


@given(st.lists(st.text(max_size=5) | st.integers(0, 3) | st.booleans(), max_size=4), st.data())
def test_star_arguments_do_not_collide(args: list[Any], data: st.DataObject) -> None:
    def any_arguments(*args: Any) -> None: ...

    other = data.draw(st.lists(st.text(max_size=5) | st.integers(0, 3) | st.booleans(), max_size=4))
    same = [(type(x), x) for x in args] == [(type(x), x) for x in other]
    assert (text(any_arguments, *args) == text(any_arguments, *other)) == same


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (simple, (), {}),
        (simple, (1, 2, 3), {}),
        (simple, (1,), {"a": 1}),
        (simple, (1,), {"z": 1}),
        (rich, (1,), {}),
        (rich, (), {"a": 1, "b": 2}),
        (keyword_only, (1,), {}),
        (keyword_only, (), {}),
    ],
)
def test_a_bad_call_gives_the_ordinary_error(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError) as ordinary:
        fn(*args, **kwargs)
    with pytest.raises(TypeError) as ours:
        Signature.of(fn).bind(*args, **kwargs)
    assert str(ours.value) == str(ordinary.value)


def test_ignored_parameters_make_no_difference_but_are_known_to_tags() -> None:
    signature = Signature.of(simple, ignore=("b",))
    assert signature.call_text((1,), {}) == signature.call_text((1,), {"b": object()}) == "1"
    assert signature.arguments(signature.bind(1, b=9)) == {"a": 1, "b": 9}
    with pytest.raises(TypeError, match=r"names c, but .*simple has the parameters a, b"):
        Signature.of(simple, ignore=("c",))
    with pytest.raises(TypeError, match=r"write ignore=\('b',\)"):
        Signature.of(simple, ignore="b")


def test_key_function_replaces_the_arguments() -> None:
    signature = Signature.of(simple, key=lambda a, b=2: ("k", a % 10))
    assert signature.call_text((11,), {}) == signature.call_text((1,), {"b": 5}) == "('k',1)"
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        signature.call_text((), {})
    with pytest.raises(TypeError, match=r"key= of .*simple returned an object of builtins\.object"):
        Signature.of(simple, key=lambda *a: object()).call_text((1,), {})
    with pytest.raises(TypeError, match="either key= or ignore="):
        Signature.of(simple, key=lambda a, b: a, ignore=("b",))


class Plain:
    def method(self, a: int) -> None: ...


class Known:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> int:
        return self.number

    def method(self, a: int) -> None: ...

    @classmethod
    def made(cls, a: int) -> None: ...


def test_methods_key_on_the_type_and_the_cache_key() -> None:
    assert text(Known.method, Known(3), 1) == f"{__name__}.Known{{3}},1"
    assert text(Known.method, Known(3), 1) != text(Known.method, Known(4), 1)
    assert text(Known.made.__func__, Known, 1) == f"type{{'{__name__}.Known'}},1"  # type: ignore[attr-defined]


def test_an_argument_without_a_text_is_named_with_the_mend() -> None:
    with pytest.raises(TypeError) as caught:
        text(Plain.method, Plain(), 1)
    message = str(caught.value)
    for part in ("'self'", "Plain.method", f"{__name__}.Plain", "__cache_key__", "ignore=('self',)", "key="):
        assert part in message
    with pytest.raises(TypeError, match=r"argument 'named' of .*rich"):
        text(rich, 1, 2, x=object())


def test_a_bare_object_as_a_default_means_not_given() -> None:
    missing = object()

    def fn(a: int, b: object = missing) -> None: ...

    assert text(fn, 1) == text(fn, 1, missing) == "1,default{}"
    assert text(fn, 1, None) != text(fn, 1)
    with pytest.raises(TypeError, match="'b'"):
        text(fn, 1, object())


def test_wrapped_functions_keep_their_signature() -> None:
    @functools.wraps(simple)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert text(wrapper, a=1) == "1,2"


# Names


def test_readable_names() -> None:
    naming: Naming = DEFAULT_NAMING
    name = naming.function_name(Plain.method)
    assert name == f"{__name__}.Plain.method"
    assert naming.function_name(simple, 2) == f"{__name__}.simple@2"
    assert naming.function_name(simple, "v1.0") == f"{__name__}.simple@v1.0"
    assert naming.entry_key("shop", "app.f", "7") == "shop:f:app.f(7)"
    assert naming.direct_key("shop", "user:7") == "shop:k:user:7"
    assert repr(naming) == "ReadableNaming()"
    with pytest.raises(ConfigurationError, match="version="):
        naming.function_name(simple, "a(b")


def test_long_arguments_are_hashed_and_the_name_is_kept() -> None:
    long, longer = "'" + "x" * 300 + "'", "'" + "x" * 301 + "'"
    key = DEFAULT_NAMING.entry_key("shop", "app.f", long)
    assert key.startswith("shop:f:app.f(#")
    assert len(key) == len("shop:f:app.f(#)") + 32
    assert key != DEFAULT_NAMING.entry_key("shop", "app.f", longer)
    edge = "1" * (MAX_KEY_BYTES - len("shop:f:app.f()"))
    assert len(DEFAULT_NAMING.entry_key("shop", "app.f", edge)) == MAX_KEY_BYTES
    assert "#" in DEFAULT_NAMING.entry_key("shop", "app.f", edge + "1")


@given(
    st.text(min_size=1, max_size=300),
    st.text(min_size=1, max_size=300),
    st.none() | st.integers(0, 10**30),
    st.integers(0, 400),
    st.text("abc", min_size=1, max_size=60),
)
def test_keys_are_bounded_and_names_differ(
    qualname: str, other: str, version: int | None, length: int, namespace: str
) -> None:
    def named(name: str) -> Callable[..., None]:
        def fn() -> None: ...

        fn.__qualname__ = name
        return fn

    naming = ReadableNaming()
    name = naming.function_name(named(qualname), version)
    assert (name == naming.function_name(named(other), version)) == (qualname == other)
    key = naming.entry_key(namespace, name, "1" * length)
    assert key.startswith(f"{namespace}:f:{name}(")
    assert len(key.encode()) <= MAX_KEY_BYTES


@given(st.lists(st.text(alphabet=st.characters(codec=None), min_size=1), min_size=2, max_size=2, unique=True))
def test_direct_keys_are_bounded_and_differ(keys: list[str]) -> None:
    one, other = [DEFAULT_NAMING.direct_key("shop", key) for key in keys]
    assert one != other
    assert len(one.encode()) <= MAX_KEY_BYTES


def test_direct_keys_that_look_hashed_or_have_no_utf8_are_hashed() -> None:
    long = "x" * 1000
    hashed = DEFAULT_NAMING.direct_key("shop", long)
    assert len(hashed) == len("shop:k:#") + 32
    assert DEFAULT_NAMING.direct_key("shop", hashed.removeprefix("shop:k:")) != hashed
    assert DEFAULT_NAMING.direct_key("shop", "\ud800").startswith("shop:k:#")
    for bad in ("", None, 7, b"x"):
        with pytest.raises(TypeError, match="not empty"):
            DEFAULT_NAMING.direct_key("shop", bad)  # type: ignore[arg-type]


def test_namespaces_are_short_and_plain() -> None:
    assert check_namespace("my-shop_1.x") == "my-shop_1.x"
    for bad in ("", "Shop", "a b", "a:b", "a~b", "x" * 61):
        with pytest.raises(ConfigurationError, match="namespace"):
            check_namespace(bad)


# What can be cached


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Holder:
    @property
    def prop(self) -> int:
        return 1

    @functools.cached_property
    def lazy(self) -> int:
        return 1


def test_check_cacheable() -> None:
    assert check_cacheable(simple) is False
    assert check_cacheable(coroutine) is True
    for bad, word in [
        (generator, "generator"),
        (async_generator, "generator"),
        (Holder.__dict__["prop"], "property"),
        (Holder.__dict__["lazy"], "property"),
        (Holder, "class"),
        (staticmethod(simple), "staticmethod"),
        (classmethod(simple), "classmethod"),
        (7, "not a function"),
        (functools.partial(simple, 1), "no name"),
    ]:
        with pytest.raises(TypeError, match=word):
            check_cacheable(bad)


# Tags


def test_tag_templates() -> None:
    template = TagTemplate.compile("project:{project_id}:{kind}", ("project_id", "kind", "x"))
    assert template.names == ("project_id", "kind")
    assert template.render({"project_id": 7, "kind": "a", "x": object()}) == "project:7:a"
    assert template.render({"project_id": UUID(int=1), "kind": None}) == f"project:{UUID(int=1)}:None"
    assert TagTemplate.compile("a{{{x}}}", ("x",)).render({"x": 1}) == "a{1}"
    assert TagTemplate.compile("plain", ()).render({}) == "plain"


@pytest.mark.parametrize(
    "source",
    ["{y}", "{x.y}", "{x[0]}", "{x:>3}", "{x!r}", "{}", "{0}", "{x", "x}", "{{x}", "{ x}", "", "{x}}"],
)
def test_bad_templates_are_refused_at_compilation(source: str) -> None:
    with pytest.raises(TypeError, match="tag"):
        TagTemplate.compile(source, ("x",))


@pytest.mark.parametrize("value", [object(), [1], {"a": 1}, b"x", (1,), lambda: 1])
def test_a_tag_needs_a_plain_value(value: object) -> None:
    with pytest.raises(TypeError, match=r"'x'.*'t:{x}'"):
        TagTemplate.compile("t:{x}", ("x",)).render({"x": value})
