"""`cache_page` for Django: what is kept, for whom, and how often a view runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory, override_settings
from django.utils.cache import patch_vary_headers
from tests.unit.django_site import caches_setting
from tests.unit.memory_time import eventually

from evercache.integrations.django import cache_of, cache_page
from evercache.testing import MemoryStores, memory

MIDDLEWARE = {"CACHE_MIDDLEWARE_ALIAS": "default", "CACHE_MIDDLEWARE_SECONDS": 60}
Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def stores() -> Iterator[MemoryStores]:
    with memory() as stores, override_settings(CACHES=caches_setting(), **MIDDLEWARE):
        yield stores


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Ask]:
    """`ask(view, timeout, **options)("/path", header=...)`: one request after the other."""

    def decorated(view: Any, timeout: float | None = 60, **options: Any) -> Ask:
        if request.param == "async":

            async def tasks(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                return view(request, *args, **kwargs)

            coroutine = cache_page(timeout, **options)(tasks)
            served: Any = lambda *args, **kwargs: asyncio.run(coroutine(*args, **kwargs))  # noqa: E731
        else:
            served = cache_page(timeout, **options)(view)

        def go(path: str = "/", method: str = "get", url: dict[str, Any] | None = None, **headers: str) -> Any:
            made = getattr(RequestFactory(), method)(path, headers=headers)
            return served(made, **(url or {}))

        return go

    return decorated


class View:
    """Counts its runs, and answers with the number."""

    def __init__(self, **headers: str) -> None:
        self.runs = 0
        self.headers = headers

    def __call__(self, request: HttpRequest, **url: Any) -> HttpResponse:
        self.runs += 1
        response = HttpResponse(f"{self.runs} {request.headers.get('Accept-Language', '')}", headers=self.headers)
        patch_vary_headers(response, [name for name in ("Accept-Language",) if "X-Varies" in self.headers])
        return response


def test_a_page_is_kept_for_its_time(ask: Any, stores: MemoryStores) -> None:
    view = View(**{"X-Own": "1"})
    get = ask(view)
    assert [get().content for _ in range(3)] == [b"1 "] * 3
    assert get("/other").content == b"2 "
    assert get("/?a=1").content == b"3 "
    hit = get()
    assert (hit["X-Own"], hit["Content-Type"]) == ("1", "text/html; charset=utf-8")
    assert "max-age=60" in hit["Cache-Control"]
    assert 0 <= int(hit["Age"]) <= 1
    assert get(method="head").content == b"1 "
    stores.advance(61)
    assert get().content == b"4 "


def test_other_methods_are_passed_on(ask: Any) -> None:
    view = View()
    get = ask(view)
    assert get(method="head").status_code == 200
    assert (get(method="post").content, get(method="post").content) == (b"2 ", b"3 ")


def test_what_a_page_varies_on_makes_pages_of_their_own(ask: Any) -> None:
    view = View(**{"X-Varies": "1"})
    get = ask(view)
    first, second = {"Accept-Language": "de"}, {"Accept-Language": "en"}
    get("/", **first)
    answers = [get("/", **headers).content for headers in (first, second, first, second)]
    assert answers == [b"2 de", b"3 en", b"2 de", b"3 en"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda response: response.set_cookie("session", "of one user"),
        lambda response: response.headers.__setitem__("Cache-Control", "private"),
        lambda response: response.headers.__setitem__("Vary", "*"),
        lambda response: setattr(response, "status_code", 404),
    ],
)
def test_what_is_for_one_user_is_not_kept(ask: Any, spoil: Any) -> None:
    runs: list[int] = []

    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        response = HttpResponse(str(len(runs)))
        spoil(response)
        return response

    get = ask(view)
    assert [get().content for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_stream_and_a_timeout_of_0_are_not_kept(ask: Any) -> None:
    assert b"".join(ask(lambda request: StreamingHttpResponse([b"a"]))().streaming_content) == b"a"
    view = View()
    get = ask(view, 0)
    assert (get().content, get().content) == (b"1 ", b"2 ")


def test_without_a_time_the_response_says_how_long(ask: Any, stores: MemoryStores) -> None:
    get = ask(View(**{"Cache-Control": "max-age=10"}), None)
    assert (get().content, get().content) == (b"1 ", b"1 ")
    stores.advance(11)
    assert get().content == b"2 "
    usual = ask(View(), None, key_prefix="usual")
    assert usual().content == b"1 "
    stores.advance(59)
    assert usual().content == b"1 "
    stores.advance(2)
    assert usual().content == b"2 "


def test_an_error_of_the_view_is_its_callers(ask: Any) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise Http404("gone")

    get = ask(view)
    for _ in range(2):
        with pytest.raises(Http404):
            get()


def test_tags_end_pages(ask: Any) -> None:
    get = ask(View(), tags=("project:{pk}",))
    for pk in (7, 8):
        assert get(f"/{pk}", url={"pk": pk}).content == f"{pk - 6} ".encode()
    cache_of("default").invalidate_tag("project:7")
    assert get("/7", url={"pk": 7}).content == b"3 "
    assert get("/8", url={"pk": 8}).content == b"2 "
    called = ask(View(), tags=lambda request, pk: [f"path:{request.path}"], key_prefix="other")
    assert called("/7", url={"pk": 7}).content == b"1 "
    cache_of("default").invalidate_tag("path:/7")
    assert called("/7", url={"pk": 7}).content == b"2 "


def test_an_old_page_is_served_while_a_new_one_is_made(stores: MemoryStores) -> None:
    view = View()
    page = cache_page(60, stale=600)(view)
    page(RequestFactory().get("/"))
    stores.advance(61)
    assert page(RequestFactory().get("/")).content == b"1 "
    eventually(lambda: view.runs == 2)
    eventually(lambda: page(RequestFactory().get("/")).content == b"2 ")


def test_many_requests_are_one_run() -> None:
    runs: list[int] = []

    @cache_page(60)
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        time.sleep(0.1)
        return HttpResponse(f"{len(runs)}")

    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(view(RequestFactory().get("/")).content)) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, len(runs)) == ([b"1"] * 20, 1)


def test_nobody_is_given_the_personal_page_of_whom_it_waited_for() -> None:
    @cache_page(60)
    def view(request: HttpRequest) -> HttpResponse:
        time.sleep(0.05)
        response = HttpResponse(request.headers["X-User"])
        response.set_cookie("user", request.headers["X-User"])
        return response

    wrong: list[str] = []

    def user(name: str) -> None:
        response = view(RequestFactory().get("/", headers={"X-User": name}))
        if response.content != name.encode() or response.cookies["user"].value != name:
            wrong.append(name)

    threads = [threading.Thread(target=user, args=[f"user {n}"]) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_with_another_backend_django_serves() -> None:
    view = View()
    setting = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with override_settings(CACHES=setting):
        page = cache_page(60)(view)
        assert page(RequestFactory().get("/")).content == b"1 "
        assert page(RequestFactory().get("/")).content == b"1 "
