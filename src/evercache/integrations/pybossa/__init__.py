"""The cache module of PyBossa, and its extension `sentinel`, on this library: docs/pybossa.md.

    from evercache.integrations.pybossa import ONE_DAY, cache, delete_cached, delete_memoized, memoize, sentinel
    sentinel.init_app(app)

Every function looks up `sentinel` in this module at each call. A module of the site's own gets functions that look
it up there with `provide(globals())`.
"""

from __future__ import annotations

import pickle
from collections.abc import MutableMapping
from typing import Any, Final

from evercache.integrations.pybossa.decorators import Surface
from evercache.integrations.pybossa.extension import Sentinel
from evercache.integrations.pybossa.keys import get_hash_key, get_key_to_hash

__all__ = [
    "FIVE_MINUTES",
    "HALF_HOUR",
    "ONE_DAY",
    "ONE_HOUR",
    "Sentinel",
    "cache",
    "delete_cached",
    "delete_memoized",
    "get_hash_key",
    "get_key_to_hash",
    "memoize",
    "pickle",  # of no use here, but tests of a site patch it
    "provide",
    "sentinel",
]

ONE_DAY: Final = 24 * 60 * 60
ONE_HOUR: Final = 60 * 60
HALF_HOUR: Final = 30 * 60
FIVE_MINUTES: Final = 5 * 60

#: The servers of the site. Tests put another one in its place.
sentinel = Sentinel()

_here = Surface(lambda: sentinel)
cache = _here.cache
memoize = _here.memoize
delete_cached = _here.delete_cached
delete_memoized = _here.delete_memoized


def provide(names: MutableMapping[str, Any]) -> None:
    """Give a module (its `globals()`) the names of this one; its functions look up *its* `sentinel` at each call.

    A `sentinel` that it has stays.
    """
    names.setdefault("sentinel", sentinel)
    there = Surface(lambda: names["sentinel"])
    for name in __all__:
        if name not in ("provide", "sentinel"):
            names[name] = getattr(there, name, None) or globals()[name]
