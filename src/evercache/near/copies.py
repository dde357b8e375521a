"""A plan for copying one value, made once: each caller gets a copy of its own, faster than by decoding it anew."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any
from uuid import UUID

__all__ = ["copier"]

#: Values that nobody can change, so that all callers may share them.
_FIXED: frozenset[type] = frozenset(
    {int, str, float, bool, NoneType, bytes, complex, range, Decimal, UUID, date, time, datetime, timedelta}
    | {Fraction, IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface}
    | {PosixPath, WindowsPath, PurePosixPath, PureWindowsPath}
)
#: What is shared as a whole, or not copied by a plan at all.
_SHARED: frozenset[type] = frozenset({tuple, frozenset})
#: Lists, dicts and sets in one value: beyond it, the plan would be the larger part.
_MOST = 10_000

#: Lists and dicts inside each other: a copy takes two frames of Python for each, which decoding does not.
_DEEPEST = 20

#: Gives a copy.
Copy = Callable[[], Any]


class _NoPlan(Exception):
    """The value holds something that is not copied by a plan."""


def copier(value: Any) -> tuple[Copy, int] | None:
    """What gives copies of a value, and the bytes that both take; None where decoding must do.

    Lists, dicts, sets and bytearrays are copied at every level, all else that a plan takes is shared. Nothing of
    the value itself may be handed out.
    """
    plan = _Plan()
    try:
        copy = plan.of(value)
    except _NoPlan:
        return None
    return copy or (lambda: value), plan.size


class _Plan:
    """One walk through a value; `size` is what it takes so far, in bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._left = _MOST
        self._seen: set[int] = set()  # containers, by their ids: all of them live as long as the value does

    def of(self, value: Any, left: int = _DEEPEST) -> Copy | None:
        """How to copy it; None for what is shared."""
        kind = type(value)
        self.size += sys.getsizeof(value)
        if kind in _FIXED or isinstance(value, Enum):
            return None
        self._left -= 1
        if self._left < 0 or not left or (id(value) in self._seen and kind not in _SHARED):
            raise _NoPlan  # what is in it twice, or in itself, must be so in each copy
        self._seen.add(id(value))
        self.size += 120  # what the plan takes for it
        if kind is dict:
            for key in value:
                if self.of(key, left - 1) is not None:
                    raise _NoPlan
            parts = [(key, copy) for key, item in value.items() if (copy := self.of(item, left - 1)) is not None]
            return _nested(value.copy, parts)
        if kind is list:
            copies = [(i, copy) for i, item in enumerate(value) if (copy := self.of(item, left - 1)) is not None]
            if copies and len(copies) == len(value):
                return partial(_rows, [copy for _, copy in copies])
            return _nested(value.copy, copies)
        if kind in (tuple, frozenset, set):
            if any(self.of(item, left - 1) is not None for item in value):
                raise _NoPlan
            return value.copy if kind is set else None
        if kind is bytearray:
            return partial(bytearray, value)
        raise _NoPlan


def _nested(own: Copy, parts: list[tuple[Any, Copy]]) -> Copy:
    if not parts:
        return own

    def copy() -> Any:
        made = own()
        for where, part in parts:
            made[where] = part()
        return made

    return copy


def _rows(copies: list[Copy]) -> list[Any]:
    return [copy() for copy in copies]
