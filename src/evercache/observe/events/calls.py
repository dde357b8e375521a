"""Of calls: what was decided for one of them."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

from evercache.observe.event import Begins, Ends, Occasion

__all__ = [
    "CallFailed",
    "ComputedUnleased",
    "EntryCorrupt",
    "FunctionSucceeds",
    "GutterLeft",
    "GutterUsed",
    "LeaseLost",
    "NewerEnvelope",
    "RefreshFailed",
    "StaleOnError",
    "UncacheableResult",
]


class GutterUsed(Begins, frozen=True):
    """No server could say: a result that was computed moments ago in this process is served."""

    text: ClassVar[str] = "no server can be reached: results are kept in the process for moments"
    opens: ClassVar[str] = "gutter"
    before_contact: ClassVar[Literal["", "quiet", "later"]] = "quiet"


class GutterLeft(Ends, frozen=True):
    """There is a server again."""

    text: ClassVar[str] = "results are kept by the servers again"
    closes: ClassVar[tuple[str, ...]] = ("gutter",)


class ComputedUnleased(Occasion, frozen=True):
    """A function ran without a lease, so that others may run it too; the result goes to no server."""

    text: ClassVar[str] = "{e.key}: computed without a lease: {e.why}"
    about: ClassVar[str] = "{e.function}"
    function: str
    key: str
    why: str


class LeaseLost(Occasion, frozen=True):
    """The lease of a computation under way ran out or was taken; others may compute the same."""

    text: ClassVar[str] = "{e.key}: the lease was lost while the function runs"
    key: str


class CallFailed(Occasion, frozen=True):
    """A trip to the master came to nothing; the caller went on without it (or got the error)."""

    text: ClassVar[str] = "a call found no master in its budget ({e.error}): {e.why}"
    about: ClassVar[str] = "{e.error}"
    error: str
    why: str


class EntryCorrupt(Occasion, frozen=True):
    """What was stored cannot be read here: damaged, foreign, or of classes that are not allowed."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{e.key}: the cached value is not readable here and is computed anew: {e.why}"
    about: ClassVar[str] = "{e.function}"
    function: str
    key: str
    why: str


class NewerEnvelope(Occasion, frozen=True):
    """An entry of a later version of the library: left alone."""

    text: ClassVar[str] = "{e.key}: written by a later version of evercache, so it is not read here"
    about: ClassVar[str] = "{e.function}"
    function: str
    key: str


class UncacheableResult(Occasion, frozen=True):
    """A value that no codec takes, or that is too large."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{e.key}: {e.why}"
    about: ClassVar[str] = "{e.function}"
    function: str
    key: str
    why: str


class StaleOnError(Begins, frozen=True):
    """`stale_if_error` at work."""

    text: ClassVar[str] = "{e.key}: the function raised {e.error}; the stale value is served"
    opens: ClassVar[str] = "stale {e.function}"
    function: str
    key: str
    error: str


class RefreshFailed(Begins, frozen=True):
    """A refresh in the background raised; the old value serves until `stale` is over."""

    text: ClassVar[str] = "{e.key}: a refresh in the background raised {e.error}"
    opens: ClassVar[str] = "refresh {e.function}"
    function: str
    key: str
    error: str


class FunctionSucceeds(Ends, frozen=True):
    """A function that had raised returned."""

    text: ClassVar[str] = "{e.function}: succeeds again"
    closes: ClassVar[tuple[str, ...]] = ("stale {e.function}", "refresh {e.function}")
    function: str
