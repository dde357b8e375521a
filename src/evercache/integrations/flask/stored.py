"""What a `SimpleCache` keeps, as the dict that Flask-Caching's has in `cache.cache._cache`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from evercache.api.keyspace import Key
from evercache.net.memory import MemoryServer

if TYPE_CHECKING:
    from evercache.integrations.flask.backends import SimpleCache

__all__ = ["Stored"]

_NOTHING: Final = object()


class Stored(Mapping[str, tuple[float, Any]]):
    """By key: when an entry expires (seconds since 1970), and its value as it is stored. A view, not a copy.

    Keys are fit for `get` and `delete` of the cache, those of memoized functions too. What was invalidated is not
    there. An entry can be taken out; to write one, use `set`.
    """

    def __init__(self, backend: SimpleCache, server: MemoryServer) -> None:
        self._backend, self._server = backend, server

    def __repr__(self) -> str:
        return f"<what {self._backend!r} keeps: {len(self)} entries>"

    def _live(self) -> dict[Key, float]:
        """Whole keys of entries, and when they expire."""
        cache = self._backend.evercache
        namespace = cache.settings.namespace
        direct, functions = f"{namespace}:k:", f"{namespace}:f:"
        found: dict[Key, float] = {}
        for raw, expires in self._server.held().items():
            text = raw.decode("utf-8", "surrogateescape")
            if text.startswith(direct):
                found[Key(text, "", cache)] = expires
            elif text.startswith(functions):
                found[Key(text, text.removeprefix(functions).partition("(")[0], cache)] = expires
        values = cache.get_many(list(found), _NOTHING)
        return {key: expires for key, expires in found.items() if values[key] is not _NOTHING}

    def __iter__(self) -> Iterator[str]:
        direct = f"{self._backend.evercache.settings.namespace}:k:"
        for key in self._live():
            name = key.removeprefix(direct)
            # A name that was hashed, and a function's key, are taken as they are.
            yield key if name == key or name.startswith("#") else name

    def __len__(self) -> int:
        return len(self._live())

    def __getitem__(self, key: str) -> tuple[float, Any]:
        cache = self._backend.evercache
        value = cache.get(key, _NOTHING)
        if value is _NOTHING:
            raise KeyError(key)
        whole = key if isinstance(key, Key) else cache.naming.direct_key(cache.settings.namespace, key)
        expires = self._server.held().get(whole.encode("utf-8", "surrogateescape"), 0.0)
        chosen = self._backend._chosen_serializer()
        return expires, self._backend.serializer.dumps(value) if chosen is None else value

    def __delitem__(self, key: str) -> None:
        if not self._backend.delete(key):
            raise KeyError(key)

    def pop(self, key: str, *default: Any) -> Any:
        """Take an entry out."""
        try:
            entry = self[key]
        except KeyError:
            if default:
                return default[0]
            raise
        self._backend.delete(key)
        return entry

    def clear(self) -> None:
        """Take everything out."""
        self._backend.clear()
