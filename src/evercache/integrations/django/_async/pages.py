"""Serving a page: from the cache, or by its view, which runs once however many ask."""

from __future__ import annotations

import threading
from functools import partial
from math import inf
from typing import Any

from django.http import HttpRequest

from evercache.integrations.django.core import MISSING, Core
from evercache.integrations.django.pages import PASS, Packed, Page, Uncacheable, View, outside

__all__ = ["aserve"]

#: For so many seconds nobody waits for a page that was not cacheable.
_PASSED = 1
#: How often a request begins anew, because the page varies on other headers than was known.
_ATTEMPTS = 3


async def aserve(
    page: Page, backend: Core, view: View, request: HttpRequest, args: Any, kwargs: dict[str, Any]
) -> Any:
    """The response to a GET or HEAD."""
    cache = backend.evercache
    header_key = backend.make_key(page.header_key(request))
    tags = page.tags_of(request, args, kwargs)
    run = partial(view, request, *args, **kwargs)
    for _ in range(_ATTEMPTS):
        headers = await cache.aget(header_key, MISSING)
        if headers is PASS:
            break
        key = backend.make_key(page.key(request, [] if headers is MISSING else headers))
        if request.method == "HEAD":
            found = None if headers is MISSING else await cache.aget(key)
            if found is None:
                break
            return page.unpack(found)
        made: list[Any] = []
        compute = partial(_amade, page, backend, run, request, header_key, headers, threading.get_ident(), made)
        try:
            packed: Packed = await cache.aget_or_compute(
                key, compute, ttl=page.ttl, tags=tags, stale=page.stale, stale_if_error=page.stale_if_error
            )
        except Uncacheable as error:
            if error.request is request:
                return error.response
            continue  # that of somebody else, for whom this call has waited
        return made[0] if made else page.unpack(packed)
    return await run()


async def _amade(
    page: Page,
    backend: Core,
    run: View,
    request: HttpRequest,
    header_key: str,
    headers: Any,
    thread: int,
    made: list[Any],
) -> Packed:
    """Run the view; the response itself goes into `made`."""
    cache, known = backend.evercache, [] if headers is MISSING else headers
    try:
        response = await run()
        try:
            packed, varies = page.pack(request, response)
        except Uncacheable:
            await cache.aset(header_key, PASS, ttl=_PASSED)
            raise
        everything = sorted({*known, *varies})
        if headers is MISSING or everything != known:
            await cache.aset(header_key, everything, ttl=inf)
        if everything != known:  # this page is not that of all requests that wait for it
            raise Uncacheable(request, response)
    finally:
        outside(thread)
    made.append(response)
    return packed
