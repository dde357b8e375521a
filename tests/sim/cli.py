"""The command line of the simulator."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.sim.mutations import MUTATIONS
from tests.sim.plan import KINDS, make_plan
from tests.sim.shrink import shrink
from tests.sim.world import run

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """One seed with its trace, or many with their counts; ends with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int, help="the schedule, or the first of them")
    parser.add_argument("--count", type=int, default=1, help="how many schedules, from that seed on")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failing seed")
    parser.add_argument("--trace", action="store_true", help="print what happens (one schedule)")
    parser.add_argument("--without", default="", help="numbers of faults to leave out, as 1,2")
    parser.add_argument("--shrink", action="store_true", help="leave out all faults that do not matter")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="with one thing done wrong on purpose")
    options = parser.parse_args(argv)
    if options.mutation:
        with MUTATIONS[options.mutation].applied() as lua:
            sys.exit(_many(options, lua))
    sys.exit(_many(options, None))


def _many(options: argparse.Namespace, lua: object) -> int:
    left_out = {int(n) for n in options.without.split(",") if n}
    began = time.perf_counter()
    faults: Counter[str] = Counter()
    with_fault: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    failed = steps = 0
    least = 10**9
    done = 0
    for seed in range(options.seed, options.seed + options.count):
        plan = (MUTATIONS[options.mutation].plan if options.mutation else make_plan)(seed).without(left_out)
        result = run(plan, trace=options.trace, lua=lua)  # type: ignore[arg-type]
        done += 1
        steps += result.steps
        least = min(least, result.steps)
        faults.update(result.faults)
        with_fault.update(result.faults.keys())
        counts.update(result.counts)
        if result.violations:
            failed += 1
            print(f"seed {seed}: {result.violations[0]}")
            mutation = f" --mutation {options.mutation}" if options.mutation else ""
            print(f"  replay: python -m tests.sim {seed} --trace{mutation}")
            if options.shrink:
                small = shrink(plan, lambda p: run(p, lua=lua))  # type: ignore[arg-type]
                gone = sorted(left_out | {f.number for f in plan.faults} - {f.number for f in small.faults})
                print(f"  shrunk: --without {','.join(map(str, gone))}")
                print("".join(f"    {fault}\n" for fault in small.faults), end="")
                print(f"    {small.settings} {small.limits} {small.workload}")
            if not options.keep_going:
                break
        if options.trace:
            print("\n".join(result.trace))
    seconds = time.perf_counter() - began
    print(
        f"{done} schedules, {failed} failed, {steps} events ({least} at least), {seconds:.1f} s,"
        f" {done / seconds:.1f} schedules a second"
    )
    if options.count > 1:
        print("faults:", ", ".join(f"{k} {faults[k]} (in {with_fault[k]})" for k in KINDS))
        print("counts:", ", ".join(f"{k} {n}" for k, n in sorted(counts.items())))
    return 1 if failed else 0
