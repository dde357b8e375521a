"""Many schedules over several processes, and the matrix of wrong changes; what both showed, as tables."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from tests.sim.mutations import MUTATIONS, hunt
from tests.sim.swarm import ALL_KINDS, Pairs, draw, parts_of
from tests.sim.world import run

__all__ = ["BOUND", "FIRSTS", "NEEDED", "Tally", "block", "run_many", "run_matrix"]

#: Schedules within which each wrong change must be found, from each of these seeds on.
BOUND = 300
FIRSTS = (5000, 20_000, 40_000, 60_000, 80_000)

#: Events that a schedule must have; each kind of fault must occur in one schedule of so many.
LEAST_EVENTS = 150
RAREST = 40
#: What only matters where it happens: at least once in two schedules on average.
NEEDED = (
    "acknowledged under strict",
    "from replica",
    "from near",
    "from gutter",
    "stores",
    "held commits",
    "preempted",
)
#: That says something from so many schedules on.
ENOUGH = 1000
#: Any two parts of the world must meet in so many schedules, in a run of so many.
PAIRS, ENOUGH_FOR_PAIRS = 20, 20_000

#: Schedules that a process runs between two reports, and seconds between two lines of progress.
_BLOCK = 20
_PROGRESS = 30.0


@dataclass(slots=True)
class Tally:
    """What some schedules showed. One thread uses it."""

    schedules: int = 0
    events: int = 0
    least: int = 10**9
    #: Of each kind of fault: how often it occurred, and in how many schedules.
    faults: Counter[str] = field(default_factory=Counter)
    schedules_with: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    pairs: Pairs = field(default_factory=Pairs)
    #: (seed, what was violated)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Those of another one as well."""
        self.schedules += other.schedules
        self.events += other.events
        self.least = min(self.least, other.least)
        self.faults.update(other.faults)
        self.schedules_with.update(other.schedules_with)
        self.counts.update(other.counts)
        self.pairs.seen.update(other.pairs.seen)
        self.failures = sorted([*self.failures, *other.failures])

    def complaints(self) -> list[str]:
        """What is wrong with it: schedules that failed, were too small, or too seldom had what is looked for."""
        wrong = [
            f"seed {seed}: {text}\n  replay: python -m tests.sim {seed} --trace" for seed, text in self.failures
        ]
        if self.least < LEAST_EVENTS:
            wrong.append(f"a schedule had {self.least} events only, fewer than {LEAST_EVENTS}")
        if self.schedules >= ENOUGH:
            least = self.schedules // RAREST
            wrong += [
                f"{kind} occurred in {self.schedules_with[kind]} schedules only, fewer than {least}"
                for kind in ALL_KINDS
                if self.schedules_with[kind] < least
            ]
            wrong += [
                f"{name!r} was counted {self.counts[name]:,} times only, fewer than {self.schedules // 2:,}"
                for name in NEEDED
                if self.counts[name] < self.schedules // 2
            ]
        if self.schedules >= ENOUGH_FOR_PAIRS:
            ((pair, seen), *_) = self.pairs.rarest(1)
            if seen < PAIRS:
                wrong.append(f"{' and '.join(pair)} met in {seen} schedules only, fewer than {PAIRS}")
        return wrong

    def table(self, seconds: float) -> str:
        """For people."""
        lines = [
            f"{self.schedules:,} schedules in {seconds:.0f} s: {self.schedules / seconds:.1f} a second,"
            f" {len(self.failures)} failed",
            f"{self.events:,} events: {self.events / max(self.schedules, 1):,.0f} a schedule,"
            f" {self.least:,} at least",
            f"{'kind of fault':<18}{'occurred':>10}{'schedules':>11}",
            *(f"{kind:<18}{self.faults[kind]:>10,}{self.schedules_with[kind]:>11,}" for kind in ALL_KINDS),
            "checked: " + ", ".join(f"{name} {n:,}" for name, n in sorted(self.counts.items())),
            self.pairs.table(),
        ]
        return "\n".join(lines)


def block(first: int, count: int, callers: str | None = None) -> Tally:
    """Run some schedules, to the last whatever fails. `callers` as in `draw`."""
    tally = Tally()
    for seed in range(first, first + count):
        plan = draw(seed, callers)
        result = run(plan)
        tally.schedules += 1
        tally.events += result.steps
        tally.least = min(tally.least, result.steps)
        tally.faults.update(result.faults)
        tally.schedules_with.update(result.faults.keys())
        tally.counts.update(result.counts)
        tally.pairs.add(parts_of(plan))
        if result.violations:
            tally.failures.append((seed, str(result.violations[0])))
    return tally


