"""The whole suite: `make bench`, or `python -m benchmarks [--quick] [--only NAME]` with the peers installed."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import markdown, picture, report
from benchmarks.harness import Scale
from benchmarks.results import Result

#: In the order in which they run; each is a module in `benchmarks.measures`.
NAMES = (
    "imports",
    "hit",
    "threads",
    "tasks",
    "near",
    "sentinel",
    "stampede",
    "refresh",
    "memory",
    "wire",
    "operations",
    "sizes",
    "growth",
    "following",
    "fleet",
)
ROOT = Path(__file__).resolve().parents[1]
#: Seconds after which a measurement is given up.
PATIENCE = 300.0


def measured(name: str, scale: Scale) -> Result:
    """Run one measurement in this process."""
    began = time.perf_counter()
    result: Result = importlib.import_module(f"benchmarks.measures.{name}").run(scale)
    return replace(result, seconds=round(time.perf_counter() - began, 1))


def apart(name: str, quick: bool) -> Result:
    """Run one measurement in a process of its own: it meets no threads, caches or garbage of another.

    A result without tables when it failed, or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks", "--inside", name, "--json", str(path)]
        try:
            done = subprocess.run([*command, *["--quick"] * quick], cwd=ROOT, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return Result(name, name, (), (), (f"given up after {PATIENCE:.0f} s",), PATIENCE)
        if done.returncode or not path.exists():
            return Result(name, name, (), (), (f"failed with exit code {done.returncode}",))
        return Result.of_json(json.loads(path.read_text()))


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command. Whether targets are met does not matter for the exit code; 1 when one could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {', '.join(NAMES)}; repeatable")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller numbers: a look")
    parser.add_argument(
        "--json", type=Path, help="default: benchmarks/results.json; build/ unless all was measured"
    )
    parser.add_argument("--picture", type=Path, help="default: docs/benchmarks.svg; build/ unless all was measured")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        options.json.write_text(json.dumps(measured(options.inside, Scale.of(options.quick)).as_json()))
        return 0
    names = options.only or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no measurement {unknown[0]!r}: there are {', '.join(NAMES)}")
    began, facts = time.perf_counter(), report.machine()
    results = []
    for name in names:
        report.say(f"measuring: {name} ...")
        results.append(apart(name, options.quick))
        report.show(results[-1])
    report.sum_up(results, facts)
    document = {
        "machine": facts,
        "quick": options.quick,
        "seconds": round(time.perf_counter() - began, 1),
        "results": [one.as_json() for one in results],
    }
    whole = not options.only and not options.quick
    _write(document, options.json, options.picture, whole)
    return 0 if all(one.tables for one in results) else 1


def _write(document: dict[str, Any], figures: Path | None, drawn: Path | None, whole: bool) -> None:
    """The JSON file and the picture."""
    build = ROOT / "build" / "benchmarks"
    figures = figures or (ROOT / "benchmarks" if whole else build) / "results.json"
    drawn = drawn or (ROOT / "docs" if whole else build) / "benchmarks.svg"
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    markdown.write(document, figures.with_name("FIGURES.md"))
    report.say(f"written: {os.path.relpath(figures)}, and FIGURES.md beside it")
    try:
        if picture.draw(document, drawn):
            report.say(f"drawn: {os.path.relpath(drawn)}")
        else:
            report.say("no picture: it needs " + ", ".join(sorted({panel.result for panel in picture.PANELS})))
    except ImportError as error:
        report.say(f"no picture: {error}")


if __name__ == "__main__":
    sys.exit(main())
