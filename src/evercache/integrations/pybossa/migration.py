"""Entries that the site's own code wrote, during a migration that the operator allows (docs/pybossa.md)."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

from evercache.cache import Cache
from evercache.errors import UnavailableError
from evercache.integrations.pybossa.keys import old_key, old_pattern
from evercache.observe import Counters
from evercache.protocol.scope import Scope, Subject

__all__ = ["OldEntries"]

#: How a pickle of protocol 2 or later begins, and how our entries do. What Python 2 wrote is text: never read.
_PICKLE, _OURS = b"\x80", b"\xe7"
_NOTHING = object()


class OldEntries:
    """Plain pickles under a prefix. An old entry is read until its call is deleted here, and never after that.

    Each entry here has a tag of its own, and `delete` invalidates the tag. The mark of a key would not be enough:
    processes forget it after some seconds, and a process that starts later never learns it. The mark of a tag is on
    the servers, survives a failover, and comes with each lease. So it does no harm if a delete could not remove the
    old entry (no master, or a failover lost the removal), or if the old code stores it again.

    Anybody who can write to the servers can run code in the application through these pickles: that is what the
    setting allows.
    """

    def __init__(self, prefix: str, cache: Cache) -> None:
        self.prefix = prefix
        self._cache = cache

    def __repr__(self) -> str:
        return f"<OldEntries {self.prefix!r}>"

    def before(
        self, fn: Callable[..., Any], key_prefix: str | None, subject: Callable[[Any, Any], Subject]
    ) -> Callable[..., Any]:
        """A function that looks for an old entry, and else does what `fn` does. `subject`: of the entry here."""

        @functools.wraps(fn)
        def compute(*args: Any, **kwargs: Any) -> Any:
            value = self._read(self.key(fn, args, kwargs, key_prefix), subject(args, kwargs))
            return fn(*args, **kwargs) if value is _NOTHING else value

        return compute

    def key(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], key_prefix: str | None
    ) -> str:
        """Where the old code keeps the result of a call."""
        if key_prefix is not None:
            return f"{self.prefix}::{key_prefix}"
        return old_key(self.prefix, fn.__name__, args, kwargs)

    def _read(self, key: str, subject: Subject) -> Any:
        client = self._cache._client_sync()
        if client is None:
            return _NOTHING
        state = client.engine.state
        if not state.sure(state.now()):
            return _NOTHING  # this process may have missed a delete
        if state.marks.need(subject) or state.journal.covers(subject):
            return _NOTHING  # the old entry may be from before that delete
        try:
            (data,) = client.link.ask([("GET", key)], state.now() + self._cache.settings.budget)
        except UnavailableError:
            return _NOTHING
        if not isinstance(data, bytes) or not data.startswith(_PICKLE):
            return _NOTHING
        try:
            return pickle.loads(data)
        except Exception:  # of classes that are no more, or cut off
            return _NOTHING

    def delete(self, old_key: str, key: str | None) -> bool:
        """Remove an old entry and never read it again; return whether it was there.

        `key` is that of the entry here; None if the call cannot be cached here. An entry of ours that has the same
        key as the old one is not removed.
        """
        client = self._cache._client_sync()
        if client is None:
            return False
        if key is not None:
            client.operations.invalidate([Scope.of_tag(key)], Counters())
        deadline = client.engine.state.now() + self._cache.settings.budget
        try:
            (head,) = client.link.ask([("GETRANGE", old_key, 0, 0)], deadline)
            return _foreign(head) and bool(client.link.ask([("UNLINK", old_key)], deadline)[0])
        except UnavailableError:
            return False

    def delete_all(self, name: str, budget: float) -> bool:
        """Remove all old entries of a function's name, as the old code does; whether one was there."""
        client = self._cache._client_sync()
        if client is None:
            return False
        pattern = old_pattern(self.prefix, name)
        return client.sweeping.remove(pattern, _foreign, budget).removed > 0


def _foreign(head: bytes) -> bool:
    return head != b"" and head[:1] != _OURS
