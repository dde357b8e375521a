"""Caches whose time the test moves, for the tests of the public surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from evercache import Cache
from evercache.testing import MemoryStores, memory

__all__ = ["Calls", "cache", "eventually", "stores"]


@pytest.fixture
def stores() -> Iterator[MemoryStores]:
    """`stores.advance(seconds)` lets time pass."""
    with memory() as stores:
        yield stores


@pytest.fixture
def cache(stores: MemoryStores) -> Cache:
    """A cache without jitter and without early refreshes, so that times are exact."""
    return Cache("memory://", jitter=0, beta=0)


class Calls(list[object]):
    """Counts runs: `calls(x)` notes x and returns it."""

    def __call__(self, value: object) -> object:
        self.append(value)
        return value


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something in another thread has come true."""
    import threading
    import time

    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "it never came true"
        pause.wait(0.002)
