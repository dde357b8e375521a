"""The command: the matrix, the failovers, the soak. What they saw goes into docs/faults.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.faults import report
from tests.faults.fleet import LOADS
from tests.faults.judge import Figures
from tests.faults.matrix import FULL, QUICK, run_all
from tests.faults.repeated import failovers, soak

# The list is complete when the families have been imported.
from tests.faults.catalog import CATALOG  # isort: skip

__all__ = ["main"]


def line(figures: Figures, took: float) -> None:
    """One cell, on the console."""
    ms = 1000
    print(
        f"{'kept  ' if figures.kept else 'BROKEN'} {figures.fault:36} {figures.load:8}"
        f" beyond {figures.beyond * ms:4.0f} ({figures.beyond_raw * ms:4.0f}) ms"
        f" stale {figures.stale * ms:4.0f} ms lost {figures.lost} errors {figures.exceptions} hung {figures.hung}"
        f" reads {figures.reads_in_fault} hits {figures.hits_in_fault:4.0%} pause {figures.pause * ms:3.0f} ms"
        f" noise {figures.noise * ms:3.0f} ms"
        + (f" promoted +{figures.promoted * ms:.0f} ms" if figures.promoted is not None else "")
        + (f" last moments {figures.stale_last * ms:.0f} ms" if figures.stale_last else "")
        + (f" cut off {figures.stale_cut_off * ms:.0f} ms" if figures.stale_cut_off else "")
        + f" ({took:.1f} s)",
        flush=True,
    )
    for breach in figures.breaches:
        print(f"       - {breach}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("matrix", "failovers", "soak", "list"), default="matrix")
    parser.add_argument("--only", action="append", help="faults whose name contains this")
    parser.add_argument("--load", action="append", choices=LOADS, help="one kind of load; again for more")
    parser.add_argument("--turns", action="store_true", help="each fault under one load only, by turns")
    parser.add_argument("--quick", action="store_true", help="a short form; nothing is written")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--seed", type=int, default=1, help="of the soak")
    parser.add_argument("--planned", type=int, default=20)
    parser.add_argument("--unplanned", type=int, default=20)
    parser.add_argument("--no-report", action="store_true", help="do not touch docs/faults.md")
    given = parser.parse_args(arguments)
    writes = not (given.quick or given.no_report)
    match given.what:
        case "list":
            print("\n".join(f"{name}: {fault.what}" for name, fault in CATALOG.items()))
            return 0
        case "failovers":
            return _failovers((given.load or ["threads"])[0], given.planned, given.unplanned, writes)
        case "soak":
            return _soak((given.load or ["threads"])[0], given.minutes, given.seed, given.only or (), writes)
    names = [n for n in CATALOG if not given.only or any(part in n for part in given.only)]

    def one_more(cell: Figures, took: float) -> None:
        line(cell, took)
        if writes:
            report.write_matrix([cell])

    timing, loads = QUICK if given.quick else FULL, given.load or LOADS
    figures = []
    for number, name in enumerate(names):
        chosen = [loads[number % len(loads)]] if given.turns else loads
        figures += run_all([name], chosen, timing, one_more)
    return int(not all(one.kept for one in figures))


def _say(text: str) -> None:
    print(text, flush=True)


def _failovers(load: str, planned: int, unplanned: int, writes: bool) -> int:
    figures = failovers(load, planned, unplanned, _say)
    line(figures, 0.0)
    if writes:
        report.write_section("failovers", report.summary([figures]) + "\n" + report.table([figures]))
    return int(not figures.kept)


def _soak(load: str, minutes: float, seed: int, only: Sequence[str], writes: bool) -> int:
    soaked = soak(minutes, load, seed, _say, only)
    line(soaked.figures, soaked.seconds)
    text = report.growth_table(soaked)
    print(text)
    if writes and not only:
        report.write_section(
            "soak", report.summary([soaked.figures]) + "\n" + report.table([soaked.figures]) + "\n" + text
        )
    return int(not soaked.kept)
