"""A plan for copying one value, made once: each caller gets a copy of its own, faster than by decoding it anew."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from types import NoneType
from typing import Any
from uuid import UUID

__all__ = ["copier"]

#: Values that nobody can change, so that all callers may share them.
_FIXED: frozenset[type] = frozenset(
    {int, str, float, bool, NoneType, bytes, complex, range, Decimal, UUID, date, time, datetime, timedelta}
)
#: Lists, dicts and sets in one value: beyond it, the plan would be the larger part.
_MOST = 10_000

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

    def of(self, value: Any) -> Copy | None:
        """How to copy it; None for what is shared."""
        kind = type(value)
        self.size += sys.getsizeof(value)
        if kind in _FIXED or isinstance(value, Enum):
            return None
        self._left -= 1
        if self._left < 0:
            raise _NoPlan
        self.size += 120  # what the plan takes for it
        if kind is dict:
            for key in value:
                if self.of(key) is not None:
                    raise _NoPlan
            return self._parts(value.copy, value.items())
        if kind is list:
            copies = [(i, copy) for i, item in enumerate(value) if (copy := self.of(item)) is not None]
            if copies and len(copies) == len(value):
                return partial(_rows, [copy for _, copy in copies])
            return _nested(value.copy, copies)
        if kind in (tuple, frozenset, set):
            if any(self.of(item) is not None for item in value):
                raise _NoPlan
            return value.copy if kind is set else None
        if kind is bytearray:
            return partial(bytearray, value)
        raise _NoPlan

    def _parts(self, own: Copy, items: Any) -> Copy:
        found = [(key, self.of(item)) for key, item in items]
        return _nested(own, [(key, copy) for key, copy in found if copy is not None])


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
