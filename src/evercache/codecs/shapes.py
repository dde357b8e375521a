"""How the objects of one class are taken apart and put together again, for each kind of class.

No `__init__` runs when an object is rebuilt (msgspec Structs cannot be made without theirs). A class
whose objects hold more than the shape knows of is refused when it is encoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from enum import Enum, Flag
from hashlib import blake2b
from types import MemberDescriptorType
from typing import Any, Final

from evercache.errors import CannotEncode
from evercache.protocol.canonical import describe, instance_state, shown, static_bases, type_name

__all__ = ["MARKUP", "MISSING", "CustomShape", "Shape", "make_shape", "markup_shape"]


class _Missing:
    """Stands for a field that is not set."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


class Shape:
    """One allowed class under its name. Immutable."""

    kind = "?"

    def __init__(self, cls: type, name: str, fields: tuple[str, ...] = ()) -> None:
        self.cls = cls
        self.name = name
        self.fields = fields
        # A class whose fields have changed since is another one: what was stored is a miss then.
        fingerprint = blake2b("\0".join((self.kind, *fields)).encode(), digest_size=4).digest()
        self.mark = fingerprint + name.encode("utf-8", "surrogatepass")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def take(self, value: Any) -> list[Any]:
        """The parts of an object, or `CannotEncode`."""
        raise CannotEncode(f"{describe(value)} cannot be taken apart")

    def build(self, parts: list[Any]) -> object:
        """An object of these parts; any error means that the bytes are not ours."""
        raise ValueError(f"{self.name} cannot be rebuilt")

    def refuse(self, why: str) -> CannotEncode:
        """The error for an object that is more than its shape."""
        return CannotEncode(
            f"an object of {self.name} {why}, so a cached copy would differ: return a plain value instead"
        )


class EnumShape(Shape):
    """Members by name, flags by value."""

    kind = "enum"

    def take(self, value: Any) -> list[Any]:
        if isinstance(value, Flag):
            return [int(value.value)]
        if self.cls._member_map_.get(value._name_) is not value:  # type: ignore[attr-defined]
            raise self.refuse("is no member of its class")
        return [value._name_]

    def build(self, parts: list[Any]) -> object:
        (part,) = parts
        if issubclass(self.cls, Flag):
            if type(part) is not int:
                raise ValueError("a flag is a number")
            return self.cls(part)
        return self.cls._member_map_[part]  # type: ignore[attr-defined]


class BuiltinShape(Shape):
    """Subclasses of built-in types without attributes of their own; named tuples among them."""

    kind = "builtin"

    def __init__(self, cls: type, name: str, base: type) -> None:
        super().__init__(cls, name, (base.__name__, *getattr(cls, "_fields", ())))
        self.base = base
        self.width = len(cls._fields) if hasattr(cls, "_fields") else None

    def take(self, value: Any) -> list[Any]:
        if instance_state(value):
            raise self.refuse(f"has attributes of its own ({', '.join(instance_state(value))})")
        parts = [_EXACT[self.base](value)]
        self._check(parts[0], CannotEncode)
        try:
            rebuilt = self.build(parts)
        except (TypeError, ValueError) as error:  # bases written in C may refuse the built-in constructor
            raise self.refuse("cannot be made from its parts") from error
        if type(rebuilt) is not self.cls:
            raise self.refuse("cannot be made from its parts")
        return parts

    def build(self, parts: list[Any]) -> object:
        (part,) = parts
        base: Any = self.base
        if type(part) is not (list if base is tuple else base):
            raise ValueError(f"{self.name} is not made of {type(part).__name__}")
        self._check(part, ValueError)
        if base in _FILLERS:
            made = base.__new__(self.cls)
            _FILLERS[base](made, part)
            return made
        return base.__new__(self.cls, part)

    def _check(self, part: Any, error: type[Exception]) -> None:
        if self.width is not None and len(part) != self.width:
            raise error(f"{self.name} has {self.width} fields, not {len(part)}")


