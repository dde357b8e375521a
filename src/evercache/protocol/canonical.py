"""The text that stands for a value inside a key: typed, stable, and different for different values.

The text is plain ASCII. Exact values of the built-in types look as they do in Python; everything else
is written `module.Type{...}`, so that no text of one type can be read as a text of another.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import cached_property, lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, GeneratorType, MemberDescriptorType
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

__all__ = [
    "canonical",
    "describe",
    "import_name",
    "instance_state",
    "local_mark",
    "shown",
    "static_bases",
    "type_name",
]

#: Containers inside containers; a value that contains itself ends here too.
MAX_DEPTH = 50
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set for classes made by a class statement
_PLAIN_NAME = re.compile(r"[\w.<>-]+", re.ASCII)
_MICROSECOND = dt.timedelta(microseconds=1)
#: Characters of a value in a message.
_SHOWN = 1000


def canonical(value: object) -> str:
    """The text of a value, or a `TypeError` that says which part of it has none.

    Different values, also those that only differ in type (`1`, `True`, `1.0`), have different texts.
    The order of dicts and sets does not matter. An object takes part by its `__cache_key__()` method.
    """
    scalar = _SCALARS.get(type(value))
    return scalar(value) if scalar is not None else _text(value, MAX_DEPTH)


def import_name(module: str) -> str:
    """The name of a module as other processes import it: `__main__` becomes its own name."""
    return _main_name(module) if module in ("__main__", "__mp_main__") else module


def _main_name(module: str) -> str:
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name)
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else module


def type_name(kind: type) -> str:
    """`module.qualname` of a class, with the import name of `__main__`."""
    return f"{import_name(kind.__module__)}.{kind.__qualname__}"


def describe(value: object) -> str:
    """What a value is, for error messages: `a generator`, `a lambda`, `an object of shop.Cart`, ..."""
    if isinstance(value, GeneratorType):
        return "a generator"
    if isinstance(value, FunctionType):
        return "a lambda" if value.__name__ == "<lambda>" else f"the function {value.__qualname__}"
    if isinstance(value, BuiltinFunctionType):
        return f"the function {value.__qualname__}"
    if isinstance(value, type):
        return f"the class {type_name(value)}"
    return f"an object of {type_name(type(value))}"


def shown(value: object, write: Callable[[Any], str] = repr) -> str:
    """The repr of a value (or its `str`) for messages: never too long, and never an error of the value's class."""
    try:
        text = write(value)
    except Exception as error:
        return f"<{describe(value)}, of which {write.__name__}() raises {type(error).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@lru_cache(maxsize=1024)
def static_bases(kind: Any) -> frozenset[type]:
    """The classes written in C among the bases: their objects may hold state that Python cannot see."""
    return frozenset(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE) - {object}


@lru_cache(maxsize=1024)
def _slots(kind: Any) -> dict[str, MemberDescriptorType]:
    slots: dict[str, MemberDescriptorType] = {}
    for base in kind.__mro__:
        if base.__flags__ & _HEAP_TYPE:
            for name, member in vars(base).items():
                if isinstance(member, MemberDescriptorType):
                    slots.setdefault(name, member)
    return slots


def instance_state(value: object) -> dict[str, object]:
    """What an object holds in its `__dict__` and its slots, by name; unset slots are left out."""
    state = dict(getattr(value, "__dict__", ()))
    state.pop("__orig_class__", None)  # left by typing at Box[int](...): says nothing of the value
    kind: Any = type(value)
    for name, member in _slots(kind).items():
        try:
            state[name] = member.__get__(value)
        except AttributeError:
            continue
    return state


def _keyed_state(value: object) -> dict[str, object]:
    """The state without what a `cached_property` has put there: it comes and goes."""
    kind = type(value)
    state = instance_state(value)
    return {k: v for k, v in state.items() if not isinstance(getattr(kind, k, None), cached_property)}


def _int(value: int) -> str:
    # Decimal digits of very long numbers are slow, and refused by Python's own limit.
    return repr(value) if value.bit_length() <= 1024 else hex(value)


