"""Places that are counted by what is alive, so that none is lost when a signal handler interrupts its holder."""

from __future__ import annotations

import gc
from typing import Final
from weakref import getweakrefcount, ref

from evercache.clock import monotonic

__all__ = ["Place", "Places", "collect_dropped", "taken"]

#: Seconds between two collections.
_RARELY: Final = 0.5
_collected = 0.0


class _Token(ref["Places"]):
    """A reference of a class of its own: ordinary ones without a callback are shared, so they cannot be counted."""

    __slots__ = ()


class Places:
    """Counts the places of it that are taken: those that were neither released nor dropped.

    A counter that is raised and lowered is wrong for ever after an exception between the two, and a signal handler
    raises after any instruction, also in a `finally`. Here a place is an object, and whoever loses its frame loses
    it. Nothing runs when a place is dropped: a callback in Python could be interrupted itself. Safe for threads.
    """

    __slots__ = ("__weakref__",)

    def __len__(self) -> int:
        return getweakrefcount(self)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Places {len(self)} taken>"


class Place:
    """One that is taken. It is released explicitly wherever possible, since a traceback may keep it alive."""

    __slots__ = ("_token",)

    def __init__(self, places: Places) -> None:
        self._token: _Token | None = _Token(places)

    def __repr__(self) -> str:
        return f"<Place {'free' if self._token is None else 'taken'}>"

    def release(self) -> None:
        """It is free, whoever still refers to this object."""
        self._token = None


#: How many places are taken: as `len`, which calls Python code, for the path of every call.
taken: Final = getweakrefcount


def collect_dropped() -> None:
    """Free what dropped frames hold in cycles, before a caller is told that nothing is free. Seldom and quick.

    An exception that interrupts `except ... as error` leaves a cycle of the error, its traceback and the frame. It
    is young, so the young generations of the collector hold it.
    """
    global _collected
    now = monotonic()
    if now - _collected > _RARELY:
        _collected = now
        gc.collect(1)
