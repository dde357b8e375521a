"""`LOCATION` and `OPTIONS` of an alias, as this library, Django's Redis backend and django-redis take them."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured

from evercache.cache import Cache
from evercache.integrations.settings import namespace_of
from evercache.observe.labelled import labelled

__all__ = ["cache_options", "tell"]

_logger = labelled("evercache.django")

#: What `evercache.Cache` takes. Time-outs come from `TIMEOUT`.
_OWN: Final = frozenset(inspect.signature(Cache).parameters) - {"url", "default_ttl"}
#: Options of the other two backends that become a part of the URL.
_OF_THE_URL: Final = {
    "PASSWORD", "USERNAME", "DB", "SENTINELS", "SENTINEL_KWARGS", "CONNECTION_POOL_KWARGS",
    "SOCKET_CONNECT_TIMEOUT", "MAX_CONNECTIONS",
    "SSL_CA_CERTS", "SSL_CERTFILE", "SSL_KEYFILE", "SSL_CERT_REQS", "SSL_CHECK_HOSTNAME",
    "CLIENT_NAME",
}  # fmt: skip
#: Options that have no meaning here, and what to do instead.
_POINTLESS: Final = {
    "CLIENT_CLASS": "one class serves every kind of deployment, and holds off a stampede",
    "SERIALIZER": "values keep their types, and what is no plain value is pickled and signed with SECRET_KEY; "
    "another codec is the option `codec`",
    "COMPRESSOR": "values above 1 KiB are compressed with zstd; `compress_above` moves that bound",
    **dict.fromkeys(
        ("IGNORE_EXCEPTIONS", "LOG_IGNORED_EXCEPTIONS", "LOG_IGNORE_EXCEPTIONS"),
        "errors of the servers are never raised, but logged; `on_error='raise'` raises them",
    ),
    "SOCKET_TIMEOUT": "a call spends no longer on the cache than `budget`, 0.25 s by default",
    "SOCKET_KEEPALIVE": "a connection that has ended is noticed without it",
    "RETRY_ON_TIMEOUT": "calls that may be sent again are",
    **dict.fromkeys(
        ("CONNECTION_POOL_CLASS", "POOL_CLASS", "CONNECTION_FACTORY", "SENTINEL_KWARGS_CLASS"),
        "connections are this library's own; `MAX_CONNECTIONS` bounds the blocking ones to a server",
    ),
    **dict.fromkeys(("PARSER_CLASS", "REDIS_CLIENT_CLASS", "REDIS_CLIENT_KWARGS"), "answers are read by hiredis"),
    "PICKLE_VERSION": "pickles are written with protocol 5",
    "CLOSE_CONNECTION": "connections are kept between requests",
    **dict.fromkeys(
        ("MAX_ENTRIES", "CULL_FREQUENCY"),
        "the server makes room by its `maxmemory-policy`; for memory:// write memory://?max_entries=...",
    ),
}
#: `REVERSE_KEY_FUNCTION` is looked at by `keys()` itself.
_ELSEWHERE: Final = {"REVERSE_KEY_FUNCTION"}
_told: set[str] = set()


def cache_options(server: Any, prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `evercache.Cache` for an alias; ImproperlyConfigured for what cannot be meant."""
    chosen: dict[str, Any] = {
        "namespace": namespace_of(prefix, "django"),
        "jitter": 0.0,
        "max_value_bytes": 16 << 20,
    }
    parts: dict[str, Any] = {}
    for name, value in options.items():
        upper = name.upper()
        if name in _OWN:
            chosen[name] = value
        elif upper in _OF_THE_URL:
            parts[upper] = value
        elif upper in _POINTLESS:
            tell(upper, f"OPTIONS[{name!r}] has no effect with this backend: {_POINTLESS[upper]}")
        elif upper not in _ELSEWHERE:
            raise ImproperlyConfigured(_unknown(name))
    for name, value in dict(parts.pop("CONNECTION_POOL_KWARGS", None) or {}).items():
        if name.upper() in _OF_THE_URL:
            parts.setdefault(name.upper(), value)
        else:
            tell(name, f"CONNECTION_POOL_KWARGS[{name!r}] is for redis-py's connections, and has no effect here")
    return chosen | {"url": _url(server, parts)}


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), _OWN, 1)
    close = close or difflib.get_close_matches(name.upper(), [*_OF_THE_URL, *_POINTLESS], 1)
    mend = f"did you mean {close[0]!r}?" if close else f"this backend takes {', '.join(sorted(_OWN))}"
    return f"OPTIONS[{name!r}] of a cache: there is no such option; {mend}"


