"""The Lua scripts that decide on the primary.

Each one is made of its own file and of the parts of `common.lua` that it includes, when this module is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha1
from pkgutil import get_data
from types import MappingProxyType
from typing import TypeVar

from msgspec import Struct

__all__ = ["SCRIPTS", "Script", "chunks"]

T = TypeVar("T")

#: How many entries one script takes at most, and how many bytes: an entry takes the primary some 6 us.
_CHUNK, _CHUNK_BYTES = 100, 256 * 1024

_NAMES = (
    "hold",
    "incr",
    "invalidate",
    "lease",
    "release",
    "renew",
    "restore",
    "resync",
    "set",
    "store",
    "sweep",
    "tip",
    "touch",
)


class Script(Struct, frozen=True):
    """A script by its name, whole text, and the SHA-1 under which servers keep it."""

    name: str
    text: str
    sha: str

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha}>"


def _read(name: str) -> str:
    # Not by `importlib.resources`, which takes ten milliseconds to import.
    data = get_data(__name__, f"{name}.lua")
    assert data is not None  # only a loader that cannot read files returns None
    return data.decode()


_PART = re.compile(r"^--## (\w+)\n", re.MULTILINE)
_INCLUDE = re.compile(r"^ *--@ (\w+)\n", re.MULTILINE)
#: Comments, empty lines and indentation: servers keep the text, and are sent it anew after each restart.
_IDLE = re.compile(r"^ *--(?!@|##).*\n|^ *\n|^ +| +--.*$", re.MULTILINE)


def _load() -> Mapping[str, Script]:
    words = _PART.split(_IDLE.sub("", _read("common")))
    parts = dict(zip(words[1::2], words[2::2], strict=True))
    whole: dict[str, str] = {}

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in whole:
            whole[name] = _INCLUDE.sub(part, parts[name])
        return whole[name]

    scripts = {}
    for name in _NAMES:
        text = _INCLUDE.sub(part, _IDLE.sub("", _read(name)))
        scripts[name] = Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())
    return MappingProxyType(scripts)


#: All scripts by name.
SCRIPTS: Mapping[str, Script] = _load()


def chunks(items: Iterable[T], size: Callable[[T], int] = lambda item: 0) -> Iterator[list[T]]:
    """The items, in order, as many at a time as one script takes, so that it blocks the primary for less than 1 ms.

    `size`: the bytes that the script writes for an item.
    """
    chunk: list[T] = []
    left = _CHUNK_BYTES
    for item in items:
        left -= size(item)
        if chunk and (len(chunk) == _CHUNK or left < 0):
            yield chunk
            chunk, left = [], _CHUNK_BYTES - size(item)
        chunk.append(item)
    if chunk:
        yield chunk
