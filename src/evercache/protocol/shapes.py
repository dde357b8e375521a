"""The small readers that every parser of replies uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evercache.errors import ProtocolError
from evercache.protocol.types import Address

__all__ = ["to_address", "to_epoch", "to_fields", "to_int", "to_str", "understood", "whole", "wrong"]

#: No number of a server's is longer: what is, would be slow to read and could not be counted with.
_MOST = 1 << 63


def wrong(what: str, got: object) -> ProtocolError:
    """The error for an answer of a shape that can't be."""
    try:
        said = f"{got!r:.80}"
    except ValueError:  # a number with more digits than Python writes
        said = type(got).__name__
    return ProtocolError(f"a script answered {said} where {what} belongs", maybe_run=True)


@contextmanager
def understood(what: str) -> Iterator[None]:
    """While a reply is taken apart: one of another shape is a `ProtocolError`, whatever Python calls it."""
    try:
        yield
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ProtocolError(f"{what} answers in a way that is not understood ({error!r:.120})") from error


def to_int(value: Any) -> int:
    """A whole number out of a reply, also one written in digits."""
    try:
        return whole(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong("a whole number", value) from None


def whole(value: Any) -> int:
    """The same, but `ValueError`, `TypeError` or `OverflowError` where it is none of 64 bits."""
    number = int(value)
    if not -_MOST <= number < _MOST:
        raise ValueError("a number of more than 64 bits")
    return number


def to_epoch(value: Any) -> int:
    """A configuration epoch, which sentinels count without a sign and print with one; raises as `whole` does."""
    return whole(value) % (1 << 64)


def to_address(host: str, port: str) -> Address | None:
    """Where a server listens, out of two fields; None where nothing can be."""
    number = whole(port)
    return Address(host, number) if host and 0 < number < 65536 else None


def to_fields(text: str) -> dict[str, str]:
    """The fields of a reply to INFO."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def to_str(value: Any) -> str:
    """A word out of a reply."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value
    raise wrong("a word", value)
