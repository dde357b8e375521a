"""What both forms of the backend rest on: keys, time-outs, and the cache that an alias of `CACHES` means."""

from __future__ import annotations

import os
import pickle
from datetime import timedelta
from math import inf
from typing import Any, Final

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.signals import setting_changed

from evercache.cache import Cache
from evercache.codecs import SignedPickleCodec
from evercache.integrations.django.location import cache_options, tell
from evercache.integrations.settings import signing_keys
from evercache.process import new_lock
from evercache.results import Ack

__all__ = ["MISSING", "Core"]

MISSING: Final = object()

#: The caches of this process by the settings that describe them: Django makes a backend for each thread and task.
_caches: dict[str, Cache] = {}
#: Another object each time that the settings change.
_now = [object()]
#: Guards both.
_lock = new_lock()


class Core(BaseCache):
    """A backend of Django; made anew for each thread and task, with one `evercache.Cache` behind all of them."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._server = server
        self._options: dict[str, Any] = params.get("OPTIONS") or {}
        #: What makes a key of a name again, where there is a `KEY_FUNCTION`: a callable, or the path of one.
        self._reverse_key = params.get("REVERSE_KEY_FUNCTION", self._options.get("REVERSE_KEY_FUNCTION"))
        self._evercache: Cache | None = None
        self._settings: object = None

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} of {self.evercache!r}>"

    @property
    def evercache(self) -> Cache:
        """The `evercache.Cache` that holds the entries: the same in all threads."""
        found = self._evercache
        if found is None or self._settings is not _now[0]:
            with _lock:
                self._settings = _now[0]
                place = repr((self._server, self.key_prefix, sorted(self._options.items(), key=str)))
                found = _caches.get(place) or self._made()
                _caches[place] = self._evercache = found
        return found

    @property
    def url(self) -> str | None:
        """Where the entries are, with the passwords; None where nothing says so."""
        found = cache_options(self._server, self.key_prefix, self._options)["url"]
        return found or os.environ.get("EVERCACHE_URL") or None

    def _made(self) -> Cache:
        keys = signing_keys((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS), b"evercache-django")
        chosen = {"fallback_codec": SignedPickleCodec(keys)}
        return Cache(**chosen | cache_options(self._server, self.key_prefix, self._options))

    def _warn_of_patterns(self) -> None:
        tell(
            "delete_pattern",
            "delete_pattern looks through all keys of the database; write entries with tags= and "
            "end them with invalidate_tag, in one step whatever their number",
        )

    # -- keys, times and values

    def _seconds(self, timeout: Any) -> float:
        """A time-out in seconds: `inf` for None, 0 for what has expired when it is written."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return inf
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        longest = self.evercache.settings.max_ttl
        return min(max(0.0, float(timeout)), longest)

    @staticmethod
    def _stored(ack: Ack, value: Any) -> bool:
        """Whether a write was done. A value that cannot be pickled raises what pickle raises, as Django expects."""
        if ack.reason == "uncacheable":
            pickle.dumps(value)
        return bool(ack)


def _forget(*, setting: str, **more: Any) -> None:
    """Tests changed the settings: caches made of the former ones are closed."""
    if setting in ("CACHES", "SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        with _lock:
            former = list(_caches.values())
            _caches.clear()
            _now[0] = object()
        for each in former:
            each.close()


setting_changed.connect(_forget)
