"""From settings to a backend."""

from __future__ import annotations

from typing import Any

from cachelib.serializers import BaseSerializer
from flask import Flask
from werkzeug.utils import ImportStringError, import_string

from evercache.errors import ConfigurationError
from evercache.integrations.flask.backends import (
    EvercacheBackend,
    FileSystemCache,
    NullCache,
    RedisCache,
    RedisSentinelCache,
    SimpleCache,
)
from evercache.integrations.flask.settings import FlaskSettings
from evercache.integrations.flask.warn_once import logger

__all__ = ["made", "serializer_of"]

_TYPES: dict[str | None, type[EvercacheBackend]] = {
    "simple": SimpleCache,
    "redis": RedisCache,
    "sentinel": RedisSentinelCache,
    "url": EvercacheBackend,
}


def made(app: Flask, settings: FlaskSettings, merged: dict[str, Any]) -> Any:
    """The backend that the settings mean; one that keeps nothing, and a line in the log, where they cannot be."""
    if settings.kind == "null":
        return NullCache(default_timeout=int(settings.default_timeout))
    try:
        if settings.kind == "files":
            return FileSystemCache.factory(app, merged, settings.arguments, _foreign_options(settings))
        if settings.kind is not None:
            return _TYPES[settings.kind].of(app, settings)
        return _foreign(app, settings, merged)
    except (ConfigurationError, ImportStringError, ImportError) as error:
        logger.error(
            "the cache is off: CACHE_TYPE=%r cannot be used here (%s). Set EVERCACHE_URL (docs/urls.md), or "
            "CACHE_TYPE to 'RedisCache', 'RedisSentinelCache', 'SimpleCache', 'NullCache' or the import path "
            "of a cachelib backend",
            settings.type,
            error,
        )
        nothing = NullCache()
        nothing.problem = f"CACHE_TYPE={settings.type!r} cannot be used here ({error})"
        return nothing


def _foreign(app: Flask, settings: FlaskSettings, merged: dict[str, Any]) -> Any:
    """A backend by its import path, made as Flask-Caching makes it."""
    if "." not in settings.type:
        raise ConfigurationError("there is no such type here")
    factory = import_string(settings.type)
    options = _foreign_options(settings)
    if settings.type.startswith("cachelib."):
        return factory(*settings.arguments, **options)
    if isinstance(factory, type) and hasattr(factory, "factory"):
        factory = factory.factory
    return factory(app, merged, settings.arguments, options)


def _foreign_options(settings: FlaskSettings) -> dict[str, Any]:
    return {
        "default_timeout": settings.default_timeout,
        "ignore_delete_many_errors": settings.ignore_errors,
        **settings.options,
    }


def serializer_of(given: Any) -> Any:
    """An object of cachelib's, or None; ValueError for what is none."""
    if given is None:
        return None
    if isinstance(given, type) and issubclass(given, BaseSerializer):
        try:
            return given()
        except TypeError as error:
            raise ValueError(f"Couldn't instantiate serializer: {given!r}: give an object of it") from error
    if not isinstance(given, BaseSerializer):
        raise ValueError("`CACHE_SERIALIZER` must be a class or an object of `cachelib.serializers.BaseSerializer`")
    return given
