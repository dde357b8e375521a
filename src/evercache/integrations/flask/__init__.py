"""Flask-Caching's surface on this library: `from evercache.integrations.flask import Cache` (docs/flask.md)."""

import hashlib

from evercache.errors import PackageMissing

try:
    import cachelib as _cachelib  # noqa: F401
    import flask as _flask  # noqa: F401
except ImportError as error:
    raise PackageMissing(
        "the Flask extension needs Flask and cachelib, which are not installed: pip install 'evercache[flask]'"
    ) from error

from evercache.integrations.flask.extension import Cache
from evercache.integrations.flask.names import function_namespace, make_template_fragment_key
from evercache.integrations.flask.responses import CachedResponse
from evercache.integrations.flask.signals import (
    cache_memoize_hit,
    cache_memoize_miss,
    cache_view_hit,
    cache_view_miss,
)

__all__ = [
    "SUPPORTED_HASH_FUNCTIONS",
    "Cache",
    "CachedResponse",
    "cache_memoize_hit",
    "cache_memoize_miss",
    "cache_view_hit",
    "cache_view_miss",
    "function_namespace",
    "make_template_fragment_key",
]

SUPPORTED_HASH_FUNCTIONS = [
    hashlib.sha1,
    hashlib.sha224,
    hashlib.sha256,
    hashlib.sha384,
    hashlib.sha512,
    hashlib.md5,
]
