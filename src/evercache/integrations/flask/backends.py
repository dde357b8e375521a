"""What holds the entries, by `CACHE_TYPE`: cachelib's interface on the servers that the settings name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Self

from cachelib import BaseCache
from cachelib import FileSystemCache as CachelibFileSystemCache
from flask import Flask

from evercache.cache import Cache
from evercache.integrations.cachelib import CachelibCache
from evercache.integrations.flask.responses import StoredError, StoredResponse, freeze, thaw
from evercache.integrations.flask.serializers import OwnRedisSerializer, OwnSerializer, OwnSimpleSerializer
from evercache.integrations.flask.settings import DEFAULTS, FlaskSettings
from evercache.integrations.flask.stored import Stored
from evercache.net.memory import MemoryServer

__all__ = [
    "BaseCache",
    "EvercacheBackend",
    "FileSystemCache",
    "NullCache",
    "RedisCache",
    "RedisSentinelCache",
    "SimpleCache",
]


def _ignoring(ignore_delete_many_errors: bool, ignore_errors: bool | None) -> bool:
    """The setting, under its new name and the one of before."""
    if ignore_errors is None:
        return ignore_delete_many_errors
    warnings.warn("ignore_errors= is the old name of ignore_delete_many_errors=", DeprecationWarning, stacklevel=3)
    return ignore_errors


class NullCache(BaseCache):
    """Keeps nothing. `problem`: what is wrong with the settings of the cache in whose place it is."""

    problem: str | None = None

    def has(self, key: str) -> bool:
        """Never."""
        return False


class EvercacheBackend(CachelibCache):
    """On the servers of a URL; the base of those below, which are its names in Flask-Caching."""

    _app: Flask | None = None
    _serializer: Any = None
    _own_serializer: type[OwnSerializer] = OwnRedisSerializer

    @classmethod
    def of(cls, app: Flask, settings: FlaskSettings) -> Self:
        """For an application; nothing is opened before the first use. ConfigurationError for bad settings."""
        backend = cls.__new__(cls)
        backend._begin(settings)
        backend._app = app
        return backend

    def _begin(self, settings: FlaskSettings) -> None:
        cache = Cache(settings.url, namespace=settings.namespace, **settings.cache_options())
        cache._assumed = settings.assumed
        cache.register(StoredResponse)
        cache.register(StoredError)
        CachelibCache.__init__(
            self,
            cache,
            default_timeout=settings.default_timeout,  # type: ignore[arg-type]
            ignore_delete_many_errors=settings.ignore_errors,
        )
        self.key_prefix = settings.key_prefix
        self._codecs = self._own_serializer(cache._encoder)

    def _begin_with(self, kind: str, config: Mapping[str, Any]) -> None:
        self._begin(FlaskSettings.of({**DEFAULTS, "EVERCACHE_URL": None, "CACHE_TYPE": kind, **config}))

    def _prefix(self) -> str:
        # Keys need none: the prefix is the namespace of the cache.
        return ""

    @property
    def serializer(self) -> Any:
        """How values are stored: by the codecs of this library, until another of cachelib's is put here."""
        return self._codecs if self._serializer is None else self._serializer

    @serializer.setter
    def serializer(self, chosen: Any) -> None:
        self._serializer = None if isinstance(chosen, OwnSerializer) else chosen

    def _chosen_serializer(self) -> Any:
        return self._serializer

    def delete_many(self, *keys: str) -> list[Any]:
        """Delete many keys; those that the master knows to be gone.

        The others are gone in this process, and everywhere once there is a master: no reason for an error in a
        page, so `CACHE_IGNORE_ERRORS`, which is False where it is not set, is for other backends.
        """
        return self._gone(keys)

    def _pack(self, value: Any) -> Any:
        return super()._pack(value if self._app is None else freeze(self._app, value))

    def _unpack(self, value: Any) -> Any:
        value = super()._unpack(value)
        return value if self._app is None else thaw(self._app, value)

    @property
    def _write_client(self) -> Any:
        return self.evercache.master

    @property
    def _read_client(self) -> Any:
        return self.evercache.replica


