"""The test modes as fixtures of pytest; loaded by pytest itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# Every run of pytest loads this module, so the modes are imported by the fixtures.
if TYPE_CHECKING:
    from evercache.testing import MemoryStores, Recording

__all__ = ["evercache_memory", "evercache_off", "evercache_record"]


@pytest.fixture
def evercache_memory() -> Iterator[MemoryStores]:
    """Every cache keeps its entries in this process; `evercache_memory.advance(seconds)` lets time pass."""
    from evercache.testing import memory

    with memory() as stores:
        yield stores


@pytest.fixture
def evercache_off() -> Iterator[None]:
    """Every cached function runs, and operations on caches do nothing."""
    from evercache.testing import off

    with off():
        yield


@pytest.fixture
def evercache_record() -> Iterator[Recording]:
    """As `evercache_memory`, and the fixture is the record of all calls: `evercache_record.of(f, 7).hits`."""
    from evercache.testing import record

    with record() as recording:
        yield recording
