"""The Lua scripts that decide on the master, each with the shared prelude `common.lua` in front."""

from __future__ import annotations

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


def _load() -> Mapping[str, Script]:
    prelude = _read("common")
    scripts = {}
    for name in _NAMES:
        text = prelude + _read(name)
        scripts[name] = Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())
    return MappingProxyType(scripts)


#: All scripts by name.
SCRIPTS: Mapping[str, Script] = _load()