_EXACT: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes.__bytes__,
    bytearray: lambda value: bytearray(memoryview(value)),
    tuple: lambda value: list(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
_FILLERS: dict[type, Callable[[Any, Any], None]] = {
    bytearray: bytearray.extend,
    list: list.extend,
    dict: dict.update,
    set: set.update,
}


class DataclassShape(Shape):
    """Dataclasses and classes of attrs by their fields, frozen and slotted ones as well."""

    kind = "dataclass"

    def __init__(self, cls: type, name: str, fields: Iterable[str]) -> None:
        super().__init__(cls, name, tuple(fields))
        self._known = frozenset(self.fields)
        self._slots: dict[str, MemberDescriptorType] = {}
        for base in reversed(cls.__mro__):
            for key, member in vars(base).items():
                if isinstance(member, MemberDescriptorType):
                    self._slots[key] = member

    def take(self, value: Any) -> list[Any]:
        state = instance_state(value)
        if extra := state.keys() - self._known:
            raise self.refuse(f"has attributes that are no fields ({', '.join(sorted(extra))})")
        return [state.get(name, MISSING) for name in self.fields]

    def build(self, parts: list[Any]) -> object:
        made: Any = object.__new__(self.cls)
        for name, part in zip(self.fields, parts, strict=True):
            if part is MISSING:
                continue
            slot = self._slots.get(name)
            if slot is not None:
                slot.__set__(made, part)
            else:
                made.__dict__[name] = part
        return made


class AttrsShape(DataclassShape):
    """The same by the names that attrs keeps."""

    kind = "attrs"


class CustomShape(Shape):
    """A class with the application's own functions: to something that can be encoded, and back."""

    kind = "custom"

    def __init__(
        self, cls: type, name: str, encode: Callable[[Any], object], decode: Callable[[Any], object]
    ) -> None:
        super().__init__(cls, name)
        self._encode, self._decode = encode, decode

    def take(self, value: Any) -> list[Any]:
        """What `encode` makes of it."""
        try:
            return [self._encode(value)]
        except Exception as error:
            raise self.refuse(f"cannot be written by its encode= ({shown(error)})") from error

    def build(self, parts: list[Any]) -> object:
        """What `decode` makes of that."""
        (part,) = parts
        made = self._decode(part)
        if type(made) is not self.cls:
            raise ValueError(f"decode= of {self.name} made {describe(made)}")
        return made


class StructShape(Shape):
    """msgspec Structs. Their `__init__` runs, and the fields are set again to what was stored."""

    kind = "struct"

    def __init__(self, cls: type, name: str) -> None:
        super().__init__(cls, name, tuple(cls.__struct_fields__))  # type: ignore[attr-defined]

    def take(self, value: Any) -> list[Any]:
        if instance_state(value).keys() - set(self.fields):
            raise self.refuse("has attributes that are no fields")
        try:
            return [getattr(value, name) for name in self.fields]
        except AttributeError as error:
            raise self.refuse("has a field that is not set") from error

    def build(self, parts: list[Any]) -> object:
        from msgspec.structs import force_setattr

        made: Any = self.cls(**dict(zip(self.fields, parts, strict=True)))
        for name, part in zip(self.fields, parts, strict=True):
            if getattr(made, name) is not part:
                force_setattr(made, name, part)
        return made


class ModelShape(Shape):
    """pydantic models: fields, extra values, private attributes, and which fields were set."""

    kind = "model"

    def __init__(self, cls: type, name: str) -> None:
        super().__init__(cls, name, tuple(cls.model_fields))  # type: ignore[attr-defined]
        self._known = frozenset(self.fields)

    def take(self, value: Any) -> list[Any]:
        held = value.__dict__
        if extra := held.keys() - self._known:
            raise self.refuse(f"has attributes that are no fields ({', '.join(sorted(extra))})")
        private = value.__pydantic_private__
        if private is not None:
            private = {
                name: part for name, part in private.items() if type(part).__name__ != "PydanticUndefinedType"
            }
        fields_set = sorted(value.__pydantic_fields_set__)
        return [fields_set, value.__pydantic_extra__, private, *[held.get(f, MISSING) for f in self.fields]]

    def build(self, parts: list[Any]) -> object:
        fields_set, extra, private, *rest = parts
        held = {f: part for f, part in zip(self.fields, rest, strict=True) if part is not MISSING}
        made: Any = object.__new__(self.cls)
        object.__setattr__(made, "__dict__", held)
        object.__setattr__(made, "__pydantic_fields_set__", set(fields_set))
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", private)
        return made


def make_shape(cls: type, name: str | None = None) -> Shape | None:
    """The shape of a class, or None where its objects cannot be rebuilt with certainty."""
    label = name if name is not None else type_name(cls)
    static = static_bases(cls)
    if cls in _EXACT or not cls.__flags__ & (1 << 9):
        return None
    if issubclass(cls, Enum):
        return EnumShape(cls, label) if hasattr(cls, "_member_map_") else None
    if hasattr(cls, "__struct_fields__"):
        return StructShape(cls, label) if _has_equality(cls) and cls.__name__ != "Struct" else None
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "__pydantic_private__") and not static:
        return ModelShape(cls, label)
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
        return DataclassShape(cls, label, names) if not static and _has_equality(cls) else None
    if hasattr(cls, "__attrs_attrs__"):
        names = [field.name for field in cls.__attrs_attrs__]
        return AttrsShape(cls, label, names) if not static and _has_equality(cls) else None
    for base in _EXACT:
        if static == {base}:
            return BuiltinShape(cls, label, base)
    return None


def markup_shape() -> Shape | None:
    """The shape of markupsafe's `Markup`, which templates return; None where it is not installed."""
    try:
        from markupsafe import Markup
    except ImportError:
        return None
    return make_shape(Markup)


#: `Markup` in a store.
MARKUP: Final = b"markupsafe.Markup"


def _has_equality(cls: Any) -> bool:
    """Whether a copy can equal its original at all."""
    config = getattr(cls, "__struct_config__", None)
    if config is not None and config.eq:
        return True
    return any("__eq__" in vars(base) for base in cls.__mro__ if base.__flags__ & (1 << 9))
