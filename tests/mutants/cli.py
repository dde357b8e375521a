"""`make mutants`: random small faults in the library, and which of the tests notice them.

A mutant is one small edit (`<` for `<=`, a statement left out, a condition negated) in a copy of the project.
First schedules of the simulator look for it, then the unit tests that run the changed code, then, with --real, the
tests on real servers. One that survives shows a rule that no test guards, or code that does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutants.lua_edits import lua_edits
from tests.mutants.mutant import FOLDERS, PACKAGE, Mutant, named, rank, sources
from tests.mutants.python_edits import python_edits
from tests.mutants.reach import Reach, find_out
from tests.mutants.report import Result, equivalents, line, save, table
from tests.mutants.stages import judge
from tests.mutants.workshop import ROOT, Workshop

__all__ = ["all_mutants", "main"]


def all_mutants(root: Path = ROOT, only: Sequence[str] = ()) -> list[Mutant]:
    """Every mutant of the chosen files, in the order of the text."""
    found: list[Mutant] = []
    for path in sources(root, only):
        text = (root / PACKAGE / path).read_bytes()
        found += named(path, text, (lua_edits if path.endswith(".lua") else python_edits)(text))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Ends with 1 if a mutant survived, and with 2 if it cannot work."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="which sample (default: 1)")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="how many; 0: all (default: 20)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATH",
        help=f"a file or folder of {PACKAGE}, may be repeated (default: {', '.join(FOLDERS)})",
    )
    parser.add_argument("--replay", action="append", default=[], metavar="ID", help="this mutant, with its output")
    parser.add_argument("--real", action="store_true", help="the tests on real servers as well, as the last stage")
    parser.add_argument(
        "--schedules",
        type=int,
        default=0,
        metavar="N",
        help="at most so many for a mutant (default: all)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="so many at once, each with a copy (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what became of them, also as JSON")
    parser.add_argument("--list", action="store_true", help="only show the sample")
    options = parser.parse_args(argv)
    try:
        every = all_mutants(only=options.only)
        known = equivalents()
    except (LookupError, ValueError) as error:
        parser.error(str(error))
    if not options.only and (gone := sorted(known.keys() - {it.id for it in every})):
        print(f"out of date, as their code has changed: {', '.join(gone)} (tests/mutants/equivalent.txt)")
    if options.replay:
        chosen = [it for it in every if it.id in options.replay]
        if unknown := set(options.replay) - {it.id for it in chosen}:
            parser.error(f"no mutant has the id {', '.join(sorted(unknown))}: the code has changed since")
        left_out: list[Mutant] = []
    else:
        ranked = rank(every, options.seed)[: options.sample or None]
        chosen = [it for it in ranked if it.id not in known]
        left_out = [it for it in ranked if it.id in known]
    if options.list:
        for it in chosen:
            print(f"{it.id} | {it.where} | {it.edit.operator}: {it.change}")
        return 0
    if options.replay:
        for it in chosen:
            print(_diff(it))
    reach = find_out()
    if reach.broken:
        print(f"left out, as they fail without a mutant: {', '.join(reach.broken)}")
    results: list[Result] = []
    for result in _judged(chosen, reach, options):
        results.append(result)
        print(f"[{len(results)}/{len(chosen)}] {line(result)}", flush=True)
        if options.replay and result.verdict.output:
            print("\n".join(result.verdict.output.splitlines()[-40:]))
        if options.json:
            save(options.json, options.seed, results)
    print(table(results, left_out))
    print(f"{len(chosen)} of {len(every):,} mutants; again: --replay ID")
    return 1 if any(it.verdict.survived for it in results) else 0


def _judged(chosen: Sequence[Mutant], reach: Reach, options: argparse.Namespace) -> Iterator[Result]:
    """The results, as they come."""
    with contextlib.ExitStack() as stack:
        copies: queue.SimpleQueue[Workshop] = queue.SimpleQueue()
        workshops = [stack.enter_context(Workshop.opened()) for _ in range(options.jobs)]
        for workshop in workshops:
            copies.put(workshop)

        def one(mutant: Mutant) -> Result:
            workshop = copies.get()
            try:
                verdict = judge(workshop, mutant, reach, real=options.real, schedules=options.schedules)
                return Result(mutant, verdict)
            finally:
                copies.put(workshop)

        with ThreadPoolExecutor(options.jobs) as pool:
            futures = [pool.submit(one, mutant) for mutant in chosen]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for workshop in workshops:
                    workshop.stop()
                raise


def _diff(mutant: Mutant) -> str:
    name = f"{PACKAGE}/{mutant.path}"
    before = (ROOT / name).read_bytes()
    lines = difflib.unified_diff(
        before.decode().splitlines(), mutant.applied(before).decode().splitlines(), name, name, lineterm="", n=2
    )
    return "\n".join(lines)
