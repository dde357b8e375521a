"""The caches behind the aliases of `CACHES`."""

from __future__ import annotations

from django.core.cache import caches

from evercache.cache import Cache
from evercache.integrations.django.backend import Cache as Backend

__all__ = ["cache_of"]


def cache_of(alias: str = "default") -> Cache:
    """The `evercache.Cache` behind an alias of `CACHES`; TypeError where that has another backend."""
    backend = caches[alias]
    if not isinstance(backend, Backend):
        raise TypeError(
            f"CACHES[{alias!r}] has the backend {type(backend).__module__}.{type(backend).__name__}, not "
            "'evercache.integrations.django.Cache'"
        )
    return backend.evercache
