"""The Lua scripts that decide on the primary.

Each one is made of its own file and of the parts of `common.lua` that it includes, when this module is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha1
from pkgutil import get_data
from types import MappingProxyType

from msgspec import Struct

__all__ = ["SCRIPTS", "Script"]

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
_INCLUDE = re.compile(r"^( *)--@ (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n|^ *\n| +--.*$", re.MULTILINE)


def _assemble(text: str, parts: Mapping[str, str]) -> str:
    """The text with the parts that it includes, and those that they include."""
    return _INCLUDE.sub(lambda found: _indented(_assemble(parts[found[2]], parts), found[1]), text)


def _indented(text: str, indent: str) -> str:
    return "".join(indent + line for line in text.splitlines(keepends=True))


def _load() -> Mapping[str, Script]:
    words = _PART.split(_read("common"))
    parts = dict(zip(words[1::2], words[2::2], strict=True))
    scripts = {}
    for name in _NAMES:
        # Without comments: servers keep the text, and are sent it again after each restart.
        text = _COMMENT.sub("", _assemble(_read(name), parts))
        scripts[name] = Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())
    return MappingProxyType(scripts)


#: All scripts by name.
SCRIPTS: Mapping[str, Script] = _load()
