"""Where every event goes: counted, logged when something changed, kept for `health()`, told to subscribers."""

from __future__ import annotations

import logging
import weakref
from collections import Counter, deque
from collections.abc import Callable
from operator import itemgetter
from typing import TypeAlias

from evercache.clock import monotonic
from evercache.observe.event import Begins, Ends, Event, Occasion
from evercache.observe.events import EventsDropped, Resynced, SubscriberDropped
from evercache.observe.subscribers import Callback, Subscribers
from evercache.process import LOGGING, Lock, from_signal_handler, living, new_lock
from evercache.protocol.canonical import shown

__all__ = ["QUIET", "Emit", "EventHub", "recent"]

#: What is met at each call is logged again after so many seconds without it.
QUIET = 60.0
#: States and topics that are remembered, and events.
_LIMIT, _RECENT = 1_000, 50

Emit: TypeAlias = Callable[[Event], None]


class EventHub:
    """One for each engine. `_lock` guards the rest, and the order in which subscribers are told; it is never held
    while something is logged or a callback runs.

    `open` holds what has begun and not ended, by state; it may be looked at without the lock.
    """

    def __init__(
        self,
        now: Callable[[], float] = monotonic,
        logger: logging.Logger | None = None,
        subscribers: Subscribers | None = None,
        *,
        beside: EventHub | None = None,
        namespace: str | None = None,
    ) -> None:
        self._now = now
        #: What log lines begin with. An application may print the message only, without the name of the logger.
        self._label = "evercache" if namespace is None else f"evercache[{namespace}]"
        self._logger = logger or logging.getLogger("evercache")
        self.subscribers = subscribers or Subscribers()
        #: Those of the caches that use the engine.
        self._attached: weakref.WeakSet[Subscribers] = weakref.WeakSet()
        #: Shared with the hub `beside` it, so that the events of both have one order.
        self._lock: Lock = new_lock() if beside is None else beside._lock
        self.open: dict[str, Begins] = {}
        #: Whether there has been a master. A lost update tells a line twice.
        self._reached = False
        self._met: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._recent: deque[tuple[float, Event]] = deque(maxlen=_RECENT)

    def __repr__(self) -> str:
        return f"<EventHub open={sorted(self.open)} counted={self._counts.total()}>"

    def emit(self, event: Event, error: BaseException | None = None) -> None:
        """Tell an event; from any thread. `error` is logged with its traceback. Raises nothing.

        Cheap where nothing changes: what goes on, or is over already, takes no lock.
        """
        if isinstance(event, Begins):
            before = self.open.get(event.state)
            if before is not None and event.phase in ("", before.phase):
                return
        elif isinstance(event, Ends) and not self._any_open(event.ends):
            return
        try:
            with self._lock:
                if not self._note(event, self._now()):
                    return
                fits = True
                for subscribers in self._everybody():
                    fits = subscribers.tell(event, self._dropped) and fits
        except MemoryError:
            return
        level = logging.DEBUG if event.before_contact and not self._reached else event.level
        self._log(level, event, error)
        if isinstance(event, Resynced):
            self.reached()
        if not fits and not isinstance(event, EventsDropped):
            self.emit(EventsDropped())

    def _log(self, level: int, event: Event, error: BaseException | None = None) -> None:
        try:
            with LOGGING.entered():
                self._logger.log(
                    level,
                    "%s: %s",
                    self._label,
                    event,
                    exc_info=error,
                    extra={"evercache_event": event},
                    stacklevel=3,
                )
        except Exception as failure:
            # Handlers and filters of the application may raise, and memory may be missing.
            if from_signal_handler(failure):
                raise

    def end(self, state: str) -> None:
        """End a state without a word: an event of another hub says it."""
        self.open.pop(state, None)

    def reached(self) -> None:
        """Log what was held back until there had been a master."""
        if self._reached:
            return
        self._reached = True
        for late in [held for held in list(self.open.values()) if held.before_contact == "later"]:
            self._log(late.level, late)

    # -- subscribers

    def attach(self, subscribers: Subscribers) -> None:
        """Notify the subscribers of a cache too, for as long as they are referenced."""
        self._attached.add(subscribers)

    def detach(self, subscribers: Subscribers) -> None:
        """Notify them no more."""
        self._attached.discard(subscribers)

    def _everybody(self) -> list[Subscribers]:
        return [self.subscribers, *living(self._attached)]

    def flush(self, timeout: float) -> None:
        """Wait until all subscribers have been notified, `timeout` seconds at most."""
        for subscribers in self._everybody():
            subscribers.flush(timeout)

    def _any_open(self, states: tuple[str, ...]) -> bool:
        opened = self.open
        return bool(opened) and any(state in opened for state in states)

    def _note(self, event: Event, now: float) -> bool:
        """Take it into the books, under the lock; whether to tell it."""
        if isinstance(event, Begins):
            before = self.open.get(event.state)
            if before is not None and event.phase in ("", before.phase):
                return False  # another thread was quicker
            _bound(self.open)
            self.open[event.state] = event
            if before is not None:
                self._recent.append((now, event))
                return True  # the same state in another phase: told, not counted
        elif isinstance(event, Occasion):
            self._counts[event.kind] += 1
            last = self._met.pop(event.topic, None)
            _bound(self._met)
            self._met[event.topic] = now
            if last is not None and now - last < QUIET:
                return False
            self._recent.append((now, event))
            return True
        else:
            over = [self.open.pop(state, None) for state in event.ends]
            if isinstance(event, Ends) and not any(over):
                return False
        self._counts[event.kind] += 1
        self._recent.append((now, event))
        return True

    def _dropped(self, callback: Callback, error: BaseException) -> None:
        name = getattr(callback, "__qualname__", None) or shown(callback)
        self.emit(SubscriberDropped(name, shown(error)), error)

    # -- for health

    def problems(self) -> list[str]:
        """What has begun and not ended, in words: what is as grave as a warning."""
        with self._lock:
            # A copy: a finalizer that runs while a message is written may begin or end a state.
            return [event.message for event in list(self.open.values()) if event.level >= logging.WARNING]

    def counts(self) -> dict[str, int]:
        """How often there was each kind of event; a state counts once each time that it begins."""
        with self._lock:
            return dict(self._counts)

    def recent(self) -> list[tuple[float, Event]]:
        """The newest events that were logged, newest first, each with its age in seconds."""
        return recent(self)


def recent(*hubs: EventHub) -> list[tuple[float, Event]]:
    """The newest events of hubs that have one order, newest first, each with its age in seconds."""
    with hubs[0]._lock:
        now = hubs[0]._now()
        told = sorted((each for hub in hubs for each in list(hub._recent)), key=itemgetter(0))
    return [(max(0.0, now - at), event) for at, event in reversed(told)]


def _bound(table: dict[str, Begins] | dict[str, float]) -> None:
    if len(table) >= _LIMIT:
        table.pop(next(iter(table)), None)
