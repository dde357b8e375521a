"""What the cached functions compute: versions in shared memory, which two processes raise and invalidate."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

__all__ = ["KEYS", "Truth"]

#: Keys that this process changes, and as many after them that another process changes.
KEYS = 20
_CELL = struct.Struct("<qqd")


class Truth:
    """For each key: its version, the newest version whose invalidation was acknowledged, and since when."""

    def __init__(self, path: Path) -> None:
        size = 2 * KEYS * _CELL.size
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._cells = mmap.mmap(file.fileno(), size)

    def __repr__(self) -> str:
        return f"<Truth keys={2 * KEYS}>"

    def version(self, key: int) -> int:
        """The present version."""
        return int.from_bytes(self._cells[key * _CELL.size : key * _CELL.size + 8], "little")

    def change(self, key: int) -> int:
        """Raise the version; one process for each key."""
        version = self.version(key) + 1
        self._cells[key * _CELL.size : key * _CELL.size + 8] = version.to_bytes(8, "little")
        return version

    def acknowledged(self, key: int, version: int) -> None:
        """The invalidation of the versions before this one was acknowledged or queued."""
        rest = struct.pack("<qd", version, time.monotonic())
        self._cells[key * _CELL.size + 8 : (key + 1) * _CELL.size] = rest

    def least(self, key: int, after: float) -> int:
        """What a call that begins now must return at least; an invalidation counts `after` so many seconds."""
        _, version, since = _CELL.unpack_from(self._cells, key * _CELL.size)
        return version if time.monotonic() - since >= after else 0
