"""A cache for Python web applications on Valkey and Redis that stays fast, up and warm.

Importing this is cheap. What a deployment needs is imported when a `Cache` is created, since its URL is known then.
"""

from typing import TYPE_CHECKING, Any

from evercache.api.keyspace import Key
from evercache.cache import Cache
from evercache.codecs import JSONCodec, SignedPickleCodec, StrictCodec
from evercache.errors import EvercacheError, UnavailableError
from evercache.results import Ack, Explanation, Health, NodeHealth, Stats
from evercache.version import __version__ as __version__

if TYPE_CHECKING:
    from evercache.batches import AsyncCachedMany, CachedMany
    from evercache.function import AsyncCachedFunction, CachedFunction

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

#: Names of this package that are imported when somebody asks for them: these modules need asyncio.
_LATER = {
    "AsyncCachedFunction": "evercache.function",
    "AsyncCachedMany": "evercache.batches",
    "CachedFunction": "evercache.function",
    "CachedMany": "evercache.batches",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
