"""THE OLD DESIGN, of 2013, to compare with. Do not use it.

It has the names of `evercache.integrations.pybossa` and does what that kind of module did: `get` of a pickle from a
replica, `setex` of a pickle to the master, both through redis-py's Sentinel. Comments say what is wrong with that.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import wraps
from hashlib import md5
from typing import Any

import redis
from redis.sentinel import Sentinel as RedisSentinel

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
    "sentinel",
]

ONE_DAY = 24 * 60 * 60
ONE_HOUR = 60 * 60
HALF_HOUR = 30 * 60
FIVE_MINUTES = 5 * 60

Function = Callable[..., Any]


class Sentinel:
    """The servers. Its clients come with the settings: who imports them earlier has none."""

    master: Any = None
    slave: Any = None
    connection: RedisSentinel | None = None
    prefix = "pybossa_cache"

    def init_app(self, app: Any) -> None:
        """Take the settings of a Flask application."""
        config = app.config
        self.prefix = config.get("REDIS_KEYPREFIX", self.prefix)
        options = {
            "db": config.get("REDIS_DB", 0),
            "password": config.get("REDIS_PASSWORD"),
            # None, the default, waits for ever for a server that hangs.
            "socket_timeout": config.get("REDIS_SOCKET_TIMEOUT"),
            "retry_on_timeout": config.get("REDIS_RETRY_ON_TIMEOUT", True),
        }
        if not config.get("REDIS_SENTINEL"):
            self.master = self.slave = redis.Redis(config["REDIS_HOST"], config["REDIS_PORT"], **options)
            return
        asked = {"password": config.get("REDIS_SENTINEL_PASSWORD"), "socket_timeout": options["socket_timeout"]}
        self.connection = RedisSentinel(  # type: ignore[no-untyped-call]
            config["REDIS_SENTINEL"], sentinel_kwargs=asked, **options
        )
        self.master = self.connection.master_for(config["REDIS_MASTER"])  # type: ignore[no-untyped-call]
        # One replica, chosen when the connection is made: reads stay there, however late it is.
        self.slave = self.connection.slave_for(config["REDIS_MASTER"])  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the connections."""
        for client in (self.master, self.slave):
            if client is not None:
                client.close()


sentinel = Sentinel()


def get_key_to_hash(*args: Any, **kwargs: Any) -> str:
    """`:a:b`. f(1) and f('1') have the same, and so have f('x', 'y') and f('x:y')."""
    return "".join(f":{value}" for value in [*args, *(kwargs[name] for name in sorted(kwargs))])


def get_hash_key(prefix: str, key_to_hash: str) -> str:
    """The prefix and an MD5."""
    return f"{prefix}:{md5(key_to_hash.encode()).hexdigest()}"


def _disabled() -> bool:
    return "PYBOSSA_REDIS_CACHE_DISABLED" in os.environ


def _answered(key: str, timeout: int | None, compute: Callable[[], Any]) -> Any:
    """From the replica, else computed and stored. Every error of a server is an error of the page."""
    kept = sentinel.slave.get(key)
    if kept is not None:
        return pickle.loads(kept)  # whoever can write to the servers can run code here
    value = compute()  # so does everybody else who asks now
    # It may have been deleted meanwhile: then the old value is back, until its time is over.
    sentinel.master.setex(key, timeout or FIVE_MINUTES, pickle.dumps(value))
    return value


def cache(key_prefix: str, timeout: int | None = FIVE_MINUTES) -> Callable[[Function], Function]:
    """Keep a function's result under one key."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def cached(*args: Any, **kwargs: Any) -> Any:
            if _disabled():
                return function(*args, **kwargs)
            return _answered(f"{sentinel.prefix}::{key_prefix}", timeout, lambda: function(*args, **kwargs))

        return cached

    return decorate


def _head(function: Function) -> str:
    return f"{sentinel.prefix}:{function.__name__}_args:"  # without its module: functions of one name share entries


def memoize(timeout: int | None = FIVE_MINUTES) -> Callable[[Function], Function]:
    """Keep a function's result for each set of arguments."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def memoized(*args: Any, **kwargs: Any) -> Any:
            if _disabled():
                return function(*args, **kwargs)
            key = get_hash_key(_head(function), get_key_to_hash(*args, **kwargs))
            return _answered(key, timeout, lambda: function(*args, **kwargs))

        return memoized

    return decorate


def delete_cached(key: str) -> bool:
    """Delete what `cache(key)` keeps: at the master; a replica that lags still answers with it."""
    return _disabled() or bool(sentinel.master.delete(f"{sentinel.prefix}::{key}"))


def delete_memoized(function: Function, *args: Any, **kwargs: Any) -> bool:
    """Delete the entry of one call, or without arguments those of all."""
    if _disabled():
        return True
    if args or kwargs:
        return bool(sentinel.master.delete(get_hash_key(_head(function), get_key_to_hash(*args, **kwargs))))
    keys = sentinel.slave.keys(f"{_head(function)}:*")  # walks the whole database, of a server that may be behind
    return bool(keys and sentinel.master.delete(*keys))
