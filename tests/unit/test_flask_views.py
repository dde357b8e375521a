from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, abort, make_response, request
from flask.testing import FlaskClient

from evercache.integrations.flask import Cache, CachedResponse
from evercache.testing import MemoryStores


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.config["CACHE_TYPE"] = "SimpleCache"
    return app


@pytest.fixture
def cache(app: Flask, evercache_memory: MemoryStores) -> Cache:
    return Cache(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def counted(app: Flask, view: Callable[[int], Any], decorate: Callable[[Any], Any], path: str = "/") -> None:
    count = itertools.count(1)

    def numbered() -> Any:
        return view(next(count))

    app.add_url_rule(path, path, decorate(numbered))


@pytest.mark.parametrize(
    "view",
    [
        lambda n: f"{n}",
        lambda n: {"n": n},
        lambda n: (f"{n}", 201, {"X-N": str(n)}),
        lambda n: make_response(f"{n}", 202),
        lambda n: (make_response(f"{n}"), 203),
        lambda n: Response((part for part in (f"{n}", "!")), headers={"X-N": str(n)}, mimetype="text/plain"),
        lambda n: (part for part in (f"{n}", "!")),
    ],
)
def test_a_hit_is_what_a_miss_was(app: Flask, cache: Cache, client: FlaskClient, view: Any) -> None:
    counted(app, view, cache.cached(10))
    first, second = client.get("/"), client.get("/")
    assert (first.data, first.status, list(first.headers)) == (second.data, second.status, list(second.headers))


def test_cookies_are_for_one_client(
    app: Flask, cache: Cache, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    def signed_in(n: int) -> Response:
        response = make_response(f"{n}")
        response.set_cookie("session", f"{n}")
        return response

    counted(app, signed_in, cache.cached(10), "/response")
    counted(app, lambda n: (f"{n}", {"Set-Cookie": "a=b"}), cache.cached(10), "/tuple")
    with caplog.at_level(logging.WARNING, "evercache.flask"):
        for path in ("/response", "/tuple"):
            assert [client.get(path).data for _ in range(3)] == [b"1", b"2", b"3"]
    assert ["sets a cookie" in record.message for record in caplog.records] == [True, True]


def test_who_waits_does_not_get_a_cookie_of_another(app: Flask, cache: Cache) -> None:
    import threading

    @app.route("/")
    @cache.cached(10)
    def view() -> Response:
        time.sleep(0.1)
        response = make_response(request.headers["X-Who"])
        response.set_cookie("who", request.headers["X-Who"])
        return response

    got: dict[str, bytes] = {}

    def ask(who: str) -> None:
        got[who] = app.test_client().get("/", headers={"X-Who": who}).data

    threads = [threading.Thread(target=ask, args=(f"{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {f"{n}": f"{n}".encode() for n in range(5)}


def test_vary(app: Flask, cache: Cache, client: FlaskClient) -> None:
    decorate = cache.cached(10, vary=("Accept-Language",))
    counted(app, lambda n: f"{request.headers.get('Accept-Language')} {n}", decorate)
    views = app.view_functions["/"]

    def get(language: str) -> str:
        return client.get("/", headers={"Accept-Language": language}).text

    assert [get("de"), get("fr"), get("de")] == ["de 1", "fr 2", "de 1"]
    with app.test_request_context("/"):
        assert cache.delete_cached(views, path="/")
    assert [get("de"), get("fr")] == ["de 3", "fr 4"]


def test_headers_of_http(app: Flask, cache: Cache, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(app, lambda n: f"{n}", cache.cached(60, http=True, stale=30, stale_if_error=300, vary=("Accept",)))
    first = client.get("/")
    assert first.headers["Age"] == "0"
    assert first.headers["Vary"] == "Accept"
    control = first.cache_control
    assert (control.max_age, control["stale-while-revalidate"], control["stale-if-error"]) == (60, "30", "300")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7)
    second = client.get("/")
    assert (second.data, second.headers["Age"], second.headers["ETag"]) == (b"1", "7", first.headers["ETag"])
    third = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert (third.status_code, third.data) == (304, b"")
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status", "asked"),
    [
        ({"Cache-Control": "no-store"}, 200, {}),
        ({"Cache-Control": "private"}, 200, {}),
        ({"Vary": "Cookie"}, 200, {}),
        ({"Vary": "*"}, 200, {}),
        ({}, 503, {}),
        ({}, 200, {"Authorization": "Basic eDp5"}),
    ],
)
def test_what_a_shared_cache_must_not_keep(
    app: Flask, cache: Cache, client: FlaskClient, headers: Any, status: int, asked: Any
) -> None:
    counted(app, lambda n: (f"{n}", status, headers), cache.cached(10, http=True))
    assert [client.get("/", headers=asked).data for _ in range(2)] == [b"1", b"2"]


def test_a_response_says_itself_how_long(
    app: Flask, cache: Cache, client: FlaskClient, evercache_memory: MemoryStores
) -> None:
    counted(app, lambda n: (f"{n}", {"Cache-Control": "public, max-age=5"}), cache.cached(60, http=True))
    counted(app, lambda n: CachedResponse(make_response(f"{n}"), 5), cache.cached(60), "/timeout")
    for path in ("/", "/timeout"):
        assert [client.get(path).data for _ in range(2)] == [b"1", b"1"]
    evercache_memory.advance(6)
    for path in ("/", "/timeout"):
        assert client.get(path).data == b"2"


def test_the_setting_turns_headers_on(app: Flask, evercache_memory: MemoryStores, client: FlaskClient) -> None:
    app.config["CACHE_HTTP"] = True
    cache = Cache(app)
    counted(app, lambda n: f"{n}", cache.cached(10))
    counted(app, lambda n: f"{n}", cache.cached(10, http=False), "/without")
    assert "ETag" in client.get("/").headers
    assert "ETag" not in client.get("/without").headers


def test_the_old_page_while_a_new_one_is_made(
    app: Flask, cache: Cache, client: FlaskClient, evercache_memory: MemoryStores
) -> None:
    counted(app, lambda n: f"{request.path} {n}", cache.cached(10, stale=60), "/page")
    assert client.get("/page").data == b"/page 1"
    evercache_memory.advance(20)
    assert client.get("/page").data == b"/page 1"
    deadline = time.monotonic() + 5
    while client.get("/page").data != b"/page 2" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.get("/page").data == b"/page 2"


@pytest.mark.parametrize("failure", ["raises", "answers 500", "aborts"])
def test_the_old_page_when_the_view_fails(
    app: Flask, cache: Cache, client: FlaskClient, evercache_memory: MemoryStores, failure: str
) -> None:
    def view(n: int) -> Any:
        if n == 1:
            return "1"
        if failure == "raises":
            raise ZeroDivisionError
        return abort(503) if failure == "aborts" else ("failed", 500)

    counted(app, view, cache.cached(10, stale_if_error=60))
    assert client.get("/").data == b"1"
    evercache_memory.advance(20)
    assert client.get("/").data == b"1"
    evercache_memory.advance(60)
    assert client.get("/").status_code >= 500


def test_tags(app: Flask, cache: Cache, client: FlaskClient) -> None:
    count = itertools.count()

    @app.route("/project/<int:number>")
    @cache.cached(10, tags=lambda number: [f"project:{number}"])
    def view(number: int) -> str:
        return f"{number} {next(count)}"

    assert [client.get(f"/project/{n}").text for n in (1, 2, 1)] == ["1 0", "2 1", "1 0"]
    assert cache.invalidate_tag("project:1")
    assert [client.get(f"/project/{n}").text for n in (1, 2)] == ["1 2", "2 1"]


def test_coroutine_functions(app: Flask, cache: Cache, client: FlaskClient) -> None:
    count = itertools.count()

    async def view() -> str:
        await asyncio.sleep(0)
        if request.args:
            abort(404)
        return f"{next(count)}"

    cached = cache.cached(10)(view)
    app.add_url_rule("/", "view", cached)
    assert [client.get("/").text for _ in range(2)] == ["0", "0"]

    async def main() -> list[str]:
        with app.test_request_context("/"):
            return [await cached(), await cached()]

    assert asyncio.run(main()) == ["0", "0"]


def test_errors_are_kept_and_raised_again(app: Flask, cache: Cache, client: FlaskClient) -> None:
    calls = []

    @app.route("/")
    @cache.cached(10)
    def view() -> str:
        calls.append(1)
        return abort(410, "gone for good")

    first, second = client.get("/"), client.get("/")
    assert (first.status_code, first.data) == (second.status_code, second.data)
    assert b"gone for good" in second.data
    assert calls == [1]


def test_the_commands(app: Flask, cache: Cache) -> None:
    cache.set("k", 1)
    runner = app.test_cli_runner()
    assert runner.invoke(args=["cache", "clear"]).exit_code == 0
    assert cache.get("k") is None
    result = runner.invoke(args=["cache", "status", "--json"])
    (report,) = json.loads(result.output)
    assert report["url"] == "memory://"
    assert runner.invoke(args=["cache", "status"]).exit_code == (0 if report["ok"] else 1)


def test_a_file_that_is_streamed_is_not_kept(app: Flask, cache: Cache, client: FlaskClient, tmp_path: Any) -> None:
    from flask import send_file

    (tmp_path / "file.txt").write_text("text")
    counted(app, lambda n: send_file(tmp_path / "file.txt"), cache.cached(10))
    for _ in range(2):
        with client.get("/") as response:
            assert response.data == b"text"
