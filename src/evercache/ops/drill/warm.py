"""Which pages of the drill are cached, as a process sees it that has just begun."""

from __future__ import annotations

from typing import Any

from evercache.cache import Cache
from evercache.ops.drill.client import pages
from evercache.ops.drill.measure import Warmth
from evercache.ops.drill.records import EDITED, KEYS

__all__ = ["look", "warmth"]


def look(url: str, namespace: str) -> dict[int, int]:
    """Of the pages that nobody edits those that are cached, and the run that made each."""

    def never(key: int) -> Any:
        raise AssertionError(f"a look computed page {key}")

    with Cache(url, namespace=namespace, budget=1.0) as cache:
        page = pages(cache, never)
        found = ((key, page.peek(key)) for key in range(EDITED, KEYS))
        return {key: value[2] for key, value in found if value is not None}


def warmth(before: dict[int, int], after: dict[int, int]) -> Warmth:
    """Only the very same copy counts: what was computed anew in between is not warm."""
    return Warmth(len(before), sum(after.get(key) == made for key, made in before.items()))
