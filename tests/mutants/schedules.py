"""The schedules that a mutant has to pass: `python -m tests.mutants.schedules FILE`, with their names in the file.

Those of the first seeds, and for each known wrong change one of the kind in which it shows soonest (`tests/sim`).
Ends with 1 at the first that breaks a promise. With MUTANTS_REACH it writes there what each of them reaches.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
import time
from pathlib import Path

from tests.mutants.recorder import Map, import_all
from tests.sim.mutations import MUTATIONS
from tests.sim.plan import Plan, make_plan
from tests.sim.world import run

__all__ = ["SEEDS", "names"]

SEEDS = 60
#: The seed of those that are made for a wrong change.
HUNTED = 5000
#: Seconds after which a schedule counts as hung; one takes a fifth of a second of an idle processor.
LONGEST = 120.0


def names() -> list[str]:
    """All schedules."""
    return [f"seed-{seed}" for seed in range(1, SEEDS + 1)] + [f"hunt-{name}" for name in sorted(MUTATIONS)]


def _plan(name: str) -> Plan:
    kind, _, rest = name.partition("-")
    return make_plan(int(rest)) if kind == "seed" else MUTATIONS[rest].plan(HUNTED)


def main(file: str) -> int:
    """Run them in their order."""
    target = os.environ.get("MUTANTS_REACH")
    reach = Map(os.environ["MUTANTS_MAP"]) if target else None
    import_all()
    kept = {"imports": sorted(reach.taken()) if reach else [], "files": (files := dict[str, object]())}
    for name in Path(file).read_text().split():
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        print(f"now {name}", flush=True)
        began = time.perf_counter()
        result = run(_plan(name))
        gc.collect(0)
        if reach:
            files[name] = {
                "reached": sorted(reach.taken()),
                "seconds": round(time.perf_counter() - began, 3),
                "passed": not result.violations,
            }
        elif result.violations:
            print(f"violated {result.violations[0]}")
            return 1
    faulthandler.cancel_dump_traceback_later()
    if target:
        Path(target).write_text(json.dumps(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
