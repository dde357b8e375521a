"""A version for each key, shared by processes: what a database would be to those who measure a cache."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

__all__ = ["Versions"]


class Versions:
    """So many whole numbers of 64 bits, zero at first, in the file `truth` of a folder, which all processes map."""

    def __init__(self, folder: Path, count: int) -> None:
        size = 8 * count
        # Many processes may come first: none may find it short, or empty it.
        with open(os.open(folder / "truth", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            os.ftruncate(file.fileno(), size)
            # `struct` would write zeros first, and others would read them.
            self._versions = memoryview(mmap.mmap(file.fileno(), size)).cast("q")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._versions)} keys>"

    def __getitem__(self, key: int) -> int:
        return self._versions[key]

    def __setitem__(self, key: int, version: int) -> None:
        self._versions[key] = version
