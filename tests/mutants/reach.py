"""Which schedules and files of tests run which block of the code: only those can notice a mutant in it.

The sources of a copy get a statement at the start of each block, which sets the byte of that block in a file that
all processes share. A test that never runs the block that holds a mutant cannot tell it from the original. What was
found out is kept in `build/`, as long as the sources and the tests stay the same.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mutants.mutant import PACKAGE, Mutant, sources
from tests.mutants.python_edits import blocks
from tests.mutants.schedules import names
from tests.mutants.workshop import ROOT, Workshop, chunks

__all__ = ["PYTEST", "Reach", "find_out"]

#: How tests are run here, in an order that stays the same.
PYTEST = ("-m", "pytest", "-q", "-p", "tests.mutants.recorder", "-p", "no:randomly", "-p", "no:cacheprovider")
_KEPT = ROOT / "build" / "mutants.json"
#: In the package of the copy; every other module is imported after it.
_MODULE = """import builtins, mmap, os
try:
    with open(os.environ["MUTANTS_MAP"], "r+b") as file:
        builtins.__reach__ = mmap.mmap(file.fileno(), 0)
except KeyError:  # a process that was given another environment
    builtins.__reach__ = bytearray({size})
"""


@dataclass(slots=True)
class Reach:
    """What was found out. Nothing changes it once it is complete."""

    #: (path, first line, last line) of each block.
    blocks: list[tuple[str, int, int]]
    #: Of each schedule and file of tests: what it reaches, and how many seconds it takes.
    reached: dict[str, set[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    #: Those that fail without a mutant.
    broken: list[str] = field(default_factory=list)
    #: Blocks that run while the library is imported.
    imports: set[int] = field(default_factory=set)

    def block(self, mutant: Mutant) -> int | None:
        """The innermost block with the mutant; None: it is not in a function of Python."""
        return self._block(mutant.path, mutant.line)

    def _block(self, of: str, line: int) -> int | None:
        around = [
            (last - first, number)
            for number, (path, first, last) in enumerate(self.blocks)
            if path == of and first <= line <= last
        ]
        return min(around)[1] if around else None

    def chosen(self, mutant: Mutant, candidates: Iterable[str]) -> list[str]:
        """Those of the candidates that run what the mutant changes."""
        candidates = [name for name in candidates if name in self.reached]
        number = self.block(mutant)
        if number is not None:
            return [name for name in candidates if number in self.imports or number in self.reached[name]]
        constants = _constants(mutant)
        users = self._users(constants)
        if users is None:
            return candidates
        said = re.compile(rf"\b({'|'.join(constants)})\b")
        return [
            name
            for name in candidates
            if users & (self.reached[name] | self.imports)
            or ("/" in name and said.search((ROOT / name).read_text()))
        ]

    def _users(self, constants: Collection[str]) -> set[int] | None:
        """The blocks that read a constant of a module; None if something else does, or there is no constant."""
        if not constants:
            return None
        found: set[int] = set()
        for file in (ROOT / PACKAGE).rglob("*.py"):
            text = file.read_text()
            if "_sync" in file.parts or not any(name in text for name in constants):
                continue
            path = file.relative_to(ROOT / PACKAGE).as_posix()
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Name(ctx=ast.Load(), id=name) | ast.Attribute(attr=name) if name in constants:
                        number = self._block(path, node.lineno)
                    case _:
                        continue
                if number is None:
                    return None
                found.add(number)
        return found


def _constants(mutant: Mutant) -> tuple[str, ...]:
    """The names that the changed statement of a module gives; empty if it is none, or it gives no names."""
    if not mutant.path.endswith(".py"):
        return ()
    for node in ast.parse((ROOT / PACKAGE / mutant.path).read_bytes()).body:
        if node.lineno <= mutant.line <= (node.end_lineno or 0) and isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            flat = [it for target in targets for it in (target.elts if isinstance(target, ast.Tuple) else [target])]
            return tuple(it.id for it in flat if isinstance(it, ast.Name))
    return ()


def unit_files(root: Path) -> list[str]:
    """The files of unit tests, without that of this tool, which makes copies of its own."""
    files = (root / "tests" / "unit").glob("test_*.py")
    return sorted(path.relative_to(root).as_posix() for path in files if path.name != "test_mutants.py")


def find_out() -> Reach:
    """Run all schedules and unit tests once, without a mutant, or take what an earlier run found out."""
    shared, own = _keys()
    kept: dict[str, Any] = json.loads(_KEPT.read_text()) if _KEPT.exists() else {}
    known = kept.get("files", {}) if kept.get("key") == shared else {}
    known = {name: it for name, it in known.items() if name in own and it["key"] == own[name]}
    imports = set(kept["imports"]) if known else set()
    reach = Reach(_blocks(ROOT))
    missing = [name for name in own if name not in known]
    if missing:
        print(f"what {len(missing)} schedules and files of tests reach, without a mutant ...", flush=True)
        with Workshop.opened() as workshop:
            _instrument(workshop, reach)
            parts = [name for name in missing if "/" not in name], [name for name in missing if "/" in name]
            for run, names_ in zip((_run_schedules, _run_units), parts, strict=True):
                if names_:
                    more, found = run(workshop, names_)
                    imports |= more
                    known |= {name: {**it, "key": own[name]} for name, it in found.items()}
            # What fails may only do so on a busy machine: it is asked once more.
            again = [name for name in parts[1] if not known[name]["passed"]]
            if again:
                _, found = _run_units(workshop, again)
                known |= {name: {**it, "key": own[name]} for name, it in found.items()}
        # What fails again may only fail since its sources were changed: then it reaches everything.
        with Workshop.opened() as workshop:
            for name in parts[1]:
                if not known[name]["passed"]:
                    known[name]["passed"] = workshop.run(*PYTEST, name, limit=600).code == 0
                    known[name]["reached"] = list(range(len(reach.blocks)))
        _KEPT.parent.mkdir(exist_ok=True)
        _KEPT.write_text(json.dumps({"key": shared, "imports": sorted(imports), "files": known}))
    reach.imports = imports
    for name in own:
        if name not in known or not known[name]["passed"]:
            reach.broken.append(name)
        else:
            reach.reached[name] = set(known[name]["reached"])
            reach.seconds[name] = known[name]["seconds"]
    return reach


def _keys() -> tuple[str, dict[str, str]]:
    """Of all that every test depends on, and of each schedule and file of tests."""
    tests = ROOT / "tests"
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".lua")]
    units = unit_files(ROOT)
    helpers = [path for path in (tests / "unit").glob("*.py") if not path.name.startswith("test_")]
    shared = _digest([*files, *helpers, *tests.glob("*.py")]) + sys.version
    simulator = _digest([*(tests / "sim").glob("*.py"), tests / "mutants" / "schedules.py"])
    return shared, {**dict.fromkeys(names(), simulator), **{name: _digest([ROOT / name]) for name in units}}


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(paths):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _blocks(root: Path) -> list[tuple[str, int, int]]:
    found = []
    for path in sources(root):
        if path.endswith(".py"):
            text = (root / PACKAGE / path).read_bytes()
            found += [(path, first, last) for first, last, _, _ in blocks(text)]
    return found


def _instrument(workshop: Workshop, reach: Reach) -> None:
    number = 0
    for path in sources(workshop.root):
        if not path.endswith(".py"):
            continue
        text = workshop.read(path)
        lines = text.splitlines(keepends=True)
        marks: dict[int, list[bytes]] = {}
        for _, _, line, column in blocks(text):
            if not lines[line - 1][:column].strip():  # not on the line of its head
                marks.setdefault(line, []).append(b" " * column + b"__reach__[%d] = 1\n" % number)
            number += 1
        for line in sorted(marks, reverse=True):
            lines[line - 1 : line - 1] = marks[line]
        if marks:
            workshop.write(path, b"".join(lines))
    assert number == len(reach.blocks)
    workshop.write("_reach.py", _MODULE.format(size=number).encode())
    head = workshop.read("__init__.py")
    first = head.index(b"\nfrom evercache") + 1
    workshop.write("__init__.py", head[:first] + b"import evercache._reach\n" + head[first:])
    (workshop.notes / "map").write_bytes(bytes(number))


def _environment(workshop: Workshop, target: Path) -> dict[str, str]:
    target.unlink(missing_ok=True)
    return {
        "MUTANTS_MAP": str(workshop.notes / "map"),
        "MUTANTS_REACH": str(target),
        "MUTANTS_NOTE": str(workshop.notes / "test"),
    }


def _run_schedules(workshop: Workshop, which: Sequence[str]) -> tuple[set[int], dict[str, Any]]:
    note = workshop.notes / "names"
    note.write_text(chunks(which))
    target = workshop.notes / "reach.json"
    done = workshop.run("-m", "tests.mutants.schedules", str(note), limit=3600, env=_environment(workshop, target))
    if done.code != 0:
        raise RuntimeError(f"the schedules do not run without a mutant:\n{done.output[-3000:]}")
    found = json.loads(target.read_text())
    return set(found["imports"]), found["files"]


def _run_units(workshop: Workshop, which: Sequence[str]) -> tuple[set[int], dict[str, Any]]:
    """One process for all of them; where it dies, another one for those after the file at which it did."""
    target = workshop.notes / "reach.json"
    left, found, imports = list(which), dict[str, Any](), set[int]()
    while left:
        env = _environment(workshop, target)
        workshop.run(*PYTEST, *left, limit=3600, env=env)
        part = json.loads(target.read_text()) if target.exists() else {"imports": [], "files": {}}
        imports |= set(part["imports"])
        found |= part["files"]
        left = [name for name in left if name not in found]
        if left:
            found[left[0]] = {"reached": [], "seconds": 60.0, "passed": False}
            left = left[1:]
    return imports, found
