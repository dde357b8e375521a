"""What `LOCATION` and `OPTIONS` of a Django site become."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import tests.unit.django_site  # noqa: F401  # settings first
from django.core.exceptions import ImproperlyConfigured

from evercache.integrations.django import location
from evercache.integrations.django.location import cache_options
from evercache.url import parse_url

SENTINELS = [("10.0.0.1", 26379), ("10.0.0.2", 26380)]


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_told", set())


@pytest.mark.parametrize(
    ("server", "options", "url"),
    [
        ("redis://127.0.0.1:6379/1", {}, "redis://127.0.0.1:6379/1"),
        ("valkey+sentinel://a,b:26380/mymaster/2", {}, "valkey+sentinel://a,b:26380/mymaster/2"),
        ("redis://a:1?replicas=b:2,c:3", {}, "redis://a:1?replicas=b:2,c:3"),
        ("redis://127.0.0.1:6379?db=1", {}, "redis://127.0.0.1:6379?db=1"),
        ("redis://127.0.0.1:6379:1", {}, "redis://127.0.0.1:6379/1"),
        ("127.0.0.1:6379:1", {}, "redis://127.0.0.1:6379/1"),
        (["redis://a:1", "redis://a:1"], {}, "redis://a:1"),
        ("redis://a:1,redis://b:2;redis://c:3", {}, "redis://a:1?replicas=b:2,c:3"),
        (["redis://u:p@a:1/3", "redis://u:p@b:2/3"], {}, "redis://u:p@a:1/3?replicas=b:2"),
        ("redis://a:1", {"PASSWORD": "p@ss:/?#"}, "redis://:p%40ss%3A%2F%3F%23@a:1"),
        ("redis://a:1", {"username": "u", "password": "p", "db": 4}, "redis://u:p@a:1?db=4"),
        ("redis://a:1", {"SOCKET_CONNECT_TIMEOUT": 2}, "redis://a:1?connect_timeout=2"),
        ("redis://a:1", {"CONNECTION_POOL_KWARGS": {"max_connections": 9}}, "redis://a:1?max_connections=9"),
        ("rediss://a:1", {"ssl_cert_reqs": "none"}, "rediss://a:1?ssl_cert_reqs=none"),
        ("unix:///run/v.sock?db=1", {}, "unix:///run/v.sock?db=1"),
        (
            "redis://mymaster/3",
            {"SENTINELS": SENTINELS, "PASSWORD": "p", "SENTINEL_KWARGS": {"password": "s"}},
            "redis+sentinel://:p@10.0.0.1:26379,10.0.0.2:26380/mymaster/3?sentinel_password=s",
        ),
        (
            ["redis://mymaster?is_master=1&db=2", "redis://mymaster?is_master=0&db=2"],
            {"SENTINELS": [("::1", 26379)]},
            "redis+sentinel://[::1]:26379/mymaster/2",
        ),
        ("", {}, None),
    ],
)
def test_every_form_of_a_location_is_one_url(server: Any, options: dict[str, Any], url: str | None) -> None:
    found = cache_options(server, "", options)["url"]
    if url is None:
        assert found is None
    else:
        assert parse_url(found) == parse_url(url)


def test_options_of_the_library_are_passed_on() -> None:
    options = cache_options("memory://", "shop", {"max_ttl": 60, "consistency": "strict"})
    assert (options["namespace"], options["max_ttl"], options["consistency"]) == ("shop", 60, "strict")
    assert cache_options("memory://", "", {"namespace": "own"})["namespace"] == "own"
    assert cache_options("memory://", "Some Site:", {})["namespace"].startswith("some-site-")


def test_an_option_without_a_meaning_is_told_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    options = {"SERIALIZER": "django_redis.serializers.json.JSONSerializer", "CONNECTION_POOL_KWARGS": {"x": 1}}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            cache_options("redis://a", "", options)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "signed with SECRET_KEY" in told[0]
    assert "CONNECTION_POOL_KWARGS['x']" in told[1]


@pytest.mark.parametrize(
    ("server", "options", "mend"),
    [
        ("redis://a", {"max_tll": 9}, "did you mean 'max_ttl'?"),
        ("redis://a", {"PASSWROD": "x"}, "did you mean 'PASSWORD'?"),
        ("", {"PASSWORD": "x"}, "LOCATION is empty"),
        (7, {}, "LOCATION is a URL or a list of them, not 7"),
    ],
)
def test_a_mistake_is_named_with_the_mend(server: Any, options: dict[str, Any], mend: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        cache_options(server, "", options)
    assert mend in str(caught.value)
