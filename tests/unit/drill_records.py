"""Records of a drill that never was, with the troubles that a test wants to see in the report."""

from __future__ import annotations

import random

from evercache.ops.drill.measure import Phases
from evercache.ops.drill.records import EDITED, KEYS, Failure, Written
from evercache.ops.meter import Call, Edit, Overslept, Run

__all__ = ["EMPTY", "PHASES", "sound"]

#: A master that is killed at 100, replaced at 101.5 and put back at 105.
PHASES = Phases(98.0, 100.0, 100.02, 105.0, 115.0, 117.0, promotes=True, promoted=101.5, dying=True)
EMPTY = Phases(0.0, 1.0, 1.0, 2.0, 3.0, 4.0)
_MADE = 10_000_000


def sound(phases: Phases = PHASES, per_second: int = 100) -> Written:
    """Reads that take 1 ms, one in ten of them computed in 5 ms; ten changes a second, queued without a master."""
    rng, written = random.Random(7), Written()
    moment, number = phases.began, 0
    away = phases.promoted if phases.promoted is not None else phases.fault
    while moment < phases.ended:
        number += 1
        key, made = rng.randrange(EDITED, KEYS), 2 * _MADE + number
        if number % 10 == 0:
            written.runs.append(Run(key, made, moment, moment + 0.005))
            written.calls.append(Call(key, moment, moment + 0.006, 1, made, True, 2))
            changed, done = number // 10 % EDITED, moment + 0.002
            written.calls.append(Call(changed, moment, done, -1, -1, False, 2))
            waits = phases.fault <= done < away
            written.edits.append(Edit(changed, number, away + 0.01 if waits else done, not waits))
        else:
            written.calls.append(Call(key, moment, moment + 0.001, 1, 5, False, 2))
        moment += 1 / per_second
    return written


def with_failures(written: Written, moment: float, count: int) -> Written:
    """The same, and errors."""
    written.failures += [Failure(moment, "read: TimeoutError: no answer")] * count
    return written


def with_noise(written: Written, due: float, woke: float) -> Written:
    """The same, on a machine that stood still for a while."""
    written.overslept.append(Overslept(due, woke))
    return written


def with_slow_call(written: Written) -> Written:
    """The same, and a read of 0.4 s during the fault."""
    written.calls.append(Call(300, 102.0, 102.4, 1, 5, False, 2))
    return written
