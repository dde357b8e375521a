"""Of the process itself."""

from __future__ import annotations

import logging
from typing import ClassVar

from evercache.observe.event import Begins, Ends, Event, Occasion

__all__ = [
    "BackgroundRuns",
    "BackgroundUnavailable",
    "Defect",
    "EventsDropped",
    "GeventPatched",
    "OnlyThisProcess",
    "SubscriberDropped",
    "UsedAfterClose",
]


class BackgroundUnavailable(Begins, frozen=True):
    """No background can run now: calls ask the master for each value, or compute."""

    text: ClassVar[str] = "{e.why}"
    opens: ClassVar[str] = "background"
    why: str


class BackgroundRuns(Ends, frozen=True):
    """The background runs after all."""

    text: ClassVar[str] = "the background of the cache runs"
    closes: ClassVar[tuple[str, ...]] = ("background",)


class GeventPatched(Begins, frozen=True):
    """The background is a greenlet."""

    text: ClassVar[str] = (
        "gevent has patched this process: the background is a greenlet, and a page that computes "
        "without yielding delays invalidations and lease renewals. Threaded workers do not."
    )
    opens: ClassVar[str] = "gevent"


class OnlyThisProcess(Event, frozen=True):
    """No URL is configured, and other processes are likely, or something was invalidated. Logged once."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = (
        "no URL is configured{e.but}, so entries are kept in the memory of this process only: other processes do"
        " not see them, and do not learn of invalidations. Set EVERCACHE_URL (such as redis://127.0.0.1:6379) for"
        " all processes, or EVERCACHE_URL=memory:// if there is only one"
    )
    #: What shows that there are other processes.
    why: str

    @property
    def but(self) -> str:
        """The reason as a part of the sentence."""
        return f", but {self.why}" if self.why else ""


class Defect(Occasion, frozen=True):
    """A mistake in evercache itself was met and survived: please report it, with the traceback in the log."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "{e.where} failed and is begun again: {e.error}"
    about: ClassVar[str] = "{e.where} {e.error}"
    where: str
    error: str


class SubscriberDropped(Event, frozen=True):
    """A callback of `subscribe` raised; it is called no more."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "{e.callback}, which listened to events, raised {e.error}: it is called no more"
    callback: str
    error: str


class UsedAfterClose(Event, frozen=True):
    """A cache was used after its `close()`: every call computes. Logged once for each `close()`."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = (
        "the cache of namespace {e.namespace!r} was used after close(), so every call computes: "
        "close it at the end of the process only, or enter it again (`with cache:`)"
    )
    namespace: str


class EventsDropped(Occasion, frozen=True):
    """Subscribers are slower than what happens: the oldest events were not told to them."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "the callbacks of subscribe() are too slow: some events were not reported to them"
