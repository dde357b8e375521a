"""The settings of a site (Flask's configuration, or a module `settings_local`), read and checked."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from evercache.errors import ConfigurationError, URLError
from evercache.protocol.keys import check_namespace
from evercache.url import Location, parse_url

__all__ = ["DEFAULTS", "EXTRA", "SiteSettings", "as_mapping", "load"]

#: The settings that a site has, and what holds where it has none.
DEFAULTS: Mapping[str, Any] = {
    "REDIS_SENTINEL": [("localhost", 26379)],
    "REDIS_MASTER": "mymaster",
    "REDIS_DB": 0,
    "REDIS_KEYPREFIX": "pybossa_cache",
    "REDIS_SOCKET_TIMEOUT": None,
    "REDIS_RETRY_ON_TIMEOUT": True,
    "REDIS_HOST": "localhost",
    "REDIS_PORT": 6379,
    "REDIS_PASSWORD": None,
}
#: Those that are new, each with what it is for.
EXTRA: Mapping[str, str] = {
    "EVERCACHE_URL": "the servers as a URL, in the place of all addresses and passwords above (ACL users, TLS)",
    "EVERCACHE_SECRET_KEYS": "keys to sign pickled values with (default: SECRET_KEY)",
    "EVERCACHE_BOOKKEEPING_DB": "the database number for the marks of deletes (default: 15)",
    "EVERCACHE_OLD_KEYPREFIX": "while moving: the REDIS_KEYPREFIX of the old code, whose pickles may be read",
    "EVERCACHE_WAIT": "seconds that sentinel.master and slave wait for a failover (default: what it takes)",
    "EVERCACHE_MIGRATION_TTL": "while moving: seconds for which an entry lives at most (default: 60)",
}
#: Seconds that a command of `master` or `slave` waits for its answer where the site says None: for ever.
_SOCKET_TIMEOUT = 5.0
_BUDGET = 0.25
#: With REDIS_RETRY_ON_TIMEOUT. One is used up at a frozen master, one by a connection that its promotion breaks.
_RETRIES = 3
_LEAST_SECRET = 16


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What the settings of a site come to. `secret`: the keys that sign pickles, not shown."""

    location: Location
    url: str
    prefix: str
    bookkeeping_db: int
    socket_timeout: float
    secret: tuple[str | bytes, ...] = ()
    old_prefix: str | None = None
    migration_ttl: float = 60.0
    #: How often a command of `master` is sent again that failed and may have run.
    retry: int = 3
    #: Seconds that a command waits for a failover; None: as the sentinels are set.
    wait: float | None = None

    def __repr__(self) -> str:
        return f"SiteSettings({self.location.redacted()}, prefix={self.prefix!r})"

    @property
    def budget(self) -> float:
        """Seconds that a call spends on the cache at most."""
        return min(_BUDGET, self.socket_timeout)

    @property
    def namespace(self) -> str:
        """A plain name for the bookkeeping of this prefix."""
        try:
            return check_namespace(self.prefix)
        except ConfigurationError:
            plain = re.sub(r"[^a-z0-9_.-]", "_", self.prefix.lower())[:20]
            return f"p{plain}.{blake2b(self.prefix.encode(), digest_size=4).hexdigest()}"

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> SiteSettings:
        """Read settings by their names; ConfigurationError says which is wrong, and what to write."""
        prefix = values.get("REDIS_KEYPREFIX") or DEFAULTS["REDIS_KEYPREFIX"]
        if not isinstance(prefix, str):
            raise ConfigurationError("REDIS_KEYPREFIX is no text: write REDIS_KEYPREFIX = 'pybossa_cache'")
        url = values.get("EVERCACHE_URL") or _url(values)
        try:
            location = parse_url(url)
        except URLError as error:
            raise ConfigurationError(f"the address of the servers (EVERCACHE_URL, REDIS_...): {error}") from None
        old = values.get("EVERCACHE_OLD_KEYPREFIX") or None
        if old is not None and not isinstance(old, str):
            raise ConfigurationError("EVERCACHE_OLD_KEYPREFIX is no text: write that of the old code")
        return cls(
            location,
            url,
            prefix,
            _bookkeeping(values, location.node_options.db),
            _socket_timeout(values),
            _secret(values),
            old,
            _positive(values, "EVERCACHE_MIGRATION_TTL", 60.0),
            _RETRIES if values.get("REDIS_RETRY_ON_TIMEOUT", True) else 0,
            None if values.get("EVERCACHE_WAIT") is None else _positive(values, "EVERCACHE_WAIT", 10.0),
        )


