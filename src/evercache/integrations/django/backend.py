"""The backend that `CACHES` names."""

from __future__ import annotations

from evercache.integrations.django._async.redis_methods import AsyncRedisMethods
from evercache.integrations.django._sync.redis_methods import SyncRedisMethods

__all__ = ["Cache"]


class Cache(SyncRedisMethods, AsyncRedisMethods):
    """A cache backend of Django on the servers of an `evercache.Cache`, for threads and natively for tasks.

    `LOCATION` is a URL of this library, or what Django's Redis backend and django-redis take; `OPTIONS` are those
    of `evercache.Cache`, and theirs as far as they mean something. An error of the servers is a miss, or False.
    """