def tell(topic: str, message: str) -> None:
    """A warning in the log, once in a process."""
    if topic not in _told:
        _told.add(topic)
        _logger.warning("%s", message)


def _url(server: Any, parts: dict[str, Any]) -> str | None:
    """One URL of this library; None where `LOCATION` is empty and so `EVERCACHE_URL` counts."""
    urls = _each(server)
    if not urls:
        if parts:
            raise ImproperlyConfigured(f"LOCATION is empty, and OPTIONS name {', '.join(parts)}: give a URL")
        return None
    if parts.get("SENTINELS"):
        return _behind_sentinels(urls[0], parts)
    first, *others = dict.fromkeys(map(_modern, urls))
    if not parts and not others:
        return first
    split = urlsplit(first)
    query = dict(parse_qsl(split.query)) | _parameters(parts)
    replicas = [urlsplit(other).netloc.rpartition("@")[2] for other in others]
    if replicas:
        query["replicas"] = ",".join(dict.fromkeys(replicas))
    login, _, hosts = split.netloc.rpartition("@")
    login = _login(parts) or login
    return split._replace(
        netloc=f"{login}@{hosts}" if login else hosts, query=urlencode(query, safe=":,/[]")
    ).geturl()


def _each(server: Any) -> list[str]:
    """The URLs of a `LOCATION`: a text, several of them with commas or semicolons in between, or a list."""
    if isinstance(server, str):
        return [url.strip() for url in re.split(r"[;,](?=\s*[a-z+]+://)", server) if url.strip()]
    if isinstance(server, Iterable):
        return [url for each in server for url in _each(each)]
    raise ImproperlyConfigured(f"LOCATION is a URL or a list of them, not {server!r}")


def _modern(url: str) -> str:
    """A URL without the older forms of django-redis: `host:port:db`, `redis://host:port:db`, `host:port`."""
    if "://" not in url and not url.startswith("unix:"):
        url = f"redis://{url}"
    return re.sub(r"^(\w+://[^/?]*:\d+):(\d+)$", r"\1/\2", url)


def _login(parts: Mapping[str, Any]) -> str:
    user, password = parts.get("USERNAME") or "", parts.get("PASSWORD") or ""
    return f"{quote(str(user), safe='')}:{quote(str(password), safe='')}" if user or password else ""


def _parameters(parts: Mapping[str, Any]) -> dict[str, str]:
    names = {"SOCKET_CONNECT_TIMEOUT": "connect_timeout"}
    of_login = ("USERNAME", "PASSWORD", "SENTINELS", "SENTINEL_KWARGS")
    return {
        names.get(name, name.lower()): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in parts.items()
        if name not in of_login and value is not None
    }


def _behind_sentinels(url: str, parts: Mapping[str, Any]) -> str:
    """django-redis names the service where a URL has the host, and the sentinels in an option."""
    split = urlsplit(url)
    login, _, service = split.netloc.rpartition("@")
    login = _login(parts) or login
    hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in parts["SENTINELS"])
    query = {name: value for name, value in parse_qsl(split.query) if name != "is_master"} | _parameters(parts)
    database = query.pop("db", "") or split.path.strip("/")
    for name, value in dict(parts.get("SENTINEL_KWARGS") or {}).items():
        if name in ("username", "password"):
            query[f"sentinel_{name}"] = str(value)
        else:
            tell(name, f"SENTINEL_KWARGS[{name!r}] is for redis-py's connections, and has no effect here")
    scheme = "rediss+sentinel" if split.scheme.startswith(("rediss", "valkeys")) else "redis+sentinel"
    path = "/".join(part for part in (service.partition(":")[0], database) if part)
    return f"{scheme}://{login + '@' if login else ''}{hosts}/{path}{'?' + urlencode(query) if query else ''}"
