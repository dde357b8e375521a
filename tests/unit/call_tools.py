"""What tests of calls on `memory://` reach into, and a bound for those that might hang."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from evercache import Cache

__all__ = ["parts", "within"]

T = TypeVar("T")


def parts(cache: Cache) -> Any:
    """The blocking client, with its reads, leads and writes."""
    client = cache._client_sync()
    assert client is not None
    return client


def within(seconds: float, fn: Callable[[], T]) -> T:
    """The result of fn, which must come in time; a thread that hangs is left behind."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(fn).result(seconds)
    finally:
        pool.shutdown(wait=False)
