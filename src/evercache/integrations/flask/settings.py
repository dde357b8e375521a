"""The settings `CACHE_*` of an application, and the URL that they mean."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from evercache.cache import Cache
from evercache.codecs import SignedPickleCodec
from evercache.errors import URLError
from evercache.integrations.flask.names import timeout_seconds
from evercache.integrations.flask.warn_once import logger
from evercache.url import Location, parse_url

__all__ = ["DEFAULTS", "REDIS", "FlaskSettings", "kind_of"]

DEFAULTS: Mapping[str, Any] = {
    "CACHE_ARGS": [],
    "CACHE_DEFAULT_TIMEOUT": 300,
    "CACHE_DIR": None,
    "CACHE_ENABLE_SIGNALS": False,
    "CACHE_FILE_HASH_METHOD": hashlib.sha256,
    "CACHE_HASH_METHOD": hashlib.sha256,
    "CACHE_HTTP": False,
    "CACHE_IGNORE_ERRORS": False,
    "CACHE_KEY_PREFIX": "flask_cache_",
    "CACHE_NO_NULL_WARNING": False,
    "CACHE_OPTIONS": None,
    "CACHE_PICKLE_KEYS": None,
    "CACHE_SERIALIZER": None,
    "CACHE_SOURCE_CHECK": False,
    "CACHE_THRESHOLD": None,
}

#: The addresses that a URL stands in the place of.
REDIS: frozenset[str] = frozenset(
    f"CACHE_REDIS_{name}"
    for name in (
        *("DB", "HOST", "PASSWORD", "PORT", "SENTINELS", "SENTINEL_MASTER", "SENTINEL_PASSWORD", "URL", "USERNAME"),
    )
)

#: Old and new names of the types that are served here, without `flask_caching.backends.`.
_KINDS = {
    "nullcache": "null",
    "null": "null",
    "simplecache": "simple",
    "simple": "simple",
    "rediscache": "redis",
    "redis": "redis",
    "redissentinelcache": "sentinel",
    "redissentinel": "sentinel",
    "evercache": "url",
    "filesystemcache": "files",
    "filesystem": "files",
}
_OWN = re.compile(r"(?:flask_caching\.(?:backends\.)?|evercache\.integrations\.flask\.backends\.)?(?:\w+\.)?(\w+)")
#: What `CACHE_OPTIONS` may hold: what cachelib takes, and `Cache`; what is for redis-py is passed over.
_OF_CACHELIB = ("default_timeout", "ignore_delete_many_errors")
_OPTIONS = frozenset(inspect.signature(Cache).parameters) - {"url", "namespace", "default_ttl"}


def kind_of(cache_type: str) -> str | None:
    """`null`, `simple`, `redis`, `sentinel`, `url` or `files`; None for what is imported, or not known."""
    known = _KINDS.get(cache_type.lower())
    if known is None and cache_type.startswith(("flask_caching.", "evercache.integrations.flask.")):
        match = _OWN.fullmatch(cache_type)
        known = _KINDS.get(match[1].lower()) if match else None
    return known


@dataclass(frozen=True, slots=True)
class FlaskSettings:
    """What the settings say. `url` is None where nothing is to be kept."""

    kind: str | None
    type: str
    url: str | None
    key_prefix: str
    default_timeout: int | float
    ignore_errors: bool
    hash_method: Callable[..., Any]
    source_check: bool
    signals: bool
    http: bool
    options: Mapping[str, Any]
    arguments: list[Any]
    pickle_keys: tuple[bytes | str, ...] = field(repr=False, default=())
    #: Whether entries are kept in the memory of this process for want of a URL.
    assumed: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> FlaskSettings:
        """Read them; ValueError for what cannot be meant."""
        url = config["EVERCACHE_URL"] if "EVERCACHE_URL" in config else os.environ.get("EVERCACHE_URL")
        cache_type = str(config.get("CACHE_TYPE") or "evercache")
        kind = kind_of(cache_type)
        method = config["CACHE_HASH_METHOD"]
        if not callable(method):
            raise ValueError(
                f"`CACHE_HASH_METHOD` must be a hash constructor, such as `hashlib.sha256`, not {method!r}"
            )
        prefix = config["CACHE_KEY_PREFIX"] or ""
        options = config["CACHE_OPTIONS"] or {}
        return cls(
            kind=kind,
            type=cache_type,
            url=None if kind in (None, "null", "files") else _url(str(kind), url, config),
            key_prefix=prefix() if callable(prefix) else str(prefix),
            default_timeout=timeout_seconds(options.get("default_timeout", config["CACHE_DEFAULT_TIMEOUT"])) or 0,
            ignore_errors=bool(config["CACHE_IGNORE_ERRORS"]),
            hash_method=method,
            source_check=bool(config["CACHE_SOURCE_CHECK"]),
            signals=bool(config["CACHE_ENABLE_SIGNALS"]),
            http=bool(config["CACHE_HTTP"]),
            options=options,
            arguments=list(config["CACHE_ARGS"]),
            pickle_keys=_pickle_keys(config),
            assumed=kind == "url" and not url,
        )

    @property
    def namespace(self) -> str:
        """The namespace for a prefix of keys: the prefix itself where it can be one."""
        prefix = self.key_prefix
        if re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,31}", prefix):
            return prefix
        plain = re.sub(r"[^a-z0-9_.-]", "-", prefix.lower()).strip("-_.")[:20]
        return f"{plain or 'flask'}-{hashlib.blake2b(prefix.encode(), digest_size=4).hexdigest()}"

    def location(self) -> Location | None:
        """The servers; None where there are none, or the URL is wrong."""
        try:
            return None if self.url is None else parse_url(self.url)
        except URLError:
            return None

    def passed_over(self) -> list[str]:
        """The names in `CACHE_OPTIONS` that nothing here takes."""
        return [name for name in self.options if name not in _OPTIONS and name not in _OF_CACHELIB]

    def cache_options(self) -> dict[str, Any]:
        """Options of `Cache`: entries live as long as was said, and large pages fit."""
        chosen: dict[str, Any] = {"jitter": 0.0, "beta": 0.0, "max_value_bytes": 16 << 20}
        chosen |= {name: value for name, value in self.options.items() if name in _OPTIONS}
        for name in self.passed_over():
            logger.warning(
                "CACHE_OPTIONS[%r] is no option of evercache.Cache, and passed over; of redis-py's, put those "
                "that have a meaning here into the URL (docs/urls.md)",
                name,
            )
        keys = self.pickle_keys or ((os.urandom(32),) if self.kind == "simple" or self.assumed else ())
        if keys:
            chosen.setdefault("fallback_codec", SignedPickleCodec(keys))
        else:
            logger.warning(
                "neither SECRET_KEY nor CACHE_PICKLE_KEYS is set, so objects that can only be pickled are not "
                "cached: nothing is unpickled here that this application did not sign"
            )
        return chosen


def _pickle_keys(config: Mapping[str, Any]) -> tuple[bytes | str, ...]:
    """Keys to sign pickles with: those of their own setting, else made of the application's secret keys."""
    own = config["CACHE_PICKLE_KEYS"]
    if own:
        return (own,) if isinstance(own, (str, bytes)) else tuple(own)
    secrets = [config.get("SECRET_KEY"), *(config.get("SECRET_KEY_FALLBACKS") or ())]
    texts = [secret.encode() if isinstance(secret, str) else bytes(secret) for secret in secrets if secret]
    return tuple(hashlib.blake2b(text, digest_size=32, person=b"evercache-flask").digest() for text in texts)


