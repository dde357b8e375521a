"""`cache_page`: Django's, with one run of a view for all who ask, tags, and old pages while a new one is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from django.conf import settings
from django.core.cache import caches
from django.http import HttpRequest
from django.views.decorators import cache as of_django

from evercache.integrations.django._async.pages import aserve
from evercache.integrations.django._sync.pages import serve
from evercache.integrations.django.backend import Cache
from evercache.integrations.django.pages import Page, View
from evercache.policy import Seconds

__all__ = ["cache_page"]

V = TypeVar("V", bound=View)


def _backend(page: Page) -> Cache | None:
    """That of the alias; None where it is another one."""
    found = caches[page.alias or settings.CACHE_MIDDLEWARE_ALIAS]
    return found if isinstance(found, Cache) else None


def cache_page(
    timeout: float | None,
    *,
    cache: str | None = None,
    key_prefix: str | None = None,
    tags: Iterable[str] | Callable[..., Iterable[str]] = (),
    stale: Seconds = 0,
    stale_if_error: Seconds = 0,
) -> Callable[[V], V]:
    """A decorator for views, also for `async def` ones: keeps the page for `timeout` seconds.

    None: as long as the `max-age` of the response, or CACHE_MIDDLEWARE_SECONDS. `tags` are texts with the view's
    arguments by name (`"project:{pk}"`), or a function of the request and the arguments; `invalidate_tag` ends the
    pages with a tag. For `stale` seconds after its time a page is still served while a new one is made in the
    background, and for `stale_if_error` seconds if the view raises. Where the alias `cache` has another backend,
    Django's own decorator serves (an `async def` view is not cached then).
    """
    page = Page(timeout, cache, key_prefix, tags, stale, stale_if_error)

    def decorate(view: V) -> V:
        if iscoroutinefunction(view):

            async def asynchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                backend = _backend(page)
                if backend is None or request.method not in ("GET", "HEAD"):
                    return await view(request, *args, **kwargs)
                return await aserve(page, backend, view, request, args, kwargs)

            return cast(V, functools.wraps(view)(asynchronous))

        other = functools.cache(lambda: of_django.cache_page(timeout, cache=cache, key_prefix=key_prefix)(view))

        def synchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            backend = _backend(page)
            if backend is None:
                return other()(request, *args, **kwargs)
            if request.method not in ("GET", "HEAD"):
                return view(request, *args, **kwargs)
            return serve(page, backend, view, request, args, kwargs)

        return cast(V, functools.wraps(view)(synchronous))

    return decorate
