"""Whether a mutant is noticed: by the generator of the twins, the simulator, the unit tests, tests on real servers.

The first stage that notices it ends the search. A mutant that makes a stage hang, or die, is noticed as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.reach import PYTEST, Reach
from tests.mutants.schedules import names
from tests.mutants.workshop import Done, Workshop, chunks

__all__ = ["Verdict", "judge"]

#: A stage may take so many times as long as without a mutant, and so many seconds more, before it counts as hung.
TIMES, MORE = 10.0, 90.0
#: All tests on real servers, in seconds.
REAL_LIMIT = 2400.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant. `stage` is empty if it survived; `by` then says how much was tried."""

    stage: str
    by: str
    seconds: float
    output: str = ""

    @property
    def survived(self) -> bool:
        """Whether nothing noticed it."""
        return not self.stage


def judge(workshop: Workshop, mutant: Mutant, reach: Reach, *, real: bool, schedules: int = 0) -> Verdict:
    """Make the mutant in the copy and run one stage after the other; `schedules`: at most so many (0: all)."""
    stages: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("simulator", lambda: _simulator(workshop, mutant, reach, schedules)),
        ("unit", lambda: _units(workshop, mutant, reach)),
    ]
    if real:
        stages.append(("real", lambda: _real(workshop, mutant)))
    began = workshop.seconds
    tried: list[str] = []
    try:
        with workshop.mutated(mutant):
            for name, stage in stages:
                by, output = stage()
                if by.startswith("killed "):
                    return Verdict(name, by.removeprefix("killed "), workshop.seconds - began, output)
                tried.append(by)
    except ValueError as error:
        return Verdict("twin", str(error).splitlines()[0], workshop.seconds - began, str(error))
    return Verdict("", ", ".join(tried), workshop.seconds - began)


def _simulator(workshop: Workshop, mutant: Mutant, reach: Reach, most: int) -> tuple[str, str]:
    chosen = reach.chosen(mutant, names())
    if 0 < most < len(chosen):  # of both kinds
        chosen = [chosen[index * len(chosen) // most] for index in range(most)]
    if not chosen:
        return "no schedule", ""
    file = workshop.notes / "names"
    file.write_text(chunks(chosen))
    done = workshop.run("-m", "tests.mutants.schedules", str(file), limit=_limit(reach, chosen))
    if done.code == 0:
        return _count(len(chosen), "schedule"), ""
    now = re.findall(r"^now (\S+)$", done.output, re.MULTILINE)
    where = now[-1].replace("-", " ", 1) if now else "at its imports"
    violated = re.search(r"^violated (.*)$", done.output, re.MULTILINE)
    what = violated[1][:150] if violated else _ended(done)
    return f"killed {where}: {what}", done.output


def _units(workshop: Workshop, mutant: Mutant, reach: Reach) -> tuple[str, str]:
    candidates = [name for name in reach.seconds if "/" in name]
    if mutant.path.endswith(".lua"):
        scripts = re.compile(r"\blua\b|\bSCRIPTS\b|protocol\.scripts")
        candidates = [name for name in candidates if scripts.search((workshop.root / name).read_text())]
    chosen = reach.chosen(mutant, candidates)
    if not chosen:
        return "no unit test", ""
    chosen.sort(key=lambda name: (not _imports(workshop.root / name, mutant), reach.seconds[name]))
    by, output = _pytest(workshop, mutant, chosen, _limit(reach, chosen))
    return by or _count(len(chosen), "file") + " of unit tests", output


def _real(workshop: Workshop, mutant: Mutant) -> tuple[str, str]:
    files = sorted((workshop.root / "tests" / "real").glob("test_*.py"))
    script = mutant.path.endswith(".lua")
    files.sort(key=lambda file: not (file.name.startswith("test_scripts") if script else _imports(file, mutant)))
    chosen = [file.relative_to(workshop.root).as_posix() for file in files]
    by, output = _pytest(workshop, mutant, chosen, REAL_LIMIT, "-m", "not long and not storm")
    return by or "the tests on real servers", output


def _pytest(
    workshop: Workshop, mutant: Mutant, chosen: Sequence[str], limit: float, *options: str
) -> tuple[str, str]:
    """Empty, or "killed" and by which test.

    A test counts only if it fails once more, alone, and passes without the mutant: on a busy machine one may fail
    by chance. Else the rest is run again without it.
    """
    note = workshop.notes / "test"
    chance: list[str] = []
    for _ in range(5):
        note.write_text("")
        deselected = [f"--deselect={test}" for test in chance]
        done = workshop.run(
            *PYTEST, "-x", *options, *deselected, *chosen, limit=limit, env={"MUTANTS_NOTE": str(note)}
        )
        if done.code in (0, 5):
            return "", ""
        test = note.read_text()
        if not test.startswith("FAILED "):
            return f"killed {test or 'at its imports'}: {_ended(done)}", done.output
        test = test.removeprefix("FAILED ")
        if workshop.run(*PYTEST, *options, test, limit=limit).code not in (0, 5):
            with workshop.restored(mutant):
                innocent = workshop.run(*PYTEST, *options, test, limit=limit).code not in (0, 5)
            if not innocent:
                return f"killed {test}", done.output
        chance.append(test)
    return "", f"failed by chance: {', '.join(chance)}"


def _imports(file: Path, mutant: Mutant) -> bool:
    module = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    folder, _, name = module.rpartition(".")
    text = file.read_text()
    return f"evercache.{module}" in text or bool(re.search(rf"from evercache\.{folder} import .*\b{name}\b", text))


def _limit(reach: Reach, chosen: Sequence[str]) -> float:
    return MORE + TIMES * sum(reach.seconds[name] for name in chosen)


def _ended(done: Done) -> str:
    if done.code is None:
        return "hung"
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    if any(line.startswith(("Timeout (", "+++++++++++++++ Timeout")) or "Timeout +++" in line for line in lines):
        return "hung"
    return lines[-1][:150] if lines else f"ended with {done.code}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