def _url(kind: str, url: str | None, config: Mapping[str, Any]) -> str:
    if kind == "simple":
        threshold = _whole(config, "CACHE_THRESHOLD")
        # cachelib makes room before it writes, so it keeps one more.
        return f"memory://?max_entries={threshold + 1}" if threshold > 0 else "memory://"
    if url:
        return str(url)
    if kind == "url":
        return "memory://"
    database = _whole(config, "CACHE_REDIS_DB")
    password = config.get("CACHE_REDIS_PASSWORD")
    login = f"{quote(str(config.get('CACHE_REDIS_USERNAME') or ''), safe='')}:{quote(str(password), safe='')}@"
    login = login if password else ""
    if kind == "sentinel":
        sentinels = config.get("CACHE_REDIS_SENTINELS") or [("127.0.0.1", 26379)]
        hosts = ",".join(f"{_host(host)}:{port}" for host, port, *_ in sentinels)
        secret = config.get("CACHE_REDIS_SENTINEL_PASSWORD")
        more = f"?sentinel_password={quote(str(secret), safe='')}" if secret else ""
        service = config.get("CACHE_REDIS_SENTINEL_MASTER") or "mymaster"
        return f"sentinel://{login}{hosts}/{service}{f'/{database}' if database else ''}{more}"
    if own := config.get("CACHE_REDIS_URL"):
        base, mark, query = str(own).partition("?")
        if database and not re.search(r"://[^/]+/\d+", base):
            base = f"{base.rstrip('/')}/{database}"
        return base + mark + query
    host = config.get("CACHE_REDIS_HOST") or "localhost"
    return (
        f"redis://{login}{_host(host)}:{config.get('CACHE_REDIS_PORT') or 6379}{f'/{database}' if database else ''}"
    )


def _whole(config: Mapping[str, Any], name: str) -> int:
    try:
        return int(config.get(name) or 0)
    except OverflowError:  # an infinity
        raise ValueError(f"`{name}` must be a whole number, not {config[name]!r}") from None


def _host(host: Any) -> str:
    text = str(host)
    return f"[{text}]" if ":" in text else text
