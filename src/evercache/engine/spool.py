"""Where invalidations wait that no master had when the process ended."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable

from evercache.observe import Emit, EventHub, events
from evercache.protocol.journal import Pending
from evercache.protocol.scope import EVERYTHING, known

__all__ = ["Spool"]


class Spool:
    """A file of JSON lines, or nothing; read (and emptied) at the start, appended to at the end."""

    def __init__(self, path: str | None, emit: Emit | None = None) -> None:
        self._path = path
        self._emit = emit or EventHub().emit

    def __repr__(self) -> str:
        return f"<Spool {self._path}>"

    def save(self, items: Iterable[Pending]) -> str:
        """Append what is left; returns what became of it, in words."""
        if self._path is None:
            return "set spool= to a file path to keep them"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                for item in items:
                    record = {"v": 1, "id": item.id, "kind": item.scope.kind, "name": item.scope.name}
                    file.write(json.dumps(record) + "\n")
        except OSError as error:
            return f"they cannot be kept either: {error}; check spool= and the rights of its folder"
        return f"they are kept in {self._path}"

    def load(self) -> list[Pending]:
        """What an earlier process left; each line is taken by one process only. Unreadable files are said."""
        if self._path is None:
            return []
        taken = f"{self._path}.{os.getpid()}"
        try:
            if os.path.isdir(self._path):
                raise IsADirectoryError(f"{self._path} is a folder")
            os.rename(self._path, taken)
            with open(taken, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
            os.unlink(taken)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._emit(events.SpoolUnreadable(str(error)))
            return []
        items = []
        for line in lines:
            try:
                record = json.loads(line)
                scope = known(str(record["kind"]), str(record["name"]), int(record.get("v", 1)))
                items.append(Pending(str(record["id"]), scope, 0, due=0.0))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                # A line cut short by a crash may have stood for anything.
                items.append(Pending(secrets.token_hex(8), EVERYTHING, 0, due=0.0))
        if items:
            self._emit(events.SpoolRead(len(items)))
        return items
