"""Settings of a Flask application and of a PyBossa site, and the pickles that such a site's old code wrote."""

from __future__ import annotations

import json
import pickle
from typing import Any
from unittest import mock

from evercache import Cache
from evercache.errors import ConfigurationError
from evercache.integrations.flask import settings as flask_settings
from evercache.integrations.flask.settings import DEFAULTS, FlaskSettings
from evercache.integrations.pybossa import migration
from evercache.integrations.pybossa import settings as site_settings
from evercache.integrations.pybossa.migration import OldEntries
from evercache.integrations.pybossa.settings import SiteSettings
from evercache.protocol.keys import check_namespace
from evercache.protocol.scope import Subject
from tests.edits import edit, put
from tests.fuzz.target import JSON, Bug, Target, must

__all__ = ["TARGETS"]


def _values(data: bytes) -> dict[str, Any] | None:
    """Settings as JSON: what can be written there can be written in a settings module."""
    try:
        found = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _site(data: bytes) -> None:
    values = _values(data)
    if values is None:
        return
    try:
        site = SiteSettings.read(values)
    except ConfigurationError as error:
        must(
            "pass-word" not in str(error) or values.get("REDIS_PASSWORD") != "pass-word" or _repeated(values),
            "a password in an error",
        )
        return
    must(check_namespace(site.namespace) == site.namespace, "a namespace that is none")
    must(0 < site.budget <= 0.25 and site.migration_ttl > 0, "a time that is none")
    must(all(len(key) >= 16 for key in site.secret), "a key too short to sign with")
    must(
        site.url != "pass-word"
        and (values.get("REDIS_PASSWORD") != "pass-word" or _repeated(values) or "pass-word" not in repr(site)),
        "a password is shown",
    )


def _repeated(values: dict[str, Any]) -> bool:
    """Whether the word stands elsewhere too, where it is no password."""
    return json.dumps(values).count("pass-word") > 1


def _flask(data: bytes) -> None:
    values = _values(data)
    if values is None:
        return
    try:
        found = FlaskSettings.of({**DEFAULTS, "EVERCACHE_URL": None, **values})
    except (ValueError, TypeError):
        return  # as Flask-Caching: a mistake of the programmer's, at the start
    must(check_namespace(found.namespace) == found.namespace, "a namespace that is none")
    found.location()


_OLD = OldEntries("old", Cache("memory://", namespace="fuzz"))
_SUBJECT = Subject("old::key")


def _old_pickles(data: bytes) -> None:
    """The bytes under an old key. Classes cannot be found here: the guard forbids it."""
    loads, calls = pickle.loads, []

    def read(raw: bytes) -> Any:
        calls.append(raw)
        return _Plain(raw).load()

    class Answering:
        engine = _OLD._cache._client_sync().engine  # type: ignore[union-attr]

        class link:
            @staticmethod
            def ask(commands: Any, deadline: float) -> list[bytes]:
                return [data for _ in commands]

    with (
        mock.patch.object(migration.pickle, "loads", read),
        mock.patch.object(Cache, "_client_sync", _answering(Answering)),
    ):
        value = _OLD._read("old::key", _SUBJECT)
        removed = migration._foreign(data[:1])
    assert loads is pickle.loads
    must(not calls or data[:1] == b"\x80", "what is no pickle of Python 3 was unpickled")
    must(value is migration._NOTHING or calls, "a value out of nothing")
    must(not (removed and data[:1] == b"\xe7"), "an entry of ours would be removed as an old one")


def _answering(client: Any) -> Any:
    return lambda self: client


class _Plain:
    """Unpickles what names no class; the others are an error, as for a class that is no more."""

    def __init__(self, raw: bytes) -> None:
        import io

        class Reader(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                raise AttributeError(f"{module}.{name}")

        self._reader = Reader(io.BytesIO(raw))

    def load(self) -> Any:
        return self._reader.load()


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


_WORDS = (
    b'"',
    b"{",
    b"[",
    b"]",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1.5",
    b'""',
    b"{}",
    b"[]",
    b"[[]]",
    b'"x"',
    b"1e999",
)
_WORDS += (
    "²".encode(),
    b'"\xc2\xb2"',
    b"pass-word",
    b"@",
    b"://",
    b"NaN",
    b'"SECRET_KEY": "0123456789abcdef"',
    b": 5",
)
_PLAIN = (
    b"\x80\x04",
    b"\x80\x05",
    b".",
    b"c",
    b"R",
    b"\x93",
    b"(",
    b"t",
    b"l",
    b"N",
    b"\x8c\x02os",
    b"cos\nsystem\n",
    b"\x95",
)

TARGETS = (
    Target(
        "site settings",
        _site,
        (
            _json(REDIS_SENTINEL=["h"]),
            _json(
                REDIS_SENTINEL=[["localhost", 26379], ["h", 1]],
                REDIS_MASTER="mymaster",
                REDIS_DB=1,
                REDIS_PASSWORD="pass-word",
            ),
            _json(
                REDIS_HOST="::1",
                REDIS_PORT=6379,
                REDIS_KEYPREFIX="Site X",
                SECRET_KEY="k" * 20,
                REDIS_SOCKET_TIMEOUT=0.1,
            ),
            _json(
                EVERCACHE_URL="redis://h:1/2",
                EVERCACHE_SECRET_KEYS=["k" * 20],
                EVERCACHE_BOOKKEEPING_DB=3,
                EVERCACHE_OLD_KEYPREFIX="o",
            ),
        ),
        _WORDS,
        (
            Bug(
                "a list of any shape",
                edit(site_settings, "_url", ("except (TypeError, ValueError):", "except TypeError:")),
            ),
            Bug(
                "a time of any kind",
                edit(
                    site_settings,
                    "_positive",
                    ("isinstance(value, bool) or not isinstance(value, (int, float)) or ", ""),
                ),
            ),
        ),
        forms=JSON,
    ),
    Target(
        "flask settings",
        _flask,
        (
            _json(
                CACHE_TYPE="RedisCache",
                CACHE_REDIS_HOST="h",
                CACHE_REDIS_PORT=1,
                CACHE_REDIS_PASSWORD="pass-word",
                CACHE_REDIS_DB=2,
            ),
            _json(
                CACHE_TYPE="RedisSentinelCache", CACHE_REDIS_SENTINELS=[["h", 1]], CACHE_REDIS_SENTINEL_MASTER="m"
            ),
            _json(
                CACHE_TYPE="SimpleCache", CACHE_THRESHOLD=5, CACHE_KEY_PREFIX="Site ", CACHE_OPTIONS={"budget": 1}
            ),
            _json(CACHE_TYPE="evercache", EVERCACHE_URL="redis://h/1", SECRET_KEY="x", CACHE_PICKLE_KEYS="k" * 20),
        ),
        _WORDS,
        (
            Bug(
                "a prefix of any kind",
                edit(
                    flask_settings.FlaskSettings, "of", ("prefix() if callable(prefix) else str(prefix)", "prefix")
                ),
            ),
        ),
        forms=JSON,
    ),
    Target(
        "old pickles",
        _old_pickles,
        (
            pickle.dumps({"id": 7, "name": "x", "l": [1, 2.5, None]}, 4),
            pickle.dumps(ValueError("x")),
            pickle.dumps([1], 2),
            b"\xe7\xca",
        ),
        _PLAIN,
        (
            Bug("text is unpickled too", put(migration, "_PICKLE", b"")),
            Bug("damage is an error", edit(OldEntries, "_read", ("except Exception:", "except KeyError:"))),
        ),
    ),
)