def _block_apart(first: int, count: int, callers: str | None) -> Tally:
    """The same in the child of a fork, where nothing is freed: to free their worlds takes an eighth of the time."""
    fork = multiprocessing.get_context("fork")
    results, ended = fork.Pipe(duplex=False)

    def work() -> None:
        gc.disable()
        ended.send(block(first, count, callers))

    child = fork.Process(target=work)
    child.start()
    ended.close()
    try:
        tally: Tally = results.recv()
    finally:
        child.join()
        results.close()
    return tally


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def _blocks(first: int, count: int) -> Iterator[tuple[int, int]]:
    for at in range(first, first + count, _BLOCK):
        yield at, min(_BLOCK, first + count - at)


def run_many(first: int, count: int, jobs: int, *, keep_going: bool = False, callers: str | None = None) -> bool:
    """`count` schedules over `jobs` processes (0: one for each core), with a table; whether all is well."""
    began = told = time.perf_counter()
    tally = Tally()
    with _pool(jobs) as pool:
        futures = [pool.submit(_block_apart, *part, callers) for part in _blocks(first, count)]
        for future in as_completed(futures):
            more = future.result()
            tally.add(more)
            for seed, text in more.failures:  # at once: who waits for the table may be cut off
                print(f"  seed {seed}: {text}", flush=True)
            now = time.perf_counter()
            if now - told > _PROGRESS:
                told = now
                rate = tally.schedules / (now - began)
                print(f"  {tally.schedules:,} of {count:,}, {rate:.1f} a second", flush=True)
            if tally.failures and not keep_going:
                pool.shutdown(cancel_futures=True)
                break
    print(tally.table(time.perf_counter() - began))
    wrong = tally.complaints()
    for text in wrong:
        print(f"FAILED: {text}")
    return not wrong


@dataclass(frozen=True, slots=True)
class _Hunt:
    """How many schedules it took to find a wrong change; `promise`: what it broke, or None: it was not found."""

    name: str
    first: int
    tried: int
    promise: str | None
    trouble: str = ""


def _hunt(name: str, first: int) -> _Hunt:
    try:
        tried, result = hunt(MUTATIONS[name], first, BOUND)
    except (AssertionError, LookupError) as error:
        return _Hunt(name, first, 0, None, str(error))
    return _Hunt(name, first, tried, result.violations[0].promise if result else None)


def run_matrix(jobs: int, names: tuple[str, ...] = (), firsts: tuple[int, ...] = FIRSTS) -> bool:
    """Each wrong change (or those named) from each seed, with a table; whether each was found within the bound."""
    chosen = [name for name in MUTATIONS if not names or name in names]
    began = time.perf_counter()
    hunts: dict[tuple[str, int], _Hunt] = {}
    width = max(map(len, chosen)) + 2
    print(f"{'wrong change':<{width}}rule" + "".join(f"{first:>7}" for first in firsts) + "  broken", flush=True)
    with _pool(jobs) as pool:
        futures: list[Future[_Hunt]] = [pool.submit(_hunt, n, f) for n in chosen for f in firsts]
        for future in as_completed(futures):
            it = future.result()
            hunts[it.name, it.first] = it
            row = [hunts[it.name, first] for first in firsts if (it.name, first) in hunts]
            if len(row) == len(firsts):
                shown = "".join(f"{it.tried if it.promise else '!' if it.trouble else '-':>7}" for it in row)
                broken = ", ".join(dict.fromkeys(it.promise for it in row if it.promise))
                print(f"{it.name:<{width}}{MUTATIONS[it.name].rule or '':>4}{shown}  {broken}", flush=True)
    found = [it for it in hunts.values() if it.promise is not None]
    print(
        f"{len(chosen)} wrong changes, {len(found)} of {len(hunts)} hunts found theirs within {BOUND} schedules:"
        f" {sum(it.tried for it in found) / max(len(found), 1):.1f} on average,"
        f" {max((it.tried for it in found), default=0)} at most; {time.perf_counter() - began:.0f} s"
    )
    lost = [it for it in hunts.values() if it.promise is None]
    for it in lost:
        print(f"FAILED: {it.name} from seed {it.first} on: {it.trouble or f'not found in {it.tried} schedules'}")
    return not lost
