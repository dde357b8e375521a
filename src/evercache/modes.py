"""Which test mode is active (see `evercache.testing`); None outside of tests."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Mode", "active", "ordinary"]


class Mode(Protocol):
    """Stands in for the servers of every cache."""

    def clients(self, cache: Any) -> Any:
        """The clients to use instead of the cache's own; None switches the cache off."""
        ...

    def closed(self, cache: Any) -> None:
        """The cache was closed: it is switched off for the rest of the mode."""
        ...


active: Mode | None = None

#: False once a mode was active, or a cache was switched off within a block: then each call looks which holds.
ordinary = True
