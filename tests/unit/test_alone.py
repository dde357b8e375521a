"""A cache for which nobody configured a URL: right for one process, and said where there may be more."""

from __future__ import annotations

import logging
import sys
import types
from array import array

import pytest
from flask import Flask

from evercache import Cache
from evercache.engine import alone
from evercache.integrations.flask import Cache as FlaskCache
from evercache.process import workers


@pytest.fixture(autouse=True)
def no_url(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.setattr(alone, "_warned", set())
    for name in ("gunicorn.arbiter", "uwsgi", "mod_wsgi", "uvicorn", "hypercorn", "granian"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    caplog.set_level(logging.WARNING, "evercache")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_one_process_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(namespace="shop")
    assert cache.set("a", 1)
    assert cache.get("a") == 1
    health = cache.health()
    assert (health.ok, health.url) == (True, "memory://")
    assert [node.use for node in health.nodes] == ["writes and reads of this process only"]
    assert lines(caplog) == []


@pytest.mark.parametrize("change", ["tag", "delete", "overwrite", "function"])
def test_the_first_invalidation_says_that_nobody_else_learns_of_it(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(namespace="shop")

    @cache.cached(ttl=60)
    def f() -> int:
        return 1

    cache.set("a", 1)
    for _ in range(3):
        match change:
            case "tag":
                assert cache.invalidate_tag("t").done
            case "delete":
                assert cache.delete("a").done
            case "overwrite":
                assert cache.set("a", 2).done
            case _:
                assert f.invalidate().done
    (line,) = lines(caplog)
    assert line.startswith("evercache[shop]: no URL is configured")
    assert "do not learn of invalidations" in line
    assert "EVERCACHE_URL (such as redis://" in line
    assert cache.health().ok, "as far as is known, there is one process"
    Cache(namespace="shop").delete("b")
    assert len(lines(caplog)) == 1, "an application factory makes many caches"


@pytest.mark.parametrize("url", ["memory://", "memory://?max_entries=5"])
def test_memory_that_was_chosen_is_no_mistake(url: str, caplog: pytest.LogCaptureFixture) -> None:
    Cache(url, namespace="shop").delete("a")
    assert lines(caplog) == []


def test_an_empty_variable_is_no_url(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As a file of docker compose gives it where nobody set one."""
    monkeypatch.setenv("EVERCACHE_URL", "")
    Cache(namespace="shop").delete("a")
    assert len(lines(caplog)) == 1
    with pytest.raises(ValueError, match="scheme"):
        Cache("")


@pytest.mark.parametrize(
    ("module", "attributes", "words"),
    [
        ("gunicorn.arbiter", {}, "gunicorn forks workers"),
        ("uwsgi", {"numproc": 4}, "uwsgi runs several processes"),
        ("mod_wsgi", {"maximum_processes": 2}, "mod_wsgi runs several processes"),
        ("uvicorn", {}, "uvicorn runs several workers"),
    ],
)
def test_a_server_with_workers_is_told_at_the_first_use(
    module: str,
    attributes: dict[str, int],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    present = types.ModuleType(module)
    vars(present).update(attributes)
    monkeypatch.setitem(sys.modules, module, present)
    monkeypatch.setattr(sys, "argv", ["uvicorn", "shop:app", "--workers", "4"])
    cache = Cache(namespace="shop")
    assert cache.get("a") is None
    assert words in workers()
    (line,) = lines(caplog)
    assert f"no URL is configured, but {words}" in line
    health = cache.health()
    assert not health.ok
    assert any(words in problem for problem in health.problems)


def test_one_worker_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("uwsgi", "uvicorn", "mod_wsgi"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setattr(sys, "argv", ["uvicorn", "shop:app", "--reload", "--workers=1"])
    assert workers() == ""
    monkeypatch.setattr(sys, "argv", ["uvicorn", "shop:app"])
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    assert workers() == "uvicorn runs several workers"


def test_flask_has_the_same_default(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    app = Flask(__name__)
    cache = FlaskCache(app)
    assert cache.set("a", array("i", [3])), "what only pickle can hold needs no SECRET_KEY in this process"
    assert cache.get("a") == array("i", [3])
    assert lines(caplog) == []
    cache.delete("a")
    (line,) = lines(caplog)
    assert "evercache[flask_cache_]: no URL is configured" in line
    assert len(recwarn) == 0
