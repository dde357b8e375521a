"""No server at all: the entries live in this process (`memory://`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from evercache.protocol.topology import View
from evercache.protocol.types import Address
from evercache.topology.base import SharedEndpoints

__all__ = ["MemoryTopology"]


class MemoryTopology:
    """A topology in which this process is the master for ever. Immutable."""

    local = True

    def __init__(self) -> None:
        self.view = View(0, Address("", 0, "memory://"))

    def __repr__(self) -> str:
        return "<MemoryTopology>"

    async def run(self, changed: Callable[[View], None], nodes: SharedEndpoints | None = None) -> None:
        """Wait until cancelled: nothing changes."""
        changed(self.view)
        await asyncio.get_running_loop().create_future()

    def nudge(self) -> None:
        """Nobody to ask."""

    def rest(self, idle: bool, confirm: bool) -> None:
        """Nobody to ask."""

    def confirmed_since(self) -> float:
        """Always."""
        return inf

    def down_after(self) -> float | None:
        """See `Topology`."""
        return None

    def discovered(self, replicas: Iterable[Address]) -> None:
        """There are none."""

    def describe(self) -> dict[str, Any]:
        """For health reports."""
        return {"kind": "memory"}
