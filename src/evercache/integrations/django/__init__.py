"""Django: a cache backend, and the cache behind it.

    CACHES = {"default": {"BACKEND": "evercache.integrations.django.Cache", "LOCATION": "redis://127.0.0.1:6379"}}

`cache` is the `evercache.Cache` of the alias "default": decorators and operations on the entries' own servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evercache.errors import PackageMissing

try:
    import django  # noqa: F401  # said by us if it is missing
except ImportError as error:
    raise PackageMissing(
        "this front is a cache backend of Django, which is not installed: pip install 'evercache[django]'"
    ) from error

from evercache.integrations.django.aliases import cache_of
from evercache.integrations.django.backend import Cache
from evercache.integrations.django.decorators import cache_page
from evercache.integrations.django.transactions import invalidate_on_commit

if TYPE_CHECKING:
    import redis

    import evercache

    cache: evercache.Cache

__all__ = ["Cache", "cache", "cache_of", "cache_page", "get_redis_connection", "invalidate_on_commit"]


def get_redis_connection(alias: str = "default", write: bool = True) -> redis.Redis:
    """A raw client of an alias, as django-redis gives: of the primary, or with `write=False` of the replicas."""
    of = cache_of(alias)
    return of.master if write else of.replica


def __getattr__(name: str) -> Any:
    if name == "cache":
        return cache_of("default")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
