"""What a cached page is: which responses are kept, under which keys, and how they come back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import cache as of_django
from django.utils.cache import get_max_age, has_vary_header, patch_response_headers
from django.utils.http import parse_http_date_safe
from msgspec import Struct

from evercache.policy import Seconds

__all__ = ["PASS", "Packed", "Page", "Uncacheable", "View", "outside"]

View: TypeAlias = Callable[..., Any]
#: Status, reason, headers and body of a response.
Packed: TypeAlias = tuple[int, str, dict[str, str], bytes]
#: In the place of the headers that a page varies on: it was not cacheable a moment ago.
PASS = False


class Uncacheable(Exception):
    """The response to one request must not be given to another."""

    def __init__(self, request: HttpRequest, response: HttpResponseBase) -> None:
        super().__init__("a response that is not cached")
        self.request, self.response = request, response


class Page(Struct, frozen=True):
    """The options of `cache_page`. Times are in seconds."""

    timeout: float | None
    alias: str | None
    key_prefix: str | None
    tags: Iterable[str] | Callable[..., Iterable[str]]
    stale: Seconds
    stale_if_error: Seconds

    def tags_of(self, request: HttpRequest, args: Any, kwargs: dict[str, Any]) -> list[str]:
        """The tags of one page: the texts with the view's arguments by name, or what the callable returns."""
        if callable(self.tags):
            return list(self.tags(request, *args, **kwargs))
        return [tag.format(**kwargs) for tag in self.tags]

    @property
    def _prefix(self) -> str:
        prefix = settings.CACHE_MIDDLEWARE_KEY_PREFIX if self.key_prefix is None else self.key_prefix
        return f"evercache.{prefix}"

    def header_key(self, request: HttpRequest) -> str:
        """Where it is kept on which headers the page varies."""
        return str(of_django._generate_cache_header_key(self._prefix, request))  # type: ignore[attr-defined]

    def key(self, request: HttpRequest, headers: list[str]) -> str:
        """Where the page is kept, for these headers of the request."""
        return str(of_django._generate_cache_key(request, "GET", headers, self._prefix))  # type: ignore[attr-defined]

    def pack(self, request: HttpRequest, response: Any) -> tuple[Packed, list[str]]:
        """What is kept of a response, and the headers on which it varies; Uncacheable for one that is not.

        One rule is stricter than Django's: a response that sets a cookie is never kept.
        """
        if callable(getattr(response, "render", None)):
            response.render()
        timeout = get_max_age(response) if self.timeout is None else self.timeout
        if (
            response.streaming
            or response.status_code != 200
            or response.cookies
            or "private" in response.get("Cache-Control", "")
            or has_vary_header(response, "*")
            or timeout == 0
        ):
            raise Uncacheable(request, response)
        patch_response_headers(response, None if timeout is None else int(timeout))
        varies = [name for name in re.split(r"\s*,\s*", response.get("Vary", "")) if name]
        packed = response.status_code, response.reason_phrase, dict(response.items()), response.content
        return packed, [f"HTTP_{name.upper().replace('-', '_')}" for name in varies]

    def ttl(self, packed: Packed) -> float:
        """For how long a page is kept: as `cache_page` says, or else the response."""
        if self.timeout is not None:
            return self.timeout
        return float(get_max_age(self.unpack(packed)) or 0)

    @staticmethod
    def unpack(packed: Packed) -> HttpResponse:
        """The response, with its age (RFC 9111, section 5.1)."""
        status, reason, headers, content = packed
        response = HttpResponse(content, status=status, reason=reason, headers=headers)
        expires, longest = parse_http_date_safe(headers.get("Expires", "")), get_max_age(response)
        if expires is not None and longest is not None:
            response.headers["Age"] = str(max(0, longest - max(0, expires - int(time.time()))))
        return response


def outside(thread: int) -> None:
    """A view has run. In another thread than that of the request nobody closes its connections to databases."""
    if threading.get_ident() != thread:
        connections.close_all()
