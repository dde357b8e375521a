"""Which classes may be rebuilt from what a store holds: an allow-list, asked by name and by class."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, TypeVar, get_args, get_origin

from evercache.codecs.scalars import SCALAR_CODES
from evercache.codecs.shapes import MARKUP, CustomShape, Shape, make_shape, markup_shape
from evercache.errors import ConfigurationError
from evercache.process import new_lock
from evercache.protocol.canonical import describe, type_name

__all__ = ["TypeRegistry"]

T = TypeVar("T", bound=type)
#: What is written as it is.
EXACT: Final = frozenset(
    {*SCALAR_CODES, *(str, float, bytes, bytearray, bool, type(None), list, dict, tuple, set, frozenset)}
    | {Counter, OrderedDict, defaultdict, deque, memoryview}
)
#: What evaluating an annotation of the user's may raise; the classes in it are then not allowed.
_UNRESOLVED = (NameError, TypeError, AttributeError, SyntaxError, ValueError, LookupError, RecursionError)


class TypeRegistry:
    """Classes by the names under which they were allowed. Nothing in a store is ever imported.

    A registry made for a function asks its parent (that of the cache) for what it does not know. Annotations
    are looked at on first use, so that classes defined later in the module are found. A lock guards changes;
    lookups take none.
    """

    def __init__(self, classes: Iterable[type] = (), *, parent: TypeRegistry | None = None) -> None:
        self._parent = parent
        self._lock = new_lock()
        self._by_class: dict[type, Shape] = {}
        self._by_mark: dict[bytes, Shape] = {}
        self._unread: list[Callable[..., Any]] = []
        for cls in classes:
            self.register(cls)

    def __repr__(self) -> str:
        return f"TypeRegistry({', '.join(sorted(shape.name for shape in self._by_class.values()))})"

    @classmethod
    def from_annotation(cls, fn: Callable[..., Any], *, parent: TypeRegistry | None = None) -> TypeRegistry:
        """The classes that the return annotation of a function names, also deep inside and in fields."""
        registry = cls(parent=parent)
        registry._unread.append(fn)
        return registry

    def register(
        self,
        cls: T,
        *,
        name: str | None = None,
        encode: Callable[[Any], object] | None = None,
        decode: Callable[[Any], object] | None = None,
    ) -> T:
        """Allow a class and the classes of its fields; returns it, so it serves as a decorator.

        Enums, named tuples, dataclasses, classes of attrs, msgspec Structs, pydantic models, and subclasses of
        built-in types without attributes of their own; any other class with `encode`, which turns an object into a
        value that can be encoded, and `decode`, which turns that back. `name` is what stands for it in the store,
        `module.qualname` by default. `ConfigurationError` for other classes.
        """
        shape: Shape | None
        if encode is not None or decode is not None:
            shape = _custom(cls, name, encode, decode)
        elif isinstance(cls, type) and cls in EXACT:
            raise ConfigurationError(f"{cls.__qualname__} cannot be registered: it is cached as it is")
        else:
            shape = make_shape(cls, name) if isinstance(cls, type) else None
        if shape is None:
            what = cls.__qualname__ if isinstance(cls, type) else "its class"
            raise ConfigurationError(
                f"{describe(cls)} cannot be registered by itself, as enums, named tuples, dataclasses, classes of "
                "attrs and msgspec Structs that compare by value, pydantic models and plain subclasses of built-in "
                f"types can: say how it is written, by cache.register({what}, encode=..., decode=...)"
            )
        with self._lock:
            self._add(shape)
            self._collect_fields(cls, {cls})
        return cls

    def shape_of(self, cls: type) -> Shape | None:
        """The shape of an allowed class."""
        if self._unread:
            self._read()
        shape = self._by_class.get(cls)
        # Of two classes with one name only the newer can be rebuilt.
        if shape is not None and self._by_mark.get(shape.mark) is shape:
            return shape
        if self._parent is not None:
            return self._parent.shape_of(cls)
        known = markup_shape() if cls.__name__ == "Markup" else None
        return known if known is not None and known.cls is cls else None

    def shape_named(self, mark: bytes) -> Shape | None:
        """The shape of which an encoded object speaks."""
        if self._unread:
            self._read()
        shape = self._by_mark.get(mark)
        if shape is None and self._parent is not None:
            return self._parent.shape_named(mark)
        if shape is None and mark.endswith(MARKUP):
            known = markup_shape()
            return known if known is not None and known.mark == mark else None
        return shape

    def _add(self, shape: Shape) -> None:
        self._by_mark[shape.mark] = shape
        self._by_class[shape.cls] = shape

    def _read(self) -> None:
        with self._lock:
            seen: set[Any] = set()
            for fn in tuple(self._unread):
                self._collect(_return_annotation(fn), seen)
            self._unread.clear()

    def _collect(self, annotation: Any, seen: set[Any]) -> None:
        try:
            if annotation in seen:
                return
            seen.add(annotation)
        except TypeError:  # an annotation that cannot be hashed, such as Literal[[1]]
            return
        if isinstance(annotation, TypeVar):
            self._collect_all((annotation.__bound__, *annotation.__constraints__), seen)
            return
        target = getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)
        if target is not None and not isinstance(annotation, (type, Enum)):  # NewType, `type X = ...`
            self._collect(target, seen)
            return
        origin = get_origin(annotation)
        if origin is typing.Literal:
            self._collect_all([type(arg) for arg in get_args(annotation)], seen)
            return
        if origin is not None:
            self._collect_all((origin, *get_args(annotation)), seen)
            return
        if isinstance(annotation, types.GenericAlias) or not isinstance(annotation, type):
            return
        shape = make_shape(annotation)
        if shape is not None and annotation not in self._by_class:
            self._add(shape)
        self._collect_fields(annotation, seen)

    def _collect_all(self, annotations: Iterable[Any], seen: set[Any]) -> None:
        for annotation in annotations:
            if annotation is not None and not isinstance(annotation, (str, bytes, int)):
                self._collect(annotation, seen)

    def _collect_fields(self, cls: type, seen: set[Any]) -> None:
        marks = ("_fields", "__attrs_attrs__", "__struct_fields__", "model_fields", "__total__")
        structured = dataclasses.is_dataclass(cls) or any(hasattr(cls, mark) for mark in marks)
        if not structured:
            return
        try:
            hints = typing.get_type_hints(cls)
        except _UNRESOLVED:
            hints = {k: v for k, v in vars(cls).get("__annotations__", {}).items() if not isinstance(v, str)}
        self._collect_all(hints.values(), seen)


def _custom(cls: Any, name: str | None, encode: Any, decode: Any) -> Shape:
    if not callable(encode) or not callable(decode):
        raise ConfigurationError("register(cls, encode=, decode=) takes two functions: one writes, one reads")
    if not isinstance(cls, type):
        raise ConfigurationError(f"register() takes a class, not {describe(cls)}")
    if cls in EXACT:
        raise ConfigurationError(f"{cls.__qualname__} is cached as it is: register a class of your own")
    return CustomShape(cls, name or type_name(cls), encode, decode)


def _return_annotation(fn: Callable[..., Any]) -> Any:
    """What a function says it returns, text evaluated where that is possible, else None."""
    fn = inspect.unwrap(fn)
    try:
        annotation = fn.__annotations__["return"]
        # Alone, so that the annotations of the parameters may name what only a type checker sees.
        alone = types.SimpleNamespace(__annotations__={"return": annotation})
        names = dict(getattr(fn, "__globals__", {}))
        closure = getattr(fn, "__closure__", None) or ()
        for variable, cell in zip(fn.__code__.co_freevars, closure, strict=False):
            names[variable] = cell.cell_contents
        return typing.get_type_hints(alone, globalns=names)["return"]
    except _UNRESOLVED:
        return None
