from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask

from evercache.integrations.flask import Cache
from evercache.integrations.flask.backends import EvercacheBackend, NullCache, RedisCache, SimpleCache
from evercache.integrations.flask.settings import DEFAULTS, FlaskSettings


def url_of(**config: Any) -> str | None:
    return FlaskSettings.of({**DEFAULTS, **config}).url


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ({"CACHE_TYPE": "SimpleCache"}, "memory://"),
        ({"CACHE_TYPE": "simple"}, "memory://"),
        ({"CACHE_TYPE": "flask_caching.backends.simplecache.SimpleCache"}, "memory://"),
        ({"CACHE_TYPE": "NullCache"}, None),
        ({}, "memory://"),
        ({"EVERCACHE_URL": ""}, "memory://"),
        ({"CACHE_TYPE": "RedisCache"}, "redis://localhost:6379"),
        ({"CACHE_TYPE": "flask_caching.backends.RedisCache", "CACHE_REDIS_DB": 3}, "redis://localhost:6379/3"),
        (
            {
                "CACHE_TYPE": "redis",
                "CACHE_REDIS_HOST": "::1",
                "CACHE_REDIS_PASSWORD": "p@ss",
                "CACHE_REDIS_PORT": 1,
            },
            "redis://:p%40ss@[::1]:1",
        ),
        ({"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": "redis://h:1", "CACHE_REDIS_DB": 2}, "redis://h:1/2"),
        ({"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": "redis://h:1/4", "CACHE_REDIS_DB": 2}, "redis://h:1/4"),
        ({"CACHE_TYPE": "RedisSentinelCache"}, "sentinel://127.0.0.1:26379/mymaster"),
        (
            {
                "CACHE_TYPE": "RedisSentinelCache",
                "CACHE_REDIS_SENTINELS": [("a", 1), ("b", 2)],
                "CACHE_REDIS_SENTINEL_MASTER": "shop",
                "CACHE_REDIS_SENTINEL_PASSWORD": "s",
                "CACHE_REDIS_PASSWORD": "n",
                "CACHE_REDIS_DB": 1,
            },
            "sentinel://:n@a:1,b:2/shop/1?sentinel_password=s",
        ),
        ({"CACHE_TYPE": "RedisCache", "EVERCACHE_URL": "sentinel://a:1/shop"}, "sentinel://a:1/shop"),
        ({"EVERCACHE_URL": "redis://a:1"}, "redis://a:1"),
        ({"CACHE_TYPE": "NullCache", "EVERCACHE_URL": "redis://a:1"}, None),
    ],
)
def test_the_url_that_is_meant(config: dict[str, Any], url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    assert url_of(**config) == url


def test_the_environment_names_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCACHE_URL", "redis://elsewhere:1")
    assert url_of() == url_of(CACHE_TYPE="RedisCache") == "redis://elsewhere:1"
    assert url_of(CACHE_TYPE="SimpleCache") == "memory://"
    assert RedisCache("here", 2).evercache.location.redacted() == "redis://here:2"


def test_prefixes_make_namespaces_that_differ() -> None:
    prefixes = ["", "flask_cache_", "shop", "Shop", "shop:", "x" * 40, "x" * 41, "ä"]
    names = [FlaskSettings.of({**DEFAULTS, "CACHE_KEY_PREFIX": prefix}).namespace for prefix in prefixes]
    assert len(set(names)) == len(names)
    assert names[1:3] == ["flask_cache_", "shop"]


@pytest.mark.parametrize(
    "config",
    [
        {"CACHE_TYPE": "NoSuchCache"},
        {"CACHE_TYPE": "RedisClusterCache"},
        {"CACHE_TYPE": "no.such.Backend"},
        {"EVERCACHE_URL": "redis-cluster://a:1"},
        {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": "localhost:6379"},
    ],
)
def test_an_application_starts_with_bad_settings(config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    app.config.update(config)
    with caplog.at_level(logging.ERROR, "evercache.flask"):
        cache = Cache(app)
    (record,) = caplog.records
    assert "the cache is off" in record.message
    assert "EVERCACHE_URL" in record.message

    @cache.memoize()
    def f() -> int:
        return 1

    assert f() == 1
    assert isinstance(app.extensions["cache"][cache], NullCache)


def test_a_cache_that_keeps_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    app = Flask(__name__)
    app.config["CACHE_TYPE"] = "NullCache"
    with pytest.warns(UserWarning, match="nothing is cached"):
        Cache(app)


def test_options_of_redis_py_are_passed_over_in_words(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    app.config.update(SECRET_KEY="k", CACHE_TYPE="RedisCache", CACHE_OPTIONS={"socket_timeout": 1, "budget": 0.5})
    with caplog.at_level(logging.WARNING, "evercache.flask"):
        cache = Cache(app)
    assert ["socket_timeout" in record.message for record in caplog.records] == [True]
    assert cache.cache.evercache.settings.budget == 0.5


def test_what_can_only_be_pickled_needs_a_key(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    app.config["EVERCACHE_URL"] = "memory://"
    with caplog.at_level(logging.WARNING, "evercache.flask"):
        cache = Cache(app)
    assert ["SECRET_KEY" in record.message for record in caplog.records] == [True]
    assert cache.set("k", slice(3)) is False


@pytest.mark.parametrize("config", [{"SECRET_KEY": "k"}, {"CACHE_PICKLE_KEYS": ["0123456789abcdef"]}])
def test_pickles_are_signed(config: dict[str, Any]) -> None:
    app = Flask(__name__)
    app.config.update(EVERCACHE_URL="memory://", **config)
    cache = Cache(app)
    assert cache.set("k", slice(3))
    assert cache.get("k") == slice(3)


def test_nothing_is_opened_before_the_first_use() -> None:
    app = Flask(__name__)
    app.config.update(EVERCACHE_URL="redis://127.0.0.1:1", SECRET_KEY="k")
    cache = Cache(app)
    assert isinstance(cache.cache, EvercacheBackend)
    assert cache.cache.evercache._clients is None


def test_several_applications_and_caches(evercache_memory: object) -> None:
    cache, other = Cache(config={"CACHE_TYPE": "SimpleCache"}), Cache()
    one, two = Flask("one"), Flask("two")
    calls: list[str] = []

    @cache.memoize()
    def f(a: int) -> str:
        calls.append(f"f{a}")
        return f"f{a}"

    with pytest.raises(RuntimeError, match="init_app"):
        f(1)
    cache.init_app(one)
    assert (f(1), f(1), len(calls)) == ("f1", "f1", 1)
    cache.init_app(two, config={"CACHE_KEY_PREFIX": "two"})
    other.init_app(one, config={"CACHE_TYPE": "SimpleCache", "CACHE_KEY_PREFIX": "other"})
    with one.app_context():
        assert (f(1), len(calls)) == ("f1", 1)
        cache.set("k", 1)
        assert other.get("k") is None
    with two.app_context():
        assert (f(1), len(calls)) == ("f1", 2)
        assert cache.get("k") is None
    assert isinstance(one.extensions["cache"][cache], SimpleCache)


def test_sessions_by_flask_session(evercache_memory: object) -> None:
    from flask import session
    from flask_session import Session

    from evercache import Cache as Store
    from evercache.integrations.cachelib import CachelibCache

    app = Flask(__name__)
    store = CachelibCache(Store("memory://", namespace="sessions"), key_prefix="session:")
    app.config.update(SECRET_KEY="k", SESSION_TYPE="cachelib", SESSION_CACHELIB=store)
    Session(app)

    @app.route("/")
    def visits() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    client = app.test_client()
    assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
    store.clear()
    assert client.get("/").text == "1"
