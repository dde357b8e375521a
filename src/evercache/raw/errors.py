"""Errors of the raw clients. All are errors of redis-py as well, so that what catches those catches them."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from evercache.errors import ConfigurationError

__all__ = ["ClientsClosed", "NotAttached", "NotSent", "Stale"]


class NotAttached(RedisError, ConfigurationError):
    """A command before the clients were given their cache; the message says how to do that."""


class NotSent(RedisConnectionError):
    """The command certainly did not run: no server could be reached, or none took all of it. It may be repeated."""


class ClientsClosed(NotSent):
    """The cache of these clients was closed."""


class Stale(NotSent):
    """The connection led to a server that is the wrong one now; the retry of the client uses a new connection."""
