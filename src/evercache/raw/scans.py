"""Which server gave which cursor of SCAN and its kin: to any other it means nothing, and would leave keys out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from evercache.process import new_lock
from evercache.protocol.types import Address
from evercache.raw.commands import CURSORS, as_key

__all__ = ["Cursors", "Life", "Scan", "scanned"]

#: A server between two restarts: its address, and the run id or replication id that it gave.
Life: TypeAlias = tuple[Address, str]
#: Cursors remembered. A scan needs its newest only.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Scan:
    """One page of a scan: the command, the key that it goes through (empty for SCAN), and the cursor."""

    name: str
    key: bytes
    cursor: bytes

    @property
    def begins(self) -> bool:
        """Whether it is the first page."""
        return self.cursor == b"0"


def scanned(arguments: Sequence[Any]) -> Scan | None:
    """The page that a command asks for, if it asks for one."""
    name = arguments[0]
    place = CURSORS.get(name) if isinstance(name, str) else None
    if place is None or len(arguments) <= place:
        return None
    key = as_key(arguments[1]) if place > 1 else b""
    return Scan(str(name), key, as_key(arguments[place]))


class Cursors:
    """Guarded by: `_lock`. Several servers may have given the same cursor to different scans."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lives: dict[Scan, set[Life]] = {}

    def __repr__(self) -> str:
        return f"<Cursors {len(self._lives)}>"

    def gave(self, page: Scan, cursor: Any, life: Life) -> None:
        """A server answered a page with the cursor of the next."""
        following = Scan(page.name, page.key, as_key(cursor))
        if following.begins:
            return  # the scan is over
        with self._lock:
            lives = self._lives.pop(following, set())
            lives.add(life)
            self._lives[following] = lives
            if len(self._lives) > _MOST:
                del self._lives[next(iter(self._lives))]

    def server(self, page: Scan) -> Address | None:
        """The one server that gave the cursor; None: not known, or several did."""
        with self._lock:
            addresses = {address for address, _ in self._lives.get(page, ())}
        return addresses.pop() if len(addresses) == 1 else None

    def begins_anew(self, page: Scan, life: Life) -> bool:
        """Whether the scan must begin anew at this server, since another one may have given the cursor.

        A cursor that nobody here was given is another process's, and taken as it is.
        """
        with self._lock:
            lives = self._lives.get(page)
            if not lives or lives == {life}:
                return False
            lives &= {life}
            return True
