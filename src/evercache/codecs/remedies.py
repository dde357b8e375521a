"""Why a value is not cached, with the remedy that works for its class."""

from __future__ import annotations

from types import AsyncGeneratorType, CoroutineType, GeneratorType

from evercache.codecs.shapes import make_shape
from evercache.protocol.canonical import describe

__all__ = ["refusal"]

_PICKLE = "Cache(..., fallback_codec=SignedPickleCodec([key])), with one secret key for all processes"


def refusal(value: object) -> str:
    """The message for a value that the strict codec does not take."""
    if isinstance(value, (GeneratorType, AsyncGeneratorType, CoroutineType)):
        return f"{describe(value)} can be used once only, so it is not cached: return a list or a tuple"
    if isinstance(value, memoryview):
        return "a memoryview is a window on memory, so it is not cached: return bytes"
    if isinstance(value, BaseException):
        return f"{describe(value)} never equals its copy, so it is not cached: raise it, and see cache_errors="
    if callable(value) or hasattr(value, "read"):
        return f"{describe(value)} is not a value, so it is not cached: return what it gives"
    cls = type(value)
    if make_shape(cls) is not None:
        return (
            f"{describe(value)} is not cached, since nothing allows its class: annotate the function's return type "
            f"(-> {cls.__qualname__}), or call cache.register({cls.__qualname__})"
        )
    plain = _plain_form(value)
    return (
        f"{describe(value)} would not come back as it is, so it is not cached: {plain}; or have it pickled, by "
        f"{_PICKLE}; or write it yourself, by cache.register({cls.__qualname__}, encode=..., decode=...)"
    )


def _plain_form(value: object) -> str:
    """What to return in the place of an object."""
    cls = type(value)
    names = {base.__qualname__ for base in cls.__mro__}
    if hasattr(value, "_mapping") and "Row" in names:  # SQLAlchemy
        return "return tuple(row) or dict(row._mapping)"
    if hasattr(value, "_sa_instance_state") or hasattr(cls, "_meta"):  # SQLAlchemy, Django
        return "an ORM object belongs to its session, so return what you need of it as a dict or a dataclass"
    if "QuerySet" in names or "ScalarResult" in names or "Result" in names:
        return "return a list of plain values"
    if hasattr(value, "tolist"):  # numpy, array
        return "return value.tolist()"
    return "return plain values (a dict, a dataclass)"
