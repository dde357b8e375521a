"""`flask cache warm`: what is cached afterwards, what is passed over, and what is told."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask, abort, request

from evercache.integrations.flask import Cache
from evercache.ops.flask.warm import BadLine, Call, parse
from evercache.testing import MemoryStores


class Site:
    """An application, and what its functions were called with."""

    def __init__(self) -> None:
        self.app = app = Flask(__name__)
        app.config.update(CACHE_TYPE="SimpleCache", SECRET_KEY="a secret of the application's")
        self.cache = cache = Cache(app)
        self.runs: list[Any] = []
        self.pages: list[str] = []
        self.most = self.now = 0
        lock = threading.Lock()

        @cache.memoize(timeout=600)
        def totals(project: Any, lang: str = "en") -> str | None:
            with lock:
                self.runs.append((project, lang))
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.02)
            with lock:
                self.now -= 1
            if project == "raises":
                raise ValueError("no such project")
            return None if project == "none" else f"{project} {lang}"

        @cache.memoize(timeout=600)
        async def price(product: int) -> float:
            self.runs.append(product)
            return 9.9

        @app.route("/page/<int:n>")
        @cache.cached(timeout=600, query_string=True)
        def page(n: int) -> str:
            self.pages.append(request.full_path)
            return abort(404) if n == 9 else f"page {n}"

        @app.route("/vary")
        @cache.cached(timeout=600, vary=("Accept-Language",))
        def varies() -> str:
            self.pages.append(request.headers["Accept-Language"])
            return request.headers["Accept-Language"]

        @app.route("/plain")
        def plain() -> str:
            return "not cached"

        self.totals, self.price = totals, price

    def warm(self, *arguments: str, lines: str | None = None) -> Result:
        return self.app.test_cli_runner().invoke(args=["cache", "warm", *arguments], input=lines)


@pytest.fixture
def site(evercache_memory: MemoryStores) -> Site:
    return Site()


def test_functions_are_warmed_once(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    file.write_text('# projects\n[1]\n\n[2, "de"]\n{"project": 3, "lang": "fr"}\n4\nshop\n"5"\n')
    first = site.warm(str(file), "--function", "totals")
    assert first.exit_code == 0, first.output
    assert "6 warmed, 0 cached already, 0 failed" in first.output
    assert sorted(site.runs, key=str) == [("5", "en"), ("shop", "en"), (1, "en"), (2, "de"), (3, "fr"), (4, "en")]
    again = site.warm(str(file), "--function", "totals")
    assert again.exit_code == 0
    assert "0 warmed, 6 cached already, 0 failed" in again.output
    assert [site.totals(1), site.totals(2, "de"), site.totals("shop")] == ["1 en", "2 de", "shop en"]
    assert len(site.runs) == 6


def test_it_goes_on_where_it_ended(site: Site) -> None:
    site.totals(1), site.totals(2)
    site.cache.delete_memoized(site.totals, 2)
    done = site.warm("-", "-f", "totals", lines="1\n2\n3\n")
    assert "2 warmed, 1 cached already" in done.output
    assert [run[0] for run in site.runs[2:]] in ([2, 3], [3, 2])


def test_views_are_warmed_as_they_are_asked_for(site: Site) -> None:
    lines = [
        "/page/1",
        "/page/2?tab=a",
        json.dumps({"path": "/vary", "headers": {"Accept-Language": "de"}}),
        json.dumps({"path": "/vary", "headers": {"Accept-Language": "fr"}}),
    ]
    for told in ("4 warmed, 0 cached already, 0 failed", "0 warmed, 4 cached already, 0 failed"):
        done = site.warm("-", lines="\n".join(lines))
        assert done.exit_code == 0, done.output
        assert told in done.output
    client = site.app.test_client()
    assert client.get("/page/1").data == b"page 1"
    assert client.get("/page/2?tab=a").data == b"page 2"
    assert client.get("/vary", headers={"Accept-Language": "fr"}).data == b"fr"
    assert sorted(site.pages) == ["/page/1?", "/page/2?tab=a", "de", "fr"]


def test_what_fails_is_told_and_the_rest_is_done(site: Site) -> None:
    name = f"{__name__}.Site.__init__.<locals>.totals"
    lines = [
        json.dumps({"function": name, "args": ["raises"]}),
        "/page/9",
        "/plain",
        "/nothing",
        "{broken",
        json.dumps({"function": "nobody"}),
        json.dumps({"function": "totals", "args": [1, 2, 3]}),
        json.dumps({"function": "totals", "arguments": [1]}),
        json.dumps({"function": "price", "args": [7]}),
        json.dumps({"function": "totals", "args": [1]}),
    ]
    done = site.warm("-", "--jobs", "1", lines="\n".join(lines))
    assert done.exit_code == 1
    assert "2 warmed, 0 cached already, 8 failed" in done.output
    said = {int(line.split()[1][:-1]): line for line in done.output.splitlines() if line.startswith("line ")}
    for line, words in {
        1: "ValueError: no such project",
        2: "/page/9 answered 404",
        3: "no cached view answered /plain",
        4: "/nothing answered 404",
        5: "it is no JSON",
        6: f"no memoized function 'nobody' is imported by the application; there are {name[:-6]}price, {name}",
        7: "TypeError: ",
        8: "'arguments' has no meaning here: use args, function, kwargs",
    }.items():
        assert words in said[line], said
    assert site.runs[-2:] == [7, (1, "en")]


def test_no_more_at_a_time_than_was_said_and_no_faster(site: Site) -> None:
    lines = "\n".join(map(str, range(24)))
    done = site.warm("-", "-f", "totals", "--jobs", "3", lines=lines)
    assert "24 warmed" in done.output
    assert 1 < site.most <= 3
    site.cache.clear()
    began = time.monotonic()
    assert "24 warmed" in site.warm("-", "-f", "totals", "--jobs", "8", "--rate", "40", lines=lines).output
    assert time.monotonic() - began > 23 / 40


def test_results_that_are_not_kept_are_told(site: Site) -> None:
    done = site.warm("-", "-f", "totals", lines="none\n1\n")
    assert done.exit_code == 0
    assert "2 warmed, 0 cached already, 0 failed, 1 results not kept" in done.output


def test_only_the_first_failures_are_told_one_by_one(site: Site) -> None:
    done = site.warm("-", "-f", "nobody", lines="1\n" * 50)
    assert done.output.count("no memoized function 'nobody'") == 20
    assert "... and 30 more" in done.output


def test_where_nothing_can_be_kept_nothing_is_called(site: Site) -> None:
    assert "end with it: set EVERCACHE_URL" in site.warm("-", lines="").output
    app = Flask(__name__)
    app.config.update(CACHE_TYPE="NullCache", CACHE_NO_NULL_WARNING=True)
    cache, runs = Cache(app), []

    @cache.memoize()
    def f(n: int) -> None:
        runs.append(n)

    done = app.test_cli_runner().invoke(args=["cache", "warm", "-", "-f", "f"], input="1\n2\n")
    assert done.exit_code == 1
    assert "the cache is off" in done.output
    assert runs == []


def test_a_name_of_several(site: Site) -> None:
    def elsewhere() -> None: ...

    elsewhere.__module__, elsewhere.__qualname__ = "shop", "totals"
    kept = site.cache.memoize()(elsewhere)
    site.cache._memoize_make_cache_key()(elsewhere)  # has the same name, and is not to be called
    done = site.warm("-", "-f", "totals", lines="1")
    assert "'totals' is the name of several" in done.output
    assert site.warm("-", "-f", "shop.totals", lines="{}").exit_code == 0
    assert kept.uncached is elsewhere


def test_the_lines_of_a_file() -> None:
    assert list(parse(["", "# no", "/a?b=1", '{"path": "/p", "headers": {"A": 1}}'])) == [
        Call(3, path="/a?b=1"),
        Call(4, path="/p", headers={"A": "1"}),
    ]
    assert list(parse(['{"function": "f", "args": [1], "kwargs": {"b": null}}'])) == [
        Call(1, "f", (1,), {"b": None})
    ]
    assert list(parse(["/usr", "a b", "true", '[["x"]]', '{"path": 1}'], "f")) == [
        Call(1, "f", ("/usr",)),
        Call(2, "f", ("a b",)),
        Call(3, "f", (True,)),
        Call(4, "f", (["x"],)),
        Call(5, "f", (), {"path": 1}),
    ]
    for line in ("nonsense", "[1]", "5", "{", '{"path": "x"}', '{"path": 5}', '{"args": []}', '{"function": 5}'):
        (bad,) = parse([line])
        assert isinstance(bad, BadLine), line
    (bad,) = parse(["[1, 2"], "f")
    assert isinstance(bad, BadLine)
