"""What the pure rules and the connections both speak of: addresses, commands and replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from msgspec import Struct

__all__ = ["Address", "Argument", "Command", "Reply"]

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Argument]
#: A decoded RESP reply: bytes, int, None, list, dict, bool or float; an error reply is a value, not raised.
Reply: TypeAlias = Any


class Address(Struct, frozen=True, order=True):
    """Where a server listens: host and port, or the path of a unix socket."""

    host: str
    port: int = 6379
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