class SimpleCache(EvercacheBackend):
    """In this process. `threshold`: as many entries are kept, and one more as in cachelib; None: 10,000."""

    _own_serializer = OwnSimpleSerializer

    def __init__(
        self,
        threshold: int | None = None,
        default_timeout: int = 300,
        ignore_delete_many_errors: bool = False,
        ignore_errors: bool | None = None,
    ) -> None:
        self._begin_with(
            "simple",
            {
                "CACHE_DEFAULT_TIMEOUT": default_timeout,
                "CACHE_IGNORE_ERRORS": _ignoring(ignore_delete_many_errors, ignore_errors),
                "CACHE_THRESHOLD": threshold,
            },
        )

    @property
    def _cache(self) -> Stored:
        """What is kept, by key, for who looks at Flask-Caching's dict; AttributeError where servers hold it."""
        client = self.evercache._client_sync()
        view = None if client is None else client.engine.view
        if client is None or view is None or view.master is None:
            raise AttributeError("_cache: the cache is switched off")
        server = getattr(client.engine.sync_endpoints.get(view.master), "server", None)
        if not isinstance(server, MemoryServer):
            raise AttributeError("_cache: servers hold the entries, not this process")
        return Stored(self, server)


class RedisCache(EvercacheBackend):
    """One server. `host` may be a client of redis-py, for its address and password."""

    def __init__(
        self,
        host: Any = "localhost",
        port: int = 6379,
        password: str | None = None,
        db: int = 0,
        default_timeout: int = 300,
        key_prefix: Any = None,
        ignore_delete_many_errors: bool = False,
        **options: Any,
    ) -> None:
        if host is None:
            raise ValueError("RedisCache host parameter may not be None")
        pool = getattr(host, "connection_pool", None)
        if pool is not None:
            known = pool.connection_kwargs
            host, port = known.get("host", "localhost"), known.get("port", 6379)
            password, db = known.get("password"), known.get("db") or 0
        self._begin_with(
            "redis",
            {
                "CACHE_REDIS_HOST": host,
                "CACHE_REDIS_PORT": port,
                "CACHE_REDIS_PASSWORD": password,
                "CACHE_REDIS_DB": db,
                "CACHE_DEFAULT_TIMEOUT": default_timeout,
                "CACHE_KEY_PREFIX": key_prefix,
                "CACHE_IGNORE_ERRORS": ignore_delete_many_errors,
                "CACHE_OPTIONS": options,
            },
        )


class RedisSentinelCache(RedisCache):
    """What sentinels name."""

    def __init__(
        self,
        sentinels: Any = None,
        master: str = "mymaster",
        password: str | None = None,
        db: int = 0,
        default_timeout: int = 300,
        key_prefix: Any = "",
        ignore_delete_many_errors: bool = False,
        sentinel_password: str | None = None,
        **options: Any,
    ) -> None:
        self._begin_with(
            "sentinel",
            {
                "CACHE_REDIS_SENTINELS": sentinels,
                "CACHE_REDIS_SENTINEL_MASTER": master,
                "CACHE_REDIS_SENTINEL_PASSWORD": sentinel_password,
                "CACHE_REDIS_PASSWORD": password,
                "CACHE_REDIS_DB": db,
                "CACHE_DEFAULT_TIMEOUT": default_timeout,
                "CACHE_KEY_PREFIX": key_prefix,
                "CACHE_IGNORE_ERRORS": ignore_delete_many_errors,
                "CACHE_OPTIONS": options,
            },
        )


class FileSystemCache(CachelibFileSystemCache):
    """cachelib's own, for who has it: without what this library does."""

    def __init__(self, cache_dir: str, *args: Any, ignore_errors: bool | None = None, **options: Any) -> None:
        ignoring = _ignoring(options.pop("ignore_delete_many_errors", False), ignore_errors)
        super().__init__(cache_dir, *args, **options)
        self.ignore_delete_many_errors = ignoring

    @classmethod
    def factory(
        cls, app: Flask, config: Mapping[str, Any], args: list[Any], options: dict[str, Any]
    ) -> FileSystemCache:
        """As the settings say."""
        options = {
            "threshold": 500 if config["CACHE_THRESHOLD"] is None else config["CACHE_THRESHOLD"],
            "hash_method": config["CACHE_FILE_HASH_METHOD"],
            **options,
        }
        return cls(config["CACHE_DIR"], *args, **options)
