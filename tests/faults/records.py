"""What processes under load write down, and the truth that they share. Times are of the monotonic clock."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from evercache.ops.meter import Call, Edit, Overslept, Run
from evercache.ops.versions import Versions

__all__ = ["EDITORS", "KEYS", "RESERVED", "Journal", "Truth", "Written"]

#: Keys that readers read; the last is invalidated by nobody but the fault that kills who computes it.
KEYS = 64
RESERVED = KEYS - 1
#: Editors own the keys whose number leaves their own number by this division.
EDITORS = 8


class Truth(Versions):
    """A version for each key, and how long its function takes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2 * KEYS)
        self._microseconds = self._versions[KEYS:]

    def seconds(self, key: int) -> float:
        """How long the function takes for this key."""
        return self._microseconds[key] / 1e6 or 0.002

    def slow(self, key: int, seconds: float) -> None:
        """Let the function take so long; 0: as usual."""
        self._microseconds[key] = round(seconds * 1e6)


class Sample(NamedTuple):
    """What a process held: resident bytes, threads, file descriptors."""

    at: float
    rss: int
    threads: int
    files: int


@dataclass(slots=True)
class Written:
    """All that one process wrote down."""

    pid: int
    group: str
    role: str
    calls: list[Call] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    finals: list[Call] = field(default_factory=list)
    overslept: list[Overslept] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    #: Calls that had not returned long after everything was mended.
    hung: list[str] = field(default_factory=list)
    #: The longest time that a task which only sleeps was late.
    loop_late: float = 0.0
    undelivered: int = 0
    counters: dict[str, int] = field(default_factory=dict)

    def spill(self, folder: Path) -> None:
        """Bring to a file what has gathered, so that a long run's own records are not what grows.

        Others may append meanwhile, but nobody else may take away.
        """
        lists: tuple[list[Any], ...] = (self.calls, self.runs, self.edits, self.overslept)
        taken = []
        for line in lists:
            count = len(line)
            taken.append(line[:count])
            del line[:count]
        with (folder / f"spilled-{self.role}-{self.pid}").open("ab") as file:
            pickle.dump(taken, file)

    def gather(self, folder: Path) -> None:
        """Read it all back."""
        path = folder / f"spilled-{self.role}-{self.pid}"
        if path.exists():
            with path.open("rb") as file, contextlib.suppress(EOFError):
                while True:
                    calls, runs, edits, overslept = pickle.load(file)
                    self.calls += calls
                    self.runs += runs
                    self.edits += edits
                    self.overslept += overslept

    def save(self, folder: Path) -> None:
        path = folder / f"written-{self.role}-{self.pid}"
        path.with_suffix(".tmp").write_bytes(pickle.dumps(self))
        path.with_suffix(".tmp").rename(path.with_suffix(".done"))


class Journal:
    """Lines that are there though the process is killed right after: short appends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal"

    def edit(self, key: int, version: int, at: float) -> None:
        self._line(f"edit {key} {version} {at!r}")

    def run(self, key: int, made: int, at: float) -> None:
        self._line(f"run {key} {made} {at!r}")

    def died(self, made: int, at: float) -> None:
        """The run ended with its process."""
        self._line(f"died {made} 0 {at!r}")

    def error(self, text: str) -> None:
        self._line("error 0 0 0 " + text.replace("\n", " "))

    def _line(self, text: str) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, (text + "\n").encode())
        finally:
            os.close(handle)

    def lines(self) -> Iterator[list[str]]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                yield line.split(" ", 4)

    def edits(self) -> list[Edit]:
        return [Edit(int(a), int(b), float(at), True) for kind, a, b, at, *_ in self.lines() if kind == "edit"]

    def runs(self) -> list[Run]:
        """Of processes that were killed while they computed."""
        ends = {int(a): float(at) for kind, a, _, at, *_ in self.lines() if kind == "died"}
        return [
            Run(int(a), int(b), float(at), ends.get(int(b), float(at) + 60.0))
            for kind, a, b, at, *_ in self.lines()
            if kind == "run"
        ]

    def errors(self) -> list[str]:
        return [more[0] for kind, _, _, _, *more in self.lines() if kind == "error"]