def _datetime(value: dt.datetime, left: int = MAX_DEPTH) -> str:
    zone = "" if value.tzinfo is None else "," + _zone(value.tzinfo, value, left)
    return f"datetime({value.replace(tzinfo=None).isoformat()}{',fold' if value.fold else ''}{zone})"


def _time(value: dt.time, left: int = MAX_DEPTH) -> str:
    zone = "" if value.tzinfo is None else "," + _zone(value.tzinfo, None, left)
    return f"time({value.replace(tzinfo=None).isoformat()}{',fold' if value.fold else ''}{zone})"


def _zone(zone: dt.tzinfo, at: dt.datetime | None, left: int) -> str:
    kind = type(zone)
    if kind is dt.timezone:
        return f"timezone({zone.utcoffset(None) // _MICROSECOND},{zone.tzname(None)!a})"  # type: ignore[operator]
    if kind is ZoneInfo:
        if zone.key is None:  # type: ignore[attr-defined]
            raise TypeError("a ZoneInfo without a key has no stable text for a cache key")
        return f"zone({zone.key!a})"  # type: ignore[attr-defined]
    if hasattr(kind, "__cache_key__"):
        return _text(zone, left)
    name = getattr(zone, "zone", None) or getattr(zone, "key", None)  # pytz, and zoneinfo's look-alikes
    offset = zone.utcoffset(at)
    minutes = None if offset is None else offset // _MICROSECOND
    return f"{_type(kind)}{{{minutes},{zone.tzname(at)!a},{name if name is None else str(name)!a}}}"


_SCALARS: dict[type, Callable[[Any], str]] = {
    int: _int,
    str: ascii,  # repr depends on the Unicode version of the interpreter, ascii does not
    bool: repr,
    float: repr,
    type(None): repr,
    bytes: repr,
    bytearray: repr,
    complex: repr,
    range: repr,
    Decimal: repr,
    UUID: repr,
    dt.date: lambda value: f"date({value.isoformat()})",
    dt.timedelta: lambda value: f"timedelta({value.days},{value.seconds},{value.microseconds})",
    dt.datetime: _datetime,
    dt.time: _time,
    **dict.fromkeys((IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface), ascii),
    Fraction: lambda value: f"Fraction({_int(value.numerator)},{_int(value.denominator)})",
}


def _text(value: object, left: int) -> str:
    kind = type(value)
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    if not left:
        raise TypeError(
            f"it is nested deeper than {MAX_DEPTH} levels, or contains itself, so it has no text for a cache key"
        )
    container = _CONTAINERS.get(kind)
    if container is not None:
        return container(value, left - 1)
    return _object(value, kind, left - 1)


def _tuple(value: Iterable[object], left: int) -> str:
    parts = [_text(item, left) for item in value]
    return f"({parts[0]},)" if len(parts) == 1 else f"({','.join(parts)})"


def _list(value: Iterable[object], left: int) -> str:
    return f"[{','.join([_text(item, left) for item in value])}]"


def _dict(value: dict[Any, Any], left: int) -> str:
    pairs = [f"{_text(key, left)}:{_text(item, left)}" for key, item in dict.items(value)]
    return f"{{{','.join(sorted(pairs))}}}"


def _set(value: Iterable[object], left: int) -> str:
    return f"set{{{','.join(sorted([_text(item, left) for item in value]))}}}"


_CONTAINERS: dict[type, Callable[[Any, int], str]] = {
    tuple: _tuple,
    list: _list,
    dict: _dict,
    set: _set,
    frozenset: lambda value, left: "frozen" + _set(value, left),
    OrderedDict: lambda value, left: f"OrderedDict{_list(value.items(), left)}",
    defaultdict: lambda value, left: f"defaultdict{{{_text(value.default_factory, left)},{_dict(value, left)}}}",
}

#: How a subclass of a built-in type gives its value as the built-in type, past its own methods.
_BASES: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes.__bytes__,
    bytearray: lambda value: bytearray(memoryview(value)),
    complex: complex.__complex__,
    tuple: lambda value: tuple(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    Decimal: Decimal,
    dt.datetime: lambda v: dt.datetime.combine(dt.datetime.date(v), dt.datetime.timetz(v)),
    dt.date: lambda value: dt.date(value.year, value.month, value.day),
    dt.timedelta: lambda value: dt.timedelta(value.days, value.seconds, value.microseconds),
}


