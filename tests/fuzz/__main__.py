"""`make fuzz`: both hunters find every planted bug, then hunt in the library as it is.

Ends with 1 if a planted bug was not found, or a real one was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fuzz.runs import FOUND, guided
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

#: What a hunter may spend on one planted bug; the seconds are many, as the machine may have other work.
EXAMPLES = 10_000
SECONDS = 240
_BUILD = Path("build/fuzz")


def _folder(target: Target, name: str, *, fresh: bool) -> Path:
    folder = _BUILD / target.name.replace(" ", "-") / name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class Found:
    """What a hunter met: the error in one line, and the input."""

    words: str
    data: bytes


def _by_search(target: Target, bug: int) -> Found | None:
    """What Hypothesis finds of a planted bug."""
    from tests.fuzz.search import search

    last = b""

    def check(data: bytes) -> None:
        nonlocal last
        last = data
        target.check(data)

    with target.bugs[bug].change(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inputs too long to print: they are not printed
        try:
            search(replace(target, check=check), EXAMPLES, shrink=False)
        except Exception as error:
            return Found(_first(error), last)
    return None


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:70]


def _by_coverage(target: Target, bug: int) -> Found | None:
    """What atheris finds of it."""
    folder = _folder(target, f"bug-{bug}", fresh=True)
    done = guided(target.name, folder, f"-max_total_time={SECONDS}", "-seed=1", bug=bug)
    kept = next(folder.glob("crash-*"), None)
    return Found(done.words, kept.read_bytes()) if done.code == FOUND and kept is not None else None


def _timed(hunt: Callable[[Target, int], Found | None], target: Target, bug: int) -> tuple[float, Found | None]:
    began = time.monotonic()
    found = hunt(target, bug)
    return time.monotonic() - began, found


def _told(target: Target, found: Found | None) -> tuple[bool, str]:
    """Whether that was the planted bug, and what is said of it."""
    if found is None:
        return False, "NOT FOUND"
    try:
        target.run(found.data)
    except Exception as error:
        return False, f"NOT FOUND, but without it: {_first(error)}"
    return True, found.words


def plant(targets: Iterable[Target], jobs: int) -> bool:
    """Every planted bug, by both hunters at the same time; False where one of them does not find it."""
    bugs = [(target, number) for target in targets for number in range(len(target.bugs))]
    met = {"Hypothesis": 0, "atheris": 0}
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(_timed, _by_coverage, target, number) for target, number in bugs]
        for (target, number), other in zip(bugs, runs, strict=True):
            searched = _timed(_by_search, target, number)
            for hunter, (took, found) in (("Hypothesis", searched), ("atheris", other.result())):
                well, words = _told(target, found)
                name = target.bugs[number].name
                print(f"  {target.name:15} {name:38} {hunter:10} {took:5.1f} s  {words}", flush=True)
                met[hunter] += well
    print(
        "".join(f"  {hunter} found {count} of {len(bugs)}\n" for hunter, count in met.items()), end="", flush=True
    )
    return all(count == len(bugs) for count in met.values())


def run(targets: list[Target], minutes: float, jobs: int) -> bool:
    """Hunt for so long in all, the time shared; what was found stays in build/fuzz."""
    seconds = max(5, round(minutes * 60 / len(targets)))

    def one(target: Target) -> tuple[int, bool]:
        folder = _folder(target, "run", fresh=False)
        done = guided(target.name, folder, f"-max_total_time={seconds}")
        outcome = "no crash" if done.code == 0 else f"FOUND: {done.words} (in {folder})"
        inputs = f"{done.inputs:>9,} inputs, {done.places:>5} places"
        print(f"  {target.name:15} {seconds:4} s {inputs}  {outcome}", flush=True)
        return done.inputs, done.code == 0

    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(one, targets))
    print(f"  {sum(inputs for inputs, _ in done):,} inputs in all", flush=True)
    return all(well for _, well in done)


def main() -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (all)")
    parser.add_argument("--minutes", type=float, default=10, help="to hunt in all (10)")
    parser.add_argument("--jobs", type=int, default=1, help="runs of atheris at the same time (1)")
    parser.add_argument("--no-plant", action="store_true", help="leave the planted bugs out")
    options = parser.parse_args()
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}")
    targets = [TARGETS[name] for name in options.targets or TARGETS]
    well = True
    if not options.no_plant:
        print(f"{sum(len(target.bugs) for target in targets)} planted bugs, each for both hunters:", flush=True)
        well = plant(targets, options.jobs)
    if options.minutes:
        print(f"{len(targets)} parsers, {options.minutes:g} minutes in all, guided by coverage:", flush=True)
        well = run(targets, options.minutes, options.jobs) and well
    print("all well" if well else "not well: see above")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
