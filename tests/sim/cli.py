"""The command line of the simulator."""

from __future__ import annotations

import argparse
import contextlib
import sys

from tests.sim.mutations import MUTATIONS
from tests.sim.runner import run_many, run_matrix
from tests.sim.shrink import shrink
from tests.sim.swarm import draw
from tests.sim.world import run

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """One seed with its trace, or many with their counts; ends with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int, help="the schedule, or the first of them")
    parser.add_argument("--count", type=int, default=1, help="how many schedules, from that seed on")
    parser.add_argument("--jobs", type=int, default=0, help="over so many processes (0: one for each core)")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failing seed")
    parser.add_argument("--matrix", action="store_true", help="then look for every wrong change, from five seeds")
    parser.add_argument("--callers", choices=("threads", "tasks"), help="in every process; default: as drawn")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--without", default="", help="numbers of faults to leave out, as 1,2")
    parser.add_argument("--shrink", action="store_true", help="leave out all faults that do not matter")
    parser.add_argument(
        "--mutation", metavar="NAME", choices=sorted(MUTATIONS), help="with one thing done wrong on purpose"
    )
    options = parser.parse_args(argv)
    alone = options.trace or options.without or options.shrink or options.mutation or options.count == 1
    if options.count and alone:
        well = _one_by_one(options)
    else:
        well = not options.count or run_many(
            options.seed,
            options.count,
            options.jobs,
            keep_going=options.keep_going,
            callers=options.callers,
        )
    if options.matrix:
        well = run_matrix(options.jobs, (options.mutation,) if options.mutation else ()) and well
    sys.exit(0 if well else 1)


def _one_by_one(options: argparse.Namespace) -> bool:
    left_out = {int(n) for n in options.without.split(",") if n}
    mutation = MUTATIONS[options.mutation] if options.mutation else None
    well = True
    with mutation.applied() if mutation else contextlib.nullcontext() as lua:
        for seed in range(options.seed, options.seed + options.count):
            plan = mutation.plan(seed) if mutation else draw(seed, options.callers)
            plan = plan.without(left_out)
            result = run(plan, trace=options.trace, lua=lua)
            if options.trace:
                print("\n".join(result.trace))
            print(f"seed {seed}: {result.violations[0] if result.violations else 'well'}, {result.steps} events")
            if not result.violations:
                continue
            well = False
            wrong = f" --mutation {options.mutation}" if mutation else ""
            wrong += f" --callers {options.callers}" if options.callers else ""
            print(f"  replay: python -m tests.sim {seed} --trace{wrong}")
            if options.shrink:
                small = shrink(plan, lambda p: run(p, lua=lua))
                gone = sorted(left_out | {f.number for f in plan.faults} - {f.number for f in small.faults})
                print(f"  shrunk: --without {','.join(map(str, gone))}")
                print("".join(f"    {fault}\n" for fault in small.faults), end="")
                print(f"    {small.settings} {small.limits} {small.servers} {small.workload}")
            if not options.keep_going:
                break
    return well
