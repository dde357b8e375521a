"""Where invalidations wait that no master had when the process ended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from evercache.protocol.journal import Pending
from evercache.protocol.scope import Scope

__all__ = ["Spool"]


class Spool:
    """A file of JSON lines, or nothing; read (and emptied) at the start, appended to at the end."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<Spool {self._path}>"

    def save(self, items: Iterable[Pending]) -> str | None:
        """Append what is left; returns the path, or None without a file. An unwritable file is an OSError."""
        if self._path is None:
            return None
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for item in items:
                record = {"v": 1, "id": item.id, "kind": item.scope.kind, "name": item.scope.name}
                file.write(json.dumps(record) + "\n")
        return self._path

    def load(self) -> list[Pending]:
        """What an earlier process left; each line is taken by one process only."""
        if self._path is None:
            return []
        taken = f"{self._path}.{os.getpid()}"
        try:
            os.rename(self._path, taken)
        except FileNotFoundError:
            return []
        items = []
        with open(taken, encoding="utf-8") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    scope = Scope(str(record["kind"]), str(record["name"]))
                    items.append(Pending(str(record["id"]), scope, 0, due=0.0))
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut short by a crash; the others still count
        os.unlink(taken)
        return items
