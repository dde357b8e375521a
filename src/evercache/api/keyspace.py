"""What the operations on keys rest on: names, policies, and the way to the clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from evercache.client.request import SHARE, Plan, Request, Usual
from evercache.codecs import Encoder
from evercache.errors import WrongCache
from evercache.observe import Counters
from evercache.policy import TTL, WAITED, OnError, Policy, Seconds, Settings, check_choice, seconds
from evercache.protocol.canonical import shown
from evercache.protocol.keys import Naming
from evercache.protocol.scope import Subject, tag_hash
from evercache.results import Ack, Health
from evercache.url import Location

if TYPE_CHECKING:
    from evercache.client._async.client import AsyncClient
    from evercache.client._async.hits import AsyncHits
    from evercache.client._sync.client import SyncClient
    from evercache.client._sync.hits import SyncHits

__all__ = ["UNCONDITIONAL", "Hot", "Key", "Keyspace"]

#: A `since=` that was not given: no stamp is below 0, and None means that none could be had.
UNCONDITIONAL: Final = -1


def _nothing() -> None:
    return None


class Place(Struct, frozen=True):
    """Where the entries of a cache are, as far as it says whether two caches have the same ones."""

    #: For messages; without a password.
    label: str
    namespace: str
    db: int
    marks_db: int
    service: str | None
    #: Of the sentinels, or of the primary: one in common is enough.
    addresses: frozenset[str]

    @classmethod
    def of(cls, cache: Keyspace) -> Place:
        """The place of a cache."""
        location, settings = cache.location, cache.settings
        db = location.node_options.db
        marks_db = db if settings.bookkeeping_db is None else settings.bookkeeping_db
        addresses = location.sentinels or location.nodes[:1] or (location.kind,)
        where = frozenset(map(str, addresses))
        return cls(repr(cache), settings.namespace, db, marks_db, location.service, where)

    def same(self, other: Place) -> bool:
        """Whether both have the same entries."""
        mine, others = ((one.namespace, one.db, one.marks_db, one.service) for one in (self, other))
        return mine == others and bool(self.addresses & other.addresses)


class Key(str):
    """The key of an entry as it stands on the server; direct operations of its cache take it as it is.

    Otherwise a text like any other. It keeps its cache alive. One that was pickled knows only where its entry is.
    """

    __slots__ = ("cache", "function", "place")
    function: str
    cache: Keyspace | None
    place: Place | None

    def __new__(
        cls, text: str, function: str = "", cache: Keyspace | None = None, place: Place | None = None
    ) -> Key:
        """See the class; `function` is "" for an entry that the user named."""
        key = super().__new__(cls, text)
        key.function, key.cache, key.place = function, cache, place
        return key

    def __reduce__(self) -> Any:
        place = self.place if self.cache is None else Place.of(self.cache)
        return Key, (str(self), self.function, None, place)

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self


class Hot:
    """The hot paths of the present clients, for threads and for tasks; None: the long way finds out.

    Made code looks here at each call, unless a test mode or a block without caches may hold (`modes.ordinary`).
    """

    __slots__ = ("asynchronous", "sync")

    def __init__(self) -> None:
        self.sync: SyncHits | None = None
        self.asynchronous: AsyncHits | None = None

    def __repr__(self) -> str:
        return f"<Hot {self.sync!r} {self.asynchronous!r}>"

    def take(self, sync: SyncHits | None, asynchronous: AsyncHits | None) -> None:
        """From now on these."""
        self.sync, self.asynchronous = sync, asynchronous


class Keyspace(ABC):
    """The base of `Cache`: what its two APIs, for threads and for tasks, need of it."""

    location: Location
    settings: Settings
    naming: Naming
    _encoder: Encoder
    _counters: Counters
    _usual: Usual
    _hot: Hot

    @abstractmethod
    def _client_sync(self) -> SyncClient | None:
        """The client for threads; None when the cache is switched off."""

    @abstractmethod
    def _client_async(self) -> AsyncClient | None:
        """The client for tasks; None when the cache is switched off."""

    @abstractmethod
    def _unsent(self) -> Ack:
        """The answer to a write that is sent nowhere."""

    def _policy(
        self,
        ttl: TTL | None = None,
        *,
        budget: Seconds | None = None,
        on_error: OnError | None = None,
        **more: Any,
    ) -> Policy:
        settings = self.settings
        if on_error is not None:
            check_choice("on_error", on_error, ("absorb", "raise"))
        more |= {
            "budget": WAITED * (settings.budget if budget is None else seconds(budget, "budget")),
            "on_error": on_error or settings.on_error,
            "consistency": settings.consistency,
        }
        if ttl == inf:
            return Policy.forever(settings.max_ttl, **more)
        life = ttl if callable(ttl) else settings.default_ttl if ttl is None else seconds(ttl, "ttl")
        return Policy(ttl=life, max_ttl=settings.max_ttl, **more)

    def _writes(
        self, values: Mapping[str, Any], ttl: TTL | None, tags: Iterable[str], on_error: OnError | None
    ) -> dict[str, tuple[Request, Any]]:
        """Requests that write, under one policy."""
        if not values:
            return {}
        first = self._request(next(iter(values)), ttl=ttl, tags=tags, on_error=on_error)
        hashes, policy, encoder = first.subject.tags, first.policy, self._encoder
        return {
            key: (
                Request(self._subject(key, hashes), policy, encoder, self._counters, self._usual, _nothing),
                value,
            )
            for key, value in values.items()
        }

    def _request(
        self,
        key: str,
        *,
        ttl: TTL | None = None,
        tags: Iterable[str] = (),
        on_error: OnError | None = None,
        compute: Callable[[], Any] = _nothing,
        **more: Any,
    ) -> Request:
        if isinstance(tags, str):
            raise TypeError(f"tags={tags!r}: give a sequence of tags, such as tags=({tags!r},)")
        if not isinstance(tags, Iterable):
            raise TypeError(f"tags={shown(tags)}: give the tags of the key themselves, such as tags=('project:7',)")
        subject = self._subject(key, tuple(map(tag_hash, tags)))
        policy = self._policy(ttl, on_error=on_error, **more)
        return Request(subject, policy, self._encoder, self._counters, self._usual, compute)

    def _requests(self, keys: Iterable[str], on_error: OnError | None) -> list[Request]:
        """Requests that read: with a plan for plain hits, and one policy for all."""
        policy, encoder, counters = self._policy(on_error=on_error), self._encoder, self._counters
        plans: dict[str, Plan] = {}
        requests = []
        for key in keys:
            subject = self._subject(key, ())
            function = subject.function
            plan = plans.get(function)
            if plan is None:
                plan = plans[function] = Plan(function, encoder, counters, 0.0, policy.budget * SHARE, 0.0)
            requests.append(Request(subject, policy, encoder, counters, self._usual, _nothing, None, plan))
        return requests

    def _subject(self, key: str, tags: tuple[bytes, ...]) -> Subject:
        if isinstance(key, Key):
            if key.cache is not self:
                self._check_own(f"the key {str(key)!r}", key.cache, key.place)
            return Subject(str(key), key.function, tags)
        return Subject(self.naming.direct_key(self.settings.namespace, key), "", tags)

    def _check_own(self, what: str, cache: Keyspace | None, place: Place | None = None) -> None:
        """`WrongCache` unless what belongs to a cache, or to a place, belongs to this one too."""
        if cache is self or (cache is None and place is None):
            return
        if cache is not None:
            place = Place.of(cache)
        assert place is not None
        # Each cache in memory has a store of its own.
        apart = cache is not None and cache.location.kind == self.location.kind == "memory"
        if apart or not place.same(Place.of(self)):
            raise WrongCache(
                f"{what} belongs to {place.label} and was given to {self!r}, which has other entries: call the "
                "cache to which it belongs"
            )

    def _no_health(self) -> Health:
        problem = "the cache is switched off (EVERCACHE_DISABLED, cache.disabled() or close())"
        return Health(False, self.location.redacted(), None, 0, None, 0, (), (problem,))
