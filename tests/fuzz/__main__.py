"""`make fuzz`: both hunters find every planted bug, then hunt in the library as it is.

Ends with 1 if a planted bug was not found, or a real one was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.search import search
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

#: What a hunter may spend on one planted bug.
EXAMPLES = 10_000
SECONDS = 60
#: How libFuzzer ends when a promise is broken.
_FOUND = 77
_FLAGS = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-use_value_profile=1", "-print_final_stats=1")
_BUILD = Path("build/fuzz")


def guided(target: Target, folder: Path, *flags: str, bug: int | None = None) -> subprocess.CompletedProcess[str]:
    """One run of atheris in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, "--folder", str(folder)]
    command += [] if bug is None else ["--bug", str(bug)]
    command += [*_FLAGS, f"-artifact_prefix={folder}/", *flags]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _folder(target: Target, name: str, *, fresh: bool) -> Path:
    folder = _BUILD / target.name.replace(" ", "-") / name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _by_search(target: Target, bug: int) -> str | None:
    """What Hypothesis says of a planted bug."""
    with target.bugs[bug].change():
        try:
            search(target, EXAMPLES, shrink=False)
        except Exception as error:
            return _first(error)
    return None


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:70]


def _by_coverage(target: Target, bug: int) -> str | None:
    """What atheris says of it."""
    folder = _folder(target, f"bug-{bug}", fresh=True)
    done = guided(target, folder, f"-max_total_time={SECONDS}", "-seed=1", bug=bug)
    return _words(done) if done.returncode == _FOUND else None


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """The error in what atheris printed."""
    lines = (done.stdout + done.stderr).splitlines()
    at = next((i for i, line in enumerate(lines) if "Uncaught Python exception" in line), None)
    return (lines[at + 1] if at is not None and at + 1 < len(lines) else "\n".join(lines[-15:]))[:70]


def plant(targets: Iterable[Target]) -> bool:
    """Every planted bug, by both hunters; False where one of them finds nothing."""
    well = True
    for target in targets:
        for number, bug in enumerate(target.bugs):
            for hunter, hunt in (("Hypothesis", _by_search), ("atheris", _by_coverage)):
                began = time.monotonic()
                found = hunt(target, number)
                took = time.monotonic() - began
                print(
                    f"  {target.name:15} {bug.name:36} {hunter:10} {took:5.1f} s  {found or 'NOT FOUND'}",
                    flush=True,
                )
                well = well and found is not None
    return well


def run(targets: list[Target], minutes: float, jobs: int) -> bool:
    """Hunt for so long in all, the time shared; what was found stays in build/fuzz."""
    seconds = max(5, round(minutes * 60 / len(targets)))

    def one(target: Target) -> bool:
        folder = _folder(target, "run", fresh=False)
        done = guided(target, folder, f"-max_total_time={seconds}")
        stats = dict(
            line.removeprefix("stat::").split(":", 1)
            for line in done.stderr.splitlines()
            if line.startswith("stat::")
        )
        coverage = [part.split()[0] for part in done.stderr.split(" cov: ")[1:]]
        inputs = f"{int(stats.get('number_of_executed_units', 0)):>9,} inputs, {(coverage or ['?'])[-1]:>5} places"
        outcome = "no crash" if done.returncode == 0 else f"FOUND: {_words(done)} (in {folder})"
        print(f"  {target.name:15} {seconds:4} s {inputs}  {outcome}", flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(one, targets)))


def main() -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (all)")
    parser.add_argument("--minutes", type=float, default=10, help="to hunt in all (10)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (1)")
    parser.add_argument("--no-plant", action="store_true", help="leave the planted bugs out")
    options = parser.parse_args()
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}")
    targets = [TARGETS[name] for name in options.targets or TARGETS]
    well = True
    if not options.no_plant:
        print(f"{sum(len(target.bugs) for target in targets)} planted bugs, each found by both hunters:")
        well = plant(targets)
    if options.minutes:
        print(f"{len(targets)} parsers, {options.minutes:g} minutes in all, guided by coverage:")
        well = run(targets, options.minutes, options.jobs) and well
    print("all well" if well else "not well: see above")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
