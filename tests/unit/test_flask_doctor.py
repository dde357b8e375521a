"""`flask cache doctor`: each problem with its mend, and an exit code; that of servers is in tests/real."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cachelib.serializers import JSONSerializer
from click.testing import Result
from flask import Flask

from evercache.integrations.flask import Cache
from evercache.integrations.flask.settings import DEFAULTS, FlaskSettings
from evercache.ops.flask.doctor import of_settings
from evercache.ops.flask.findings import Finding, exit_code

GOOD = {
    "EVERCACHE_URL": "sentinel://:p4ssw0rd@a,b,c/shop",
    "SECRET_KEY": "sixteen bytes or more",
    "CACHE_KEY_PREFIX": "shop",
}


def found(environment: dict[str, str] | None = None, **config: Any) -> list[Finding]:
    merged = {**DEFAULTS, **config}
    return list(of_settings(FlaskSettings.of(merged), merged, environment or {}))


def test_good_settings_have_nothing_to_mend() -> None:
    assert found(**GOOD) == []


@pytest.mark.parametrize(
    ("change", "level", "problem", "mend"),
    [
        ({"CACHE_DEFUALT_TIMEOUT": 1}, "risk", "CACHE_DEFUALT_TIMEOUT is not read", "CACHE_DEFAULT_TIMEOUT"),
        ({"EVERCACHE_ULR": "x"}, "risk", "EVERCACHE_ULR is not read", "EVERCACHE_URL"),
        ({"CACHE_OPTIONS": {"socket_timeout": 1}}, "note", "'socket_timeout'", "the URL"),
        ({"CACHE_TYPE": "RedisCache", "CACHE_REDIS_HOST": "h"}, "note", "CACHE_REDIS_HOST: not used", "take them"),
        ({"SECRET_KEY": None}, "risk", "no key to sign with", "SECRET_KEY"),
        ({"SECRET_KEY": "dev"}, "risk", "SECRET_KEY is short", "token_hex"),
        ({"SECRET_KEY_FALLBACKS": ["old"]}, "risk", "SECRET_KEY is short", "token_hex"),
        ({"CACHE_KEY_PREFIX": "flask_cache_"}, "note", "CACHE_KEY_PREFIX is the default", "its own"),
        ({"EVERCACHE_URL": "sentinel://:p@a,b/shop"}, "risk", "2 sentinel(s)", "run three"),
        ({"EVERCACHE_URL": "sentinel://a,b,c/shop"}, "risk", "no password", "requirepass"),
        ({"EVERCACHE_URL": "redis://:p@a"}, "risk", "one server", "Sentinel"),
        ({"EVERCACHE_URL": "memory://"}, "risk", "each process keeps entries of its own", "EVERCACHE_URL"),
        ({"CACHE_TYPE": "SimpleCache"}, "risk", "each process keeps entries of its own", "EVERCACHE_URL"),
        ({"CACHE_TYPE": "NullCache"}, "risk", "nothing is cached", "EVERCACHE_URL"),
    ],
)
def test_each_mistake_is_one_finding(change: dict[str, Any], level: str, problem: str, mend: str) -> None:
    (finding,) = found(**GOOD | change)
    assert finding.level == level
    assert problem in finding.problem
    assert mend in finding.mend
    assert "p4ssw0rd" not in str(finding)


def test_what_is_meant_is_no_risk() -> None:
    assert found(**GOOD | {"CACHE_TYPE": "NullCache", "CACHE_NO_NULL_WARNING": True}) == []
    assert found(**GOOD | {"SECRET_KEY": None, "CACHE_PICKLE_KEYS": ["k" * 16]}) == []
    (finding,) = found({"EVERCACHE_DISABLED": "1"}, **GOOD)
    assert "EVERCACHE_DISABLED" in finding.problem
    assert found({"EVERCACHE_DISABLED": "0"}, **GOOD) == []


def test_the_exit_code() -> None:
    note, risk, error = (Finding(level, "", "") for level in ("note", "risk", "error"))  # type: ignore[arg-type]
    assert [exit_code(found) for found in ([], [note], [note, risk], [risk, error])] == [0, 0, 1, 2]


def doctor(app: Flask, *options: str) -> Result:
    return app.test_cli_runner().invoke(args=["cache", "doctor", *options])


def application(**config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(GOOD | config)
    return app


def test_an_application_that_works_alone() -> None:
    app = application(CACHE_TYPE="SimpleCache")
    Cache(app)
    told = doctor(app)
    assert told.exit_code == 1
    assert told.output.startswith("risk: each process keeps entries of its own")
    assert told.output.count("fix: ") == 1


def test_a_cache_that_is_off() -> None:
    app = application(CACHE_TYPE="RedisClusterCache")
    Cache(app)
    told = doctor(app, "--json")
    assert told.exit_code == 2
    (finding,) = json.loads(told.output)
    assert finding["level"] == "error"
    assert "RedisClusterCache" in finding["problem"]
    assert finding["mend"]


def test_what_goes_by_get_and_set() -> None:
    class Watched(Cache):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            return super().get(*args, **kwargs)

    app = application(CACHE_TYPE="SimpleCache")
    Watched(app)
    Cache(app, config={"CACHE_SERIALIZER": JSONSerializer})
    Cache(app, config={"CACHE_TYPE": "cachelib.SimpleCache"})
    told = doctor(app)
    assert "get or set is overridden" in told.output
    assert "take CACHE_SERIALIZER out" in told.output
    assert "note: SimpleCache is no cache of evercache" in told.output
    assert told.exit_code == 1


def test_an_application_without_a_cache() -> None:
    app = Flask(__name__)
    Cache(app, config={"CACHE_TYPE": "SimpleCache"})
    app.extensions["cache"].clear()
    assert doctor(app).exit_code == 2
