"""The small readers that every parser of replies uses."""

from __future__ import annotations

from typing import Any

from evercache.errors import ProtocolError

__all__ = ["to_int", "to_str", "wrong"]


def wrong(what: str, got: object) -> ProtocolError:
    """The error for an answer of a shape that can't be."""
    return ProtocolError(f"a script answered {got!r:.80} where {what} belongs", maybe_run=True)


def to_int(value: Any) -> int:
    """A whole number out of a reply, also one written in digits."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong("a whole number", value) from None


def to_str(value: Any) -> str:
    """A word out of a reply."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value
    raise wrong("a word", value)
