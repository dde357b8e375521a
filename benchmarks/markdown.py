"""The results as a page: `benchmarks/FIGURES.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import number
from benchmarks.results import Result, Table, Target

__all__ = ["write"]


def write(document: dict[str, Any], path: Path) -> None:
    """Write the page for what the JSON file holds."""
    facts = document["machine"]
    machine = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "packages")
    packages = ", ".join(f"{name} {value}" for name, value in facts["packages"].items())
    parts = [
        "# Figures",
        f"Written by `make bench` in {document['seconds']:.0f} s; [how it measures](README.md).",
        f"{machine}. {packages}.",
        "## Targets",
    ]
    results = [Result.of_json(one) for one in document["results"]]
    head = "| measurement | | measured | at most | |\n|---|---|--:|--:|---|"
    lines = [f"| {one.name} | {_target(target)} |" for one in results for target in one.targets]
    parts.append("\n".join([head, *lines]))
    for result in results:
        parts.append(f"## {result.title}")
        for table in result.tables:
            parts += [f"**{table.title}**", _table(table)]
        parts += ["\n".join(f"- {note}" for note in result.notes)] if result.notes else []
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _target(target: Target) -> str:
    word = {True: "met", False: "**not met**", None: "not measured"}[target.met]
    unit = target.unit if target.unit == "x" else f" {target.unit}" if target.unit else ""
    return f"{target.text} | {number(target.value)}{unit} | {number(target.limit)}{unit} | {word}"


def _table(table: Table) -> str:
    lines = [f"| | {' | '.join(table.columns)} |", "|---|" + "--:|" * len(table.columns)]
    for figure in table.figures:
        name = f"**{figure.name}**" if figure.kind == "ours" else figure.name
        lines.append(f"| {name} | {' | '.join(number(value) for value in figure.values)} |")
    return "\n".join(lines)
