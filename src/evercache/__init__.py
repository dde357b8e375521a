"""A cache for Python web applications on Valkey and Redis that stays fast, up and warm."""

from evercache.batches import AsyncCachedMany, CachedMany
from evercache.cache import Cache
from evercache.codecs import JSONCodec, SignedPickleCodec, StrictCodec
from evercache.errors import EvercacheError, UnavailableError
from evercache.function import AsyncCachedFunction, CachedFunction, Key
from evercache.results import Ack, Explanation, Health, NodeHealth, Stats

__all__ = [
    "Ack",
    "AsyncCachedFunction",
    "AsyncCachedMany",
    "Cache",
    "CachedFunction",
    "CachedMany",
    "EvercacheError",
    "Explanation",
    "Health",
    "JSONCodec",
    "Key",
    "NodeHealth",
    "SignedPickleCodec",
    "Stats",
    "StrictCodec",
    "UnavailableError",
]
