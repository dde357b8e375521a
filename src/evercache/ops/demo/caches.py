"""The three ways in which the site can cache its pages; evercache's is how an application would use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from evercache.ops.demo.design2013 import Design2013
from evercache.ops.demo.pages import Page

__all__ = ["VARIANTS", "Compute", "NoCache", "PageCache", "WithEvercache", "page_cache"]

Compute: TypeAlias = Callable[[Page], dict[str, Any]]
VARIANTS = ("evercache", "2013", "none")


class PageCache(Protocol):
    """What the site asks of a cache. Safe for threads."""

    def get(self, page: Page) -> dict[str, Any]:
        """The page, cached or computed."""
        ...

    def peek(self, page: Page) -> dict[str, Any] | None:
        """The page if it is cached; never computes."""
        ...

    def invalidate(self, tag: str) -> bool:
        """Invalidate the pages of a tag; whether the master acknowledged it."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class NoCache:
    """Computes every page anew; holds nothing."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def __repr__(self) -> str:
        return "<NoCache>"

    def get(self, page: Page) -> dict[str, Any]:
        """Compute the page."""
        return self._compute(page)

    def peek(self, page: Page) -> dict[str, Any] | None:
        """None: nothing is cached."""
        return None

    def invalidate(self, tag: str) -> bool:
        """True: there is nothing that could be old."""
        return True

    def close(self) -> None:
        """Nothing to close."""


class WithEvercache:
    """Pages cached by evercache: a decorator on each function, tags, nothing else. Holds only the cache."""

    def __init__(self, url: str, compute: Compute) -> None:
        from evercache import Cache

        self._cache = cache = Cache(url, namespace="flights")

        # By name: a process that only looks at what is cached computes in another way.
        @cache.cached(ttl=300, tags=("network",), stale=60, stale_if_error=600, name="front")
        def front() -> dict[str, Any]:
            return compute(Page("front"))

        @cache.cached(ttl=300, tags=("network",), stale=60, stale_if_error=600, name="leaderboard")
        def leaderboard() -> dict[str, Any]:
            return compute(Page("leaderboard"))

        @cache.cached(ttl=300, tags=("carrier:{code}",), stale=60, stale_if_error=600, name="carrier")
        def carrier(code: str) -> dict[str, Any]:
            return compute(Page("carrier", code))

        @cache.cached(ttl=300, tags=("route:{route}",), stale=60, stale_if_error=600, name="route")
        def route(route: str) -> dict[str, Any]:
            return compute(Page("route", route))

        @cache.cached(ttl=300, tags=("month:{month}",), stale=60, stale_if_error=600, name="month")
        def month(month: str) -> dict[str, Any]:
            return compute(Page("month", month))

        self._functions: dict[str, Any] = {
            "front": front,
            "leaderboard": leaderboard,
            "carrier": carrier,
            "route": route,
            "month": month,
        }

    def __repr__(self) -> str:
        return f"<WithEvercache {self._cache!r}>"

    def get(self, page: Page) -> dict[str, Any]:
        """The page, cached or computed."""
        arguments = (page.about,) if page.about else ()
        value: dict[str, Any] = self._functions[page.kind](*arguments)
        return value

    def peek(self, page: Page) -> dict[str, Any] | None:
        """The page if it is cached."""
        arguments = (page.about,) if page.about else ()
        value: dict[str, Any] | None = self._functions[page.kind].peek(*arguments)
        return value

    def invalidate(self, tag: str) -> bool:
        """Invalidate the pages of a tag; False when it is queued until there is a master."""
        return bool(self._cache.invalidate_tag(tag))

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


def page_cache(variant: str, url: str, compute: Compute) -> PageCache:
    """The cache of a variant: `evercache`, `2013` or `none`."""
    if variant == "evercache":
        return WithEvercache(url, compute)
    return Design2013(url, compute) if variant == "2013" else NoCache(compute)
