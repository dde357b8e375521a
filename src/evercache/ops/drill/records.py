"""What the drill's clients share and write down: the truth, and a file of records for each process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from evercache.ops.meter import Call, Edit, Overslept, Run
from evercache.ops.stalls import CpuWait
from evercache.ops.versions import Versions
from evercache.process import new_lock

__all__ = ["EDITED", "KEYS", "Failure", "Final", "Hung", "Recorder", "Truth", "Undelivered", "Written"]

#: Pages that are read; the first of them are edited, and read more often; the others only have to stay warm.
KEYS, EDITED = 400, 80


class Truth(Versions):
    """The versions of the pages, and which of them was changed last."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, KEYS + 1)

    def __repr__(self) -> str:
        return f"<Truth of {KEYS} keys>"

    @property
    def newest(self) -> int:
        """The key whose invalidation was acknowledged last, anywhere: where something old would be seen first."""
        return self[KEYS]

    @newest.setter
    def newest(self, key: int) -> None:
        self[KEYS] = key


class Failure(NamedTuple):
    """An exception that reached a caller of the cache."""

    at: float
    what: str


class Final(NamedTuple):
    """What a process reads of a key when all is over."""

    key: int
    version: int
    pid: int


class Hung(NamedTuple):
    """A call that had not returned when all was over."""

    key: int
    seconds: float


class Undelivered(NamedTuple):
    """So many invalidations of a process were still queued when all was over."""

    number: int
    pid: int


_KINDS: tuple[type[Any], ...] = (Call, Run, Edit, Overslept, Failure, Final, Hung, Undelivered, CpuWait)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


@dataclass(slots=True)
class Written:
    """All that the processes wrote down."""

    calls: list[Call] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    overslept: list[Overslept] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    hung: list[Hung] = field(default_factory=list)
    undelivered: list[Undelivered] = field(default_factory=list)
    cpu_waits: list[CpuWait] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Written:
        """Of every process up to now; what a process that was killed left half written is left out."""
        found = cls()
        lists: tuple[list[Any], ...] = (
            found.calls,
            found.runs,
            found.edits,
            found.overslept,
            found.failures,
            found.finals,
            found.hung,
            found.undelivered,
            found.cpu_waits,
        )
        for path in sorted(folder.glob("records-*")):
            with path.open("rb") as file:
                for number, row in msgpack.Unpacker(file, use_list=False):
                    lists[number].append(_KINDS[number](*row))
        return found


class Recorder:
    """Gathers the records of a process and appends them to its file. Safe for threads: `_lock` guards the file."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._path = folder / f"records-{pid}"
        self._rows: list[tuple[Any, ...]] = []
        self._lock = new_lock()

    def __repr__(self) -> str:
        return f"<Recorder {self._path.name}>"

    def note(self, *records: tuple[Any, ...]) -> None:
        """Keep records until the next `flush`. No lock: appending is one step."""
        self._rows.extend(records)

    def note_all(self, records: Iterable[tuple[Any, ...]]) -> None:
        """The same for many."""
        self._rows.extend(records)

    def flush(self) -> None:
        """Append what has gathered."""
        with self._lock:
            count = len(self._rows)
            rows = self._rows[:count]
            del self._rows[:count]
            if rows:
                data = b"".join(msgpack.packb((_NUMBERS[type(row)], tuple(row))) for row in rows)
                with self._path.open("ab", buffering=0) as file:
                    file.write(data)
