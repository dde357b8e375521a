"""Exceptions as cached results: taken apart and rebuilt, or refused where the copy would differ."""

from __future__ import annotations

from collections.abc import Iterable
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from evercache.errors import CannotEncode, CorruptEnvelope
from evercache.protocol.canonical import describe, instance_state, shown, static_bases, type_name

__all__ = ["build_exception", "take_exception"]

#: What belongs to the raising and not to the exception.
_PASSING = frozenset(
    {"args", "__dict__", "__traceback__", "__context__", "__cause__", "__suppress_context__"}
    | {"characters_written"}
)
_STATE = (GetSetDescriptorType, MemberDescriptorType)


def take_exception(error: BaseException, allowed: Iterable[type[BaseException]]) -> list[Any]:
    """Name, arguments and attributes of an exception; `CannotEncode` if a copy would differ.

    `allowed` are classes; an exception of a subclass is allowed as well.
    """
    cls = type(error)
    name = type_name(cls)
    if _find(name, allowed) is not cls:
        raise CannotEncode(f"{describe(error)} is not among the exceptions to cache: name it in cache_errors=")
    try:
        # What the built-in constructor takes: the args, for OSError also the file names.
        args = _builtin_base(cls).__reduce__(error)[1]
        copy = _rebuild(cls, args, error.__dict__)
        alike = copy.args == error.args and instance_state(copy) == instance_state(error)
        alike = alike and _hidden(copy) == _hidden(error) and str(copy) == str(error)
    except Exception as problem:  # constructors and __str__ of the user's classes run
        why = shown(problem, str)
        raise CannotEncode(f"{describe(error)} cannot be rebuilt ({why}), so it is not cached") from problem
    if not alike:
        raise CannotEncode(f"{describe(error)} cannot be rebuilt from its args, so it is not cached")
    return [name, args, dict(error.__dict__)]


def build_exception(parts: Any, allowed: Iterable[type[BaseException]]) -> BaseException:
    """The exception again; `CorruptEnvelope` for a class that is not allowed, or parts that do not fit."""
    try:
        name, args, state = parts
        cls = _find(name, allowed)
        if cls is None or type(args) is not tuple or type(state) is not dict:
            raise CorruptEnvelope(f"an exception of the class {name!r}, which is not allowed here")
        return _rebuild(cls, args, state)
    except CorruptEnvelope:
        raise
    except Exception as error:
        raise CorruptEnvelope(f"an exception that cannot be rebuilt: {shown(error, str)}") from error


def _find(name: str, allowed: Iterable[type[BaseException]]) -> type[BaseException] | None:
    """The class of this name among the allowed ones and their subclasses; None also if two have it."""
    waiting, seen = list(allowed), set[type[BaseException]]()
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.add(cls)
            waiting.extend(type.__subclasses__(cls))
    found = [cls for cls in seen if type_name(cls) == name]
    return found[0] if len(found) == 1 else None


def _builtin_base(cls: Any) -> Any:
    return next(base for base in cls.__mro__ if base in static_bases(cls))


def _rebuild(cls: Any, args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """By the constructor of the built-in base only: no code of the user's class runs."""
    base = _builtin_base(cls)
    made: BaseException = base.__new__(cls, *args)
    base.__init__(made, *args)
    made.__dict__.update(state)
    return made


def _hidden(error: BaseException) -> dict[str, object]:
    """What the built-in base keeps outside `args` and `__dict__` (`errno`, `value`, `obj`, ...)."""
    hidden: dict[str, object] = {}
    kind: Any = type(error)
    for base in static_bases(kind):
        for name, member in vars(base).items():
            if isinstance(member, _STATE) and name not in _PASSING:
                hidden[name] = getattr(error, name, None)
    return hidden
