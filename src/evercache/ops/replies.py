"""Replies of servers as texts, and the numbers in them, for commands that look at servers of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evercache.protocol.shapes import to_fields

__all__ = ["lines", "number", "text", "texts", "to_whole", "whole"]

#: No number of a server's has more digits, or is larger: what is, cannot be counted with.
_DIGITS = 19
_MOST = 1e19


def text(value: Any) -> str:
    """A reply as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict) and "txt" in value:  # a verbatim string
        return text(value["txt"])
    return str(value)


def texts(reply: Any) -> dict[str, str]:
    """A map reply (RESP3) or a flat list of pairs (RESP2) as a dictionary of texts."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {text(name): text(value) for name, value in pairs}


def lines(reply: Any) -> dict[str, str]:
    """The fields of a reply to INFO."""
    return to_fields(text(reply))


def number(fields: Mapping[str, str], name: str) -> float | None:
    """A number by its name, also in the form `count=3`; None where there is none."""
    try:
        value = float(fields[name].removeprefix("count="))
    except (KeyError, ValueError):
        return None
    return value if abs(value) < _MOST else None  # neither nan nor inf: those cannot be rounded


def whole(fields: Mapping[str, str], name: str, default: int = 0) -> int:
    """A whole number by its name; the default where there is none."""
    return to_whole(fields.get(name, ""), default)


def to_whole(value: str, default: int = 0) -> int:
    """The same of a text."""
    return int(value) if value.isascii() and value.isdigit() and len(value) <= _DIGITS else default
