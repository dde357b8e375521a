"""What one process of the load is told, and how it opens its cache."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evercache import Cache
from evercache.protocol.types import Address
from tests.faults.stage import Access

__all__ = ["LoadPlan", "open_cache"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What one process does."""

    kind: str  # threads, tasks, prefork; nursery: short-lived editors; victim: computes slowly
    group: str
    access: str  # Access as JSON
    folder: str
    editor: int = 0
    callers: int = 8
    pace: float = 0.015
    edit_every: float = 0.1
    cache: dict[str, Any] | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def open_cache(plan: LoadPlan) -> Cache:
    """The cache of one process, by the gates of its group."""
    access = Access.from_json(plan.access)

    def mapped(address: Address) -> Address:
        if not access.ports:  # no gates: the servers are reached by what they announce
            return address
        host = access.names.get(address.port, "127.0.0.1")
        return Address(host, access.ports.get(address.port, address.port))

    if access.names:
        _resolve_by_switch(Path(plan.folder))
    return Cache(access.url, namespace="faults", address_map=mapped, **(plan.cache or {}))


def _resolve_by_switch(folder: Path) -> None:
    """Names that end in .test resolve until the folder has a file `dns-fails`, or hang with `dns-hangs`."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(".test") and not options.get("flags", 0) & socket.AI_NUMERICHOST:
            if (folder / "dns-hangs").exists():
                time.sleep(3.0)
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            if (folder / "dns-fails").exists():
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            host = "127.0.0.1"
        return real(host, *more, **options)

    socket.getaddrinfo = getaddrinfo
