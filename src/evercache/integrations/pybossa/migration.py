"""Entries that the site's own code wrote, during a migration that the operator allows (docs/pybossa.md)."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

from evercache.cache import Cache
from evercache.errors import UnavailableError
from evercache.integrations.pybossa.keys import old_key, old_pattern
from evercache.protocol.scope import Subject

__all__ = ["OldEntries"]

#: How a pickle of protocol 2 or later begins, and how our entries do. What Python 2 wrote is text: never read.
_PICKLE, _OURS = b"\x80", b"\xe7"
_NOTHING = object()


class OldEntries:
    """Plain pickles under a prefix. They are read where nothing newer is known, and go with every delete.

    Whoever can write to the servers can run code in the application through them: that is what the setting allows.
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
        if state.marks.need(subject) or state.journal.covers(subject):
            return _NOTHING  # nobody knows whether it was written before that delete or after it
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

    def delete(self, *keys: str) -> bool:
        """Remove old entries by key; whether one was there. Never ours, which may have the same name."""
        client = self._cache._client_sync()
        if client is None:
            return False
        deadline = client.engine.state.now() + self._cache.settings.budget
        try:
            heads = client.link.ask([("GETRANGE", key, 0, 0) for key in keys], deadline)
            old = [key for key, head in zip(keys, heads, strict=True) if _foreign(head)]
            return bool(old and client.link.ask([("UNLINK", *old)], deadline)[0])
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
