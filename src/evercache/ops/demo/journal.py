"""What the processes of the site write down while they serve, to be judged when the run is over.

One file for all processes, one JSON array a line, appended with a single `write`. All times are seconds of
the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import json
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TypeAlias

from evercache.errors import DemoFailed

__all__ = ["Call", "Computation", "Failure", "Invalidation", "Journal", "Record", "Stall", "read_journal"]


@dataclass(frozen=True, slots=True)
class Call:
    """One cached call, seen from outside: what it returned, and when."""

    page: str
    tag: str
    start: float
    end: float
    made: str
    as_of: int
    #: Whether this very call ran the function.
    ran: bool


@dataclass(frozen=True, slots=True)
class Computation:
    """The function of a page ran, in any thread of any process."""

    page: str
    made: str
    start: float
    end: float
    queries: int


@dataclass(frozen=True, slots=True)
class Invalidation:
    """The pages of a tag were invalidated after edit `seq`; not acknowledged: no master was reached."""

    seq: int
    tag: str
    time: float
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """The cache raised an exception of this type."""

    page: str
    error: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Stall:
    """The machine stood still: a thread that only sleeps woke late, although its process did not run."""

    due: float
    woke: float


Record: TypeAlias = Call | Computation | Invalidation | Failure | Stall
_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (Call, Computation, Invalidation, Failure, Stall)
}


class Journal:
    """Appends records to a file. Needs no lock: each record is one `write` on a file opened for appending."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __repr__(self) -> str:
        return f"<Journal {self._path.name}>"

    def write(self, record: Record) -> None:
        """Append one record."""
        line = json.dumps([type(record).__name__, *astuple(record)], separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        # Taken away first: closing the number twice would close somebody else's file.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def read_journal(path: Path) -> list[Record]:
    """Every record of the file; raises `DemoFailed` when a line is damaged (the disk is full?)."""
    records: list[Record] = []
    if not path.exists():
        return records
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                name, *values = json.loads(line)
                kind = _KINDS[name]
                if len(values) != len(fields(kind)):
                    raise ValueError(f"{len(values)} fields")
                records.append(kind(*values))
            except (ValueError, KeyError) as error:
                raise DemoFailed(
                    f"line {number} of the demo's journal is damaged ({error}): is the disk full?"
                ) from error
    return records
