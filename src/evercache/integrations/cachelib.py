"""cachelib's `BaseCache` on a cache of this library, for whatever takes one: Flask-Session, Flask-Caching."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from evercache.api.keyspace import Key
from evercache.cache import Cache
from evercache.errors import PackageMissing
from evercache.results import Ack

try:
    from cachelib import BaseCache
except ImportError as error:
    raise PackageMissing(
        "this front is a cachelib.BaseCache, and cachelib is not installed: pip install 'evercache[flask]'"
    ) from error

__all__ = ["CachelibCache"]

Timeout = int | float | timedelta | None

_NOTHING: Final = object()


class CachelibCache(BaseCache):
    """What cachelib's backends do, on the servers of a `Cache`; a failure of theirs is a miss or `False`.

    `cache`: a `Cache`, or a URL to make one of (with `options` for it). `default_timeout`: seconds or a
    timedelta; 0 is as long as the cache's `max_ttl`. `key_prefix`: a text, or a callable that gives one, in front
    of each key; `clear` then ends what has that prefix, and nothing else. `serializer`: when set, values are what
    its `dumps` makes of them; by default they are stored as this library stores values.
    """

    serializer: Any = None

    def __init__(
        self,
        cache: Cache | str | None = None,
        default_timeout: int | timedelta = 300,
        key_prefix: str | Callable[[], str] | None = None,
        ignore_delete_many_errors: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(default_timeout)
        self.ignore_delete_many_errors = ignore_delete_many_errors
        self.key_prefix = key_prefix or ""
        self.evercache = cache if isinstance(cache, Cache) else Cache(cache, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.evercache!r}>"

    # -- keys, times and values

    def _prefix(self) -> str:
        prefix = self.key_prefix
        return prefix() if callable(prefix) else prefix

    def _key(self, key: Any, prefix: str) -> str:
        if isinstance(key, Key):  # of a cached function: whole as it is
            return key
        return f"{prefix}{key}" or "\0"

    def _tags(self, prefix: str) -> tuple[str, ...]:
        return (f"cachelib prefix:{prefix}",) if prefix else ()

    def ttl(self, timeout: Timeout) -> float:
        """A time-out as cachelib means it, in seconds: None is the default, 0 as long as possible."""
        given = self.default_timeout if timeout is None else timeout
        seconds = given.total_seconds() if isinstance(given, timedelta) else given
        longest = self.evercache.settings.max_ttl
        return longest if seconds == 0 else min(math.ceil(seconds), longest)

    def _chosen_serializer(self) -> Any:
        """The serializer that stands in the place of this library's codecs; None: nobody set one."""
        return self.serializer

    def _pack(self, value: Any) -> Any:
        chosen = self._chosen_serializer()
        return value if chosen is None else chosen.dumps(value)

    def _unpack(self, value: Any) -> Any:
        chosen = self._chosen_serializer()
        return value if chosen is None or value is None else chosen.loads(value)

    # -- reading

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        return self._unpack(self.evercache.get(self._key(key, self._prefix())))

    def get_many(self, *keys: str) -> list[Any]:
        """The values of many keys, in one round trip."""
        prefix = self._prefix()
        names = [self._key(key, prefix) for key in keys]
        found = self.evercache.get_many(names)
        return [self._unpack(found[name]) for name in names]

    def has(self, key: str) -> bool:
        """Whether the key has a value; None is one."""
        return self.evercache.get(self._key(key, self._prefix()), _NOTHING) is not _NOTHING

    # -- writing

    def set(self, key: str, value: Any, timeout: Timeout = None) -> bool:
        """Write a value; False when no master has it."""
        return self._write(self.evercache.set, key, value, timeout)

    def add(self, key: str, value: Any, timeout: Timeout = None) -> bool:
        """Write a value unless the key has one; whether it was written."""
        return self._write(self.evercache.add, key, value, timeout)

    def _write(self, write: Callable[..., Ack], key: str, value: Any, timeout: Timeout) -> bool:
        ttl = self.ttl(timeout)
        if ttl < 0:  # expired when it is written
            return self.delete(key) or True
        prefix = self._prefix()
        return bool(write(self._key(key, prefix), self._pack(value), ttl=ttl, tags=self._tags(prefix)))

    def set_many(self, mapping: dict[str, Any], timeout: Timeout = None) -> list[Any]:
        """Write many values in one round trip; the keys that were written."""
        ttl = self.ttl(timeout)
        if ttl < 0:
            return self.delete_many(*mapping)
        prefix = self._prefix()
        names = {self._key(key, prefix): key for key in mapping}
        values = {name: self._pack(mapping[key]) for name, key in names.items()}
        acks = self.evercache.set_many(values, ttl=ttl, tags=self._tags(prefix))
        return [key for name, key in names.items() if acks[name]]

    def delete(self, key: str) -> bool:
        """Delete a key; whether there was a value."""
        ack = self.evercache.delete(self._key(key, self._prefix()))
        return bool(ack) and ack.existed

    def delete_many(self, *keys: str) -> list[Any]:
        """Delete many keys in one round trip; those that are gone, whether or not there was a value."""
        gone = self._gone(keys)
        if not self.ignore_delete_many_errors and len(gone) < len(keys):
            raise RuntimeError(f"Failed to delete keys: {[key for key in keys if key not in gone]}")
        return gone

    def _gone(self, keys: tuple[str, ...]) -> list[Any]:
        prefix = self._prefix()
        names = [self._key(key, prefix) for key in keys]
        acks = self.evercache.delete_many(names)
        return [key for key, name in zip(keys, names, strict=True) if acks[name]]

    def unlink(self, *keys: str) -> list[Any]:
        """`delete_many`: no delete here holds the server."""
        return self.delete_many(*keys)

    def clear(self) -> bool:
        """End everything, with a `key_prefix` everything that has it; in one step, whatever the number."""
        tags = self._tags(self._prefix())
        return bool(self.evercache.invalidate_tag(tags[0]) if tags else self.evercache.clear())

    def inc(self, key: str, delta: int = 1) -> int | None:
        """Add to a counter and return its value, atomically; None when no master answers."""
        if self._chosen_serializer() is not None:
            counted: int | None = super().inc(key, delta)
            return counted
        prefix = self._prefix()
        name, tags = self._key(key, prefix), self._tags(prefix)
        if tags:  # a counter that `incr` makes itself has no tags, so `clear` would not find it
            self.evercache.add(name, 0, ttl=self.ttl(None), tags=tags)
        return self.evercache.incr(name, delta, ttl=self.ttl(None))

    def dec(self, key: str, delta: int = 1) -> int | None:
        """Subtract from a counter and return its value."""
        return self.inc(key, -delta)