def _url(values: Mapping[str, Any]) -> str:
    """The servers as a URL."""
    password = values.get("REDIS_PASSWORD")
    login = f":{quote(str(password), safe='')}@" if password else ""
    db = values.get("REDIS_DB", 0)
    if isinstance(db, bool) or not str(db).isdigit():
        raise ConfigurationError(f"REDIS_DB = {db!r} is no number of a database: write REDIS_DB = 0")
    one_server = "REDIS_HOST" in values or "REDIS_PORT" in values
    sentinels = values.get("REDIS_SENTINEL", None if one_server else DEFAULTS["REDIS_SENTINEL"])
    if not sentinels:
        host, port = values.get("REDIS_HOST") or "localhost", values.get("REDIS_PORT") or 6379
        return f"redis://{login}{_address(host, port, 'REDIS_HOST')}/{db}"
    how = "REDIS_SENTINEL = [('host', 26379), ...]"
    try:
        pairs = [(host, port) for host, port in sentinels]
    except (TypeError, ValueError):
        raise ConfigurationError(f"REDIS_SENTINEL is no list of pairs: write {how}") from None
    hosts = ",".join(dict.fromkeys(_address(host, port, "REDIS_SENTINEL") for host, port in pairs))
    master = values.get("REDIS_MASTER") or DEFAULTS["REDIS_MASTER"]
    return f"sentinel://{login}{hosts}/{quote(str(master), safe='')}/{db}"


def _address(host: object, port: object, name: str) -> str:
    if not isinstance(host, str) or not host or "@" in host or "/" in host:
        raise ConfigurationError(f"{name} has a host that is no host name: write 'localhost', an IP or a name")
    if isinstance(port, bool) or not str(port).isdigit():
        raise ConfigurationError(f"{name}: the port of {host} is no number")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _socket_timeout(values: Mapping[str, Any]) -> float:
    if values.get("REDIS_SOCKET_TIMEOUT") is None:
        return _SOCKET_TIMEOUT
    return _positive(values, "REDIS_SOCKET_TIMEOUT", _SOCKET_TIMEOUT)


def _positive(values: Mapping[str, Any], name: str, default: float) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise ConfigurationError(f"{name} = {value!r} is no number of seconds above 0: write {name} = {default:g}")
    return float(value)


def _bookkeeping(values: Mapping[str, Any], db: int) -> int:
    given = values.get("EVERCACHE_BOOKKEEPING_DB")
    if given is None:
        return 15 if db != 15 else 14
    if type(given) is not int or given < 0:
        raise ConfigurationError(f"EVERCACHE_BOOKKEEPING_DB = {given!r} is no number of a database: write 15")
    return given


def _secret(values: Mapping[str, Any]) -> tuple[str | bytes, ...]:
    """The keys long enough to sign with; their own setting must be so."""
    given = values.get("EVERCACHE_SECRET_KEYS")
    explicit = given is not None
    if given is None:
        given = values.get("SECRET_KEY") or ()
    if not isinstance(given, (str, bytes, list, tuple, set, frozenset)):
        raise ConfigurationError("EVERCACHE_SECRET_KEYS (or SECRET_KEY) is no key and no list of keys")
    keys = (given,) if isinstance(given, (str, bytes)) else tuple(given)
    good = tuple(key for key in keys if isinstance(key, (str, bytes)) and len(key) >= _LEAST_SECRET)
    if explicit and len(good) < len(keys):
        raise ConfigurationError("EVERCACHE_SECRET_KEYS has a key of less than 16 bytes: use secrets.token_hex(32)")
    return good


def as_mapping(source: object) -> Mapping[str, Any]:
    """The settings in a module, a Flask application, an object or a mapping, by name."""
    config = getattr(source, "config", None)
    if isinstance(config, Mapping):
        return config
    if isinstance(source, Mapping):
        return source
    return {name: getattr(source, name) for name in dir(source) if name.isupper()}


def load(name: str) -> Mapping[str, Any]:
    """The settings in a file (`.../settings_local.py`) or a module, by name. Its code runs: it may raise."""
    if name.endswith(".py") or "/" in name:
        if not Path(name).is_file():
            raise ConfigurationError(f"there is no file {name}")
        return {key: value for key, value in runpy.run_path(name).items() if key.isupper()}
    module: ModuleType = importlib.import_module(name)
    return as_mapping(module)
