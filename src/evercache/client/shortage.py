"""What the cache does where this process has no memory left for it."""

from __future__ import annotations

from types import TracebackType
from typing import Final, final

from evercache.errors import ResourceExhausted

__all__ = ["ENOUGH_MEMORY"]


@final
class _EnoughMemory:
    """Within it, a MemoryError becomes a `ResourceExhausted`, which is handled as every other failure is.

    Never around a user's function, whose MemoryError is its caller's.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, MemoryError):
            raise ResourceExhausted("this process has no memory left for the cache", maybe_run=True) from error


ENOUGH_MEMORY: Final = _EnoughMemory()