def _type(kind: type) -> str:
    name = type_name(kind)
    if "<" in name:
        name += local_mark(kind)
    return name if _PLAIN_NAME.fullmatch(name) else ascii(name)


#: Weak: an application factory makes such classes again and again. A lost update does no harm.
_marks: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def local_mark(kind: type) -> str:
    """What tells a class that a function made from others of the same name: a digest of the data that it holds.

    "" for a class that holds none, or can be imported. Data are public attributes that are plain and immutable, as
    they are when this is first asked for the class.
    """
    mark = _marks.get(kind)
    if mark is None:
        mark = _marks[kind] = _local_mark(kind)
    return mark


def _local_mark(kind: type) -> str:
    try:
        _reachable_name(kind)
    except TypeError:
        pass
    else:
        return ""
    held: dict[str, object] = {}
    for base in kind.__mro__:
        if "<" in base.__qualname__:
            for name, value in vars(base).items():
                plain = value._value_ if isinstance(value, Enum) else value
                if name[:1] != "_" and _immutable(plain):
                    held.setdefault(name, plain)
    if not held:
        return ""
    return "~" + blake2b(canonical(held).encode(), digest_size=8).hexdigest()


def _immutable(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_immutable, value))
    return type(value) in _SCALARS and type(value) is not bytearray


def _object(value: Any, kind: type, left: int) -> str:
    if hasattr(kind, "__cache_key__"):
        return f"{_type(kind)}{{{_text(value.__cache_key__(), left)}}}"
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return f"{'type' if isinstance(value, type) else 'function'}{{{_reachable_name(value)!a}}}"
    if isinstance(value, Enum):
        # The name of a combination of flags depends on the version of Python, its value does not.
        return f"{_type(kind)}{{{_text(value._value_ if isinstance(value, Flag) else value._name_, left)}}}"
    if hasattr(kind, "__struct_fields__"):  # msgspec
        named = {name: getattr(value, name) for name in kind.__struct_fields__} | _keyed_state(value)
        return _fields(kind, named, left)
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields"):
        extra, private = value.__pydantic_extra__ or {}, value.__pydantic_private__ or {}
        held = value.__dict__
        named = {name: held[name] for name in kind.model_fields if name in held}
        named |= {f"+{k}": v for k, v in extra.items()}
        return _fields(kind, named | {f"-{k}": v for k, v in private.items()}, left)
    static = static_bases(kind)
    if is_dataclass(kind) and not static:
        # A field that only the class holds (init=False and a plain default) is a value all the same.
        named = {f.name: getattr(value, f.name) for f in fields(kind) if hasattr(value, f.name)}
        return _fields(kind, _keyed_state(value) | named, left)
    if hasattr(kind, "__attrs_attrs__") and not static:
        state = _keyed_state(value)
        state.pop("_attrs_cached_hash", None)
        return _fields(kind, state, left)
    base = next((base for base in _BASES if base in static), None)
    if base is not None and static <= {base, dt.date}:
        text = _text(_BASES[base](value), left)
        state = _keyed_state(value)
        return f"{_type(kind)}{{{text}{',' + _dict(state, left) if state else ''}}}"
    if isinstance(value, PurePath):
        return f"{_type(kind)}{{{str(value)!a}}}"
    raise TypeError(f"{describe(value)} has no stable text for a cache key")


def _fields(kind: type, named: dict[str, object], left: int) -> str:
    parts = [
        f"{name if _PLAIN_NAME.fullmatch(name) else ascii(name)}={_text(named[name], left)}"
        for name in sorted(named)
    ]
    return f"{_type(kind)}{{{','.join(parts)}}}"


def _reachable_name(value: Any) -> str:
    """The qualified name of a class or function, if that name leads to it: else two could share one."""
    module, qualname = str(getattr(value, "__module__", None)), str(value.__qualname__)
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not value and not (module == "builtins" and isinstance(value, type)):
        raise TypeError(f"{describe(value)} cannot be found by its name, so it has no stable text for a cache key")
    return f"{import_name(module)}.{qualname}"
