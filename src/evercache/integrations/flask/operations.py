"""What can be done with the keys of a cache, by its backend."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from evercache.integrations.flask.backends import EvercacheBackend
from evercache.results import Ack

__all__ = ["Operations"]


class Operations:
    """A part of `Cache`."""

    @property
    @abstractmethod
    def cache(self) -> Any:
        """The backend."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """The value of a key, or None."""
        return self.cache.get(*args, **kwargs)

    def has(self, *args: Any, **kwargs: Any) -> bool:
        """Whether a key has a value."""
        return bool(self.cache.has(*args, **kwargs))

    def set(self, *args: Any, **kwargs: Any) -> bool | None:
        """`set(key, value, timeout=None)`: whether it was written."""
        kept: bool | None = self.cache.set(*args, **kwargs)
        return kept

    def add(self, *args: Any, **kwargs: Any) -> bool:
        """`set`, unless the key has a value."""
        return bool(self.cache.add(*args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        """Delete a key; whether there was a value."""
        return bool(self.cache.delete(*args, **kwargs))

    def delete_many(self, *args: Any, **kwargs: Any) -> list[str]:
        """Delete many keys; those that are gone."""
        gone: list[str] = self.cache.delete_many(*args, **kwargs)
        return gone

    def clear(self) -> bool:
        """End everything that this cache keeps."""
        return bool(self.cache.clear())

    def get_many(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The values of many keys."""
        values: list[Any] = self.cache.get_many(*args, **kwargs)
        return values

    def set_many(self, *args: Any, **kwargs: Any) -> list[Any]:
        """`set_many(mapping, timeout=None)`: the keys that were written."""
        kept: list[Any] = self.cache.set_many(*args, **kwargs)
        return kept

    def get_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The values of many keys by key."""
        values: dict[str, Any] = self.cache.get_dict(*args, **kwargs)
        return values

    def unlink(self, *args: Any, **kwargs: Any) -> list[str]:
        """`delete_many`, by the backend's own `unlink` where it has one."""
        unlink = getattr(self.cache, "unlink", None)
        gone: list[str] = unlink(*args, **kwargs) if callable(unlink) else self.delete_many(*args, **kwargs)
        return gone

    def invalidate_tag(self, tag: str) -> Ack:
        """End everything with a tag, in one step; a backend that is not ours has no tags."""
        backend = self.cache
        if not isinstance(backend, EvercacheBackend):
            return Ack(False, reason="unavailable")
        return backend.evercache.invalidate_tag(tag)
