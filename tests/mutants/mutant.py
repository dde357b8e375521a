"""One mutant: a minimal edit of one source file, with an id that survives changes elsewhere in the file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FOLDERS", "PACKAGE", "Edit", "Mutant", "named", "rank"]

#: Where the sources are, from the root of the project; and what is mutated there, unless the caller says otherwise.
PACKAGE = "src/evercache"
FOLDERS = ("protocol", "engine", "client", "topology")


@dataclass(frozen=True, slots=True)
class Edit:
    """The bytes from `start` to `end` become `new`. `context` is the statement or condition around them."""

    start: int
    end: int
    new: bytes
    operator: str
    #: The function or method, with its class; empty at the level of the module.
    scope: str
    context: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mutant:
    """An edit of one file, named. `path` counts from the package, as `protocol/journal.py`."""

    id: str
    path: str
    line: int
    edit: Edit = field(repr=False)
    before: str
    after: str

    @property
    def where(self) -> str:
        """`protocol/journal.py:120 Journal.trim`."""
        return f"{self.path}:{self.line} {self.edit.scope}".rstrip()

    @property
    def change(self) -> str:
        """What was changed: the part of the statement that differs, with some of what is around it."""
        return _difference(self.before, self.after)

    @property
    def folder(self) -> str:
        """`protocol`; `protocol/scripts` for the scripts."""
        return self.path.rpartition("/")[0]

    def applied(self, source: bytes) -> bytes:
        """The text of the file with the mutant in it."""
        return source[: self.edit.start] + self.edit.new + source[self.edit.end :]


def named(path: str, source: bytes, edits: Iterable[Edit]) -> Iterator[Mutant]:
    """The mutants of a file. The id is made of path, function, operator and text; equal ones are numbered."""
    seen: Counter[str] = Counter()
    for edit in edits:
        start, end = edit.context
        before = _plain(source[start:end])
        after = _plain(source[start : edit.start] + edit.new + source[edit.end : end])
        key = "|".join((path, edit.scope, edit.operator, before, after))
        seen[key] += 1
        digest = hashlib.sha1(f"{key}|{seen[key]}".encode(), usedforsecurity=False).hexdigest()[:8]
        yield Mutant(digest, path, source.count(b"\n", 0, edit.start) + 1, edit, before, after)


def rank(mutants: Iterable[Mutant], seed: int) -> list[Mutant]:
    """In the random order of a seed. Each mutant has its own place in it, so that a change of the code elsewhere
    leaves a sample as it was."""
    return sorted(mutants, key=lambda it: hashlib.sha1(f"{seed} {it.id}".encode(), usedforsecurity=False).digest())


def sources(root: Path, only: Iterable[str] = ()) -> list[str]:
    """The files to mutate, from the package. The generated twins are not among them: they follow their sources."""
    package = root / PACKAGE
    found: set[str] = set()
    for name in only or FOLDERS:
        top = package / name.removeprefix(f"{PACKAGE}/").rstrip("/")
        if not top.exists():
            raise LookupError(f"--only {name}: there is no such file or folder in {PACKAGE}")
        files = [top] if top.is_file() else [*top.rglob("*.py"), *top.rglob("*.lua")]
        found |= {file.relative_to(package).as_posix() for file in files if "_sync" not in file.parts}
    return sorted(found)


def _plain(text: bytes) -> str:
    return re.sub(r"\s+", " ", text.decode()).strip()


def _difference(before: str, after: str, around: int = 28) -> str:
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    first = max(0, head - around)
    parts = []
    for text in (before, after):
        last = min(len(text), len(text) - tail + around)
        shown = ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")
        parts.append(shown if len(shown) < 110 else shown[:70] + "…")
    return " → ".join(parts)
