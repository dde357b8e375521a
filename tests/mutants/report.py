"""What became of the mutants, for people and as JSON; and those that are known to change nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutants.mutant import Mutant
from tests.mutants.stages import Verdict

__all__ = ["EQUIVALENT", "Result", "equivalents", "line", "save", "table"]

EQUIVALENT = Path(__file__).with_name("equivalent.txt")
_STAGES = ("twin", "simulator", "unit", "real")


@dataclass(frozen=True, slots=True)
class Result:
    """A mutant and what became of it."""

    mutant: Mutant
    verdict: Verdict


def equivalents(path: Path = EQUIVALENT) -> dict[str, str]:
    """The ids of the mutants that change nothing that anybody can notice, with the reasons.

    A line reads: id | where | what was changed | why that changes nothing.
    """
    found: dict[str, str] = {}
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if not text.strip() or text.startswith("#"):
            continue
        parts = [part.strip() for part in text.split(" | ")]
        if len(parts) < 4 or not parts[-1]:
            raise ValueError(f"{path.name}:{number}: write id | where | what was changed | reason")
        found[parts[0]] = parts[-1]
    return found


def line(result: Result) -> str:
    """One line."""
    it, verdict = result.mutant, result.verdict
    fate = f"SURVIVED {verdict.by}" if verdict.survived else f"killed by {verdict.stage}: {verdict.by}"
    return f"{it.id} | {it.where} | {it.edit.operator}: {it.change} | {fate} ({verdict.seconds:.0f} s)"


def table(results: Sequence[Result], left_out: Sequence[Mutant]) -> str:
    """For each folder: how many, killed by which stage, and how many survived."""
    folders = sorted({it.mutant.folder for it in results})
    width = max(map(len, ["folder", "all", *folders])) + 2
    heads = ("mutants", *_STAGES, "survived", "killed")
    lines = [f"{'folder':<{width}}" + "".join(f"{head:>11}" for head in heads)]
    for folder in [*folders, "all"]:
        part = [it.verdict for it in results if folder in (it.mutant.folder, "all")]
        counts = [sum(it.stage == stage for it in part) for stage in _STAGES]
        survived = sum(it.survived for it in part)
        share = f"{(len(part) - survived) / max(len(part), 1):.0%}"
        lines.append(
            f"{folder:<{width}}" + "".join(f"{n:>11}" for n in (len(part), *counts, survived)) + f"{share:>11}"
        )
    if left_out:
        lines.append(f"not counted, as they change nothing (equivalent.txt): {len(left_out)}")
    return "\n".join(lines)


def save(path: Path, seed: int, results: Sequence[Result]) -> None:
    """The same as JSON; written after each mutant, so that a run that is cut off leaves what it has."""
    items: list[dict[str, Any]] = [
        {
            "id": it.mutant.id,
            "file": it.mutant.path,
            "line": it.mutant.line,
            "function": it.mutant.edit.scope,
            "operator": it.mutant.edit.operator,
            "before": it.mutant.before,
            "after": it.mutant.after,
            "stage": it.verdict.stage or None,
            "by": it.verdict.by,
            "seconds": round(it.verdict.seconds, 1),
        }
        for it in results
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seed": seed, "mutants": items}, indent=1) + "\n")
