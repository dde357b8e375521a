"""Which classes a function's annotation allows."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
)

import msgspec
import pytest
from markupsafe import Markup

from evercache.codecs import StrictCodec, TypeRegistry
from evercache.errors import CannotEncode, ConfigurationError

if TYPE_CHECKING:
    from nowhere import Unseen  # type: ignore[import-not-found]

T = TypeVar("T")


class Color(Enum):
    RED = 1


class Shade(Enum):
    DARK = 1


class Place(NamedTuple):
    color: Color


@dataclass
class Leaf:
    n: int


@dataclass
class Tree:
    leaves: list[Leaf]
    parent: Tree | None = None


@dataclass
class Box(Generic[T]):
    item: T


class Record(TypedDict):
    leaf: Leaf
    place: Place


class Structure(msgspec.Struct):
    leaf: Leaf


class Plain:
    pass


Alias = NewType("Alias", Leaf)
Bound = TypeVar("Bound", bound=Leaf)


def direct() -> Leaf: ...
def optional() -> Optional[Leaf]: ...  # noqa: UP045
def union() -> int | Leaf | str: ...
def inside() -> dict[str, list[tuple[Leaf, ...]]]: ...
def iterable() -> Iterable[Leaf]: ...
def annotated() -> Annotated[Leaf, "note"]: ...
def through_fields() -> Tree: ...
def through_typed_dict() -> Record: ...
def through_struct() -> Structure: ...
def argument_of_generic() -> Box[Leaf]: ...
def new_type() -> Alias: ...
def type_variable() -> Bound: ...
def with_unseen(x: Unseen) -> Leaf: ...
async def coroutine() -> list[Leaf]: ...


FUNCTIONS = [
    direct, optional, union, inside, iterable, annotated, through_fields, through_typed_dict, through_struct,
    argument_of_generic, new_type, type_variable, with_unseen, coroutine,
]  # fmt: skip


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_classes_in_the_annotation_are_allowed(fn: Any) -> None:
    registry = TypeRegistry.from_annotation(fn)
    codec = StrictCodec()
    assert codec.decode(codec.encode([Leaf(1)], registry), registry) == [Leaf(1)]
    with pytest.raises(CannotEncode):
        codec.encode(Shade.DARK, registry)


def nothing():  # type: ignore[no-untyped-def]
    ...


def unresolvable() -> Unseen: ...
def nested_unresolvable() -> dict[str, Unseen]: ...
def anything() -> Any: ...
def plain() -> Plain: ...
def literal() -> Literal["a", Color.RED]: ...


@pytest.mark.parametrize("fn", [nothing, unresolvable, nested_unresolvable, anything, plain, len])
def test_annotations_that_say_nothing_allow_nothing(fn: Any) -> None:
    registry = TypeRegistry.from_annotation(fn)
    assert registry.shape_of(Leaf) is None
    assert registry.shape_of(Plain) is None


def test_more_kinds() -> None:
    assert TypeRegistry.from_annotation(through_typed_dict).shape_of(Color) is not None
    assert TypeRegistry.from_annotation(literal).shape_of(Color) is not None


def test_a_class_defined_later_is_found() -> None:
    scope: dict[str, Any] = {"__name__": "later"}
    exec("from __future__ import annotations\ndef fn() -> list[Later]: ...\n", scope)
    registry = TypeRegistry.from_annotation(scope["fn"])
    exec("import enum\nclass Later(enum.Enum):\n    A = 1\n", scope)
    assert registry.shape_of(scope["Later"]) is not None


def test_a_class_of_the_enclosing_function_is_found() -> None:
    @dataclass
    class Local:
        a: int

    def fn() -> Local:
        return Local(1)

    assert TypeRegistry.from_annotation(fn).shape_of(Local) is not None


def test_the_parent_is_asked() -> None:
    parent = TypeRegistry()
    registry = TypeRegistry.from_annotation(nothing, parent=parent)
    assert registry.shape_of(Leaf) is None
    assert parent.register(Leaf) is Leaf
    shape = registry.shape_of(Leaf)
    assert shape is not None
    assert registry.shape_named(shape.mark) is shape
    assert registry.shape_named(b"xxxxapp.Unknown") is None
    assert repr(parent) == f"TypeRegistry({__name__}.Leaf)"


def test_registering_allows_the_fields_too() -> None:
    registry = TypeRegistry([Tree])
    assert registry.shape_of(Leaf) is not None


def test_of_two_classes_with_one_name_only_the_newer_is_taken() -> None:
    def make() -> type:
        @dataclass
        class Same:
            a: int

        return Same

    old, new = make(), make()
    registry = TypeRegistry([old, new])
    with pytest.raises(CannotEncode):
        StrictCodec().encode(old(1), registry)
    codec = StrictCodec()
    assert type(codec.decode(codec.encode(new(1), registry), registry)) is new


@pytest.mark.parametrize(
    "cls",
    [Plain, int, dict, object, collections.OrderedDict, collections.UserDict, ValueError, "Leaf", Leaf(1)],
)
def test_other_classes_cannot_be_registered(cls: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be registered"):
        TypeRegistry().register(cls)


def test_subclasses_of_builtins_can_be_registered() -> None:
    registry = TypeRegistry([Markup])
    codec = StrictCodec()
    copy = codec.decode(codec.encode(Markup("<b>"), registry), registry)
    assert type(copy) is Markup
    assert copy == "<b>"
