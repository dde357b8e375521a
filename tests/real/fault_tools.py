"""What the tests of figures under faults share: processes that call all the time.

Times are of the monotonic clock, which is one for the whole machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.nursery import Program

from evercache import Cache
from evercache.ops.meter import Overslept
from evercache.ops.stalls import Stalls

__all__ = ["Call", "Caller", "Job", "Seen", "callers"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a process does: `readers` threads (or tasks) read the keys over and over, one perhaps invalidates.

    `seconds` is what the function takes. It returns how many marks (lines on the input) there were: so what was
    cached before a mark is told from what is computed afterwards. `writes`: invalidate a tag of its own meanwhile.
    """

    url: str
    tasks: bool = False
    readers: int = 4
    keys: int = 20
    seconds: float = 0.0
    pause: float = 0.002
    writes: bool = False
    write_pause: float = 0.005
    cache: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its value is from after so many marks (`version`), `old` when there were more; `error` in words."""

    key: int
    began: float
    ended: float
    version: int
    old: bool
    error: str


class Seen:
    """What one process saw."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.calls = sorted((Call(*call) for call in raw["calls"]), key=lambda call: call.ended)
        self.runs: list[tuple[int, float]] = [tuple(run) for run in raw["runs"]]
        self.writes: list[tuple[float, float, bool]] = [tuple(write) for write in raw["writes"]]
        self.counters: dict[str, int] = raw["counters"]
        self._stalls = Stalls([Overslept(*one) for one in raw["stalls"]])

    @property
    def errors(self) -> list[str]:
        return [call.error for call in self.calls if call.error]

    def stalled(self, begin: float, end: float) -> float:
        """How long the process did not run when it wanted to."""
        return self._stalls.within(begin, end)

    def product(self, begin: float, end: float) -> float:
        """The length of an interval (seconds) without the process's stalls."""
        return self._stalls.without(begin, end)

    def longest_gap(self, since: float, until: float) -> float:
        """Between two answers, without stalls."""
        ends = [since, *(call.ended for call in self.calls if since < call.ended < until), until]
        gaps = [self.product(one, two) for one, two in itertools.pairwise(ends) if two - one > 0.02]
        return max(gaps, default=0.0)

    def slowest(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest call that began in a time, without stalls."""
        late = [call for call in self.calls if since <= call.began < until and call.ended - call.began > 0.02]
        return max((self.product(call.began, call.ended) for call in late), default=0.0)

    def first_old(self, since: float) -> Call:
        """The first answer from the servers' old data of a call that ended after a moment."""
        return next(call for call in self.calls if call.old and call.ended > since)


class Caller:
    """A process that does a job until it is told to end; `mark` lines change what is old."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process = Program("tests.real.fault_tools:main", json.dumps(asdict(job)), stderr=subprocess.PIPE)

    def _ask(self, line: str) -> str:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the caller ended: {self.process.communicate(timeout=5)[1][-3000:]}")
        return answer.strip()

    def warm(self) -> None:
        """Every key is cached."""
        assert self._ask("warm") == "warm"

    def go(self) -> None:
        """Begin to call."""
        assert self._ask("go") == "go"

    def mark(self) -> None:
        """What is computed from now on is new."""
        assert self._ask("mark") == "mark"

    def sweep(self) -> int:
        """Call for every key once; how many came from the servers' old data."""
        return int(self._ask("sweep"))

    def end(self) -> Seen:
        """Stop calling: what it saw."""
        return Seen(json.loads(self._ask("end")))

    def close(self) -> None:
        """End the process, if it still runs."""
        if self.process.poll() is None:
            self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        self.process.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait(10)


@contextlib.contextmanager
def callers(*jobs: Job) -> Iterator[list[Caller]]:
    """Several processes, warm and calling, that are gone at the end."""
    every: list[Caller] = []
    try:
        every += [Caller(job) for job in jobs]
        for one in every:
            one.warm()
        for one in every:
            one.go()
        yield every
    finally:
        for one in every:
            one.close()


# -- in the process


class _Work:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.cache = Cache(job.url, **{"namespace": "faults", "default_ttl": 600, "beta": 0, **job.cache})
        self.over = threading.Event()
        self.marked = 0
        self.calls: list[tuple[int, float, float, int, bool, str]] = []
        self.runs: list[tuple[int, float]] = []
        self.writes: list[tuple[float, float, bool]] = []
        # Threads and tasks have entries of their own: one would hide what the other computes.
        name = "tasks" if job.tasks else "threads"
        self.page = self.cache.cached(name=f"{name}.page")(self.compute)
        self.apage = self.cache.cached(name=f"{name}.page")(self.acompute)

    def compute(self, key: int) -> tuple[int, int]:
        self.runs.append((key, time.monotonic()))
        time.sleep(self.job.seconds)
        return self.marked, os.getpid()

    async def acompute(self, key: int) -> tuple[int, int]:
        self.runs.append((key, time.monotonic()))
        await asyncio.sleep(self.job.seconds)
        return self.marked, os.getpid()

    def note(self, key: int, began: float, value: Any) -> bool:
        error = repr(value) if isinstance(value, BaseException) else ""
        version = self.marked if error else value[0]
        self.calls.append((key, began, time.monotonic(), version, version < self.marked, error))
        return version < self.marked

    def call(self, key: int) -> bool:
        began = time.monotonic()
        try:
            value: Any = self.page(key)
        except Exception as error:
            value = error
        return self.note(key, began, value)

    async def acall(self, key: int) -> bool:
        began = time.monotonic()
        try:
            value: Any = await self.apage(key)
        except Exception as error:
            value = error
        return self.note(key, began, value)

    def read(self, number: int) -> None:
        while not self.over.is_set():
            self.call(number % self.job.keys)
            number += 1
            time.sleep(self.job.pause)

    async def aread(self, number: int) -> None:
        while not self.over.is_set():
            await self.acall(number % self.job.keys)
            number += 1
            await asyncio.sleep(self.job.pause)

    def write(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            ack = self.cache.invalidate_tag(f"w{os.getpid()}")
            self.writes.append((began, time.monotonic(), bool(ack) and not ack.queued))
            time.sleep(self.job.write_pause)

    async def awrite(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            ack = await self.cache.ainvalidate_tag(f"w{os.getpid()}")
            self.writes.append((began, time.monotonic(), bool(ack) and not ack.queued))
            await asyncio.sleep(self.job.write_pause)

    async def aloop(self) -> None:
        writers = [self.awrite()] if self.job.writes else []
        await asyncio.gather(*(self.aread(number) for number in range(self.job.readers)), *writers)

    def start(self) -> list[threading.Thread]:
        targets: list[Any] = [lambda: asyncio.run(self.aloop())] if self.job.tasks else []
        if not self.job.tasks:
            targets += [lambda number=number: self.read(number) for number in range(self.job.readers)]
            targets += [self.write] if self.job.writes else []
        threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in threads:
            thread.start()
        return threads

    def every(self) -> int:
        """Call once for each key; how many gave old data."""
        keys = range(self.job.keys)

        async def all_tasks() -> int:
            return sum([await self.acall(key) for key in keys])

        return asyncio.run(all_tasks()) if self.job.tasks else sum(self.call(key) for key in keys)

    def warm(self) -> None:
        """Until two rounds run the function no more."""
        end = time.monotonic() + 20
        quiet = 0
        while quiet < 2:
            before = len(self.runs)
            self.every()
            quiet = quiet + 1 if len(self.runs) == before else 0
            if time.monotonic() > end:
                raise TimeoutError(f"not warm: {self.cache.health()}")
        self.calls.clear()
        self.runs.clear()

    def found(self, stalls: Stalls) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "runs": self.runs,
            "writes": self.writes,
            "counters": asdict(self.cache.stats().counters),
            "stalls": stalls.overslept,
        }


def main() -> None:
    """Entry of the process: one answer for each line of the input."""
    work = _Work(Job(**json.loads(sys.argv[1])))
    threads: list[threading.Thread] = []
    with Stalls() as stalls:
        for line in sys.stdin:
            answer = line.strip()
            match answer:
                case "warm":
                    work.warm()
                case "go":
                    threads = work.start()
                case "mark":
                    work.marked += 1
                case "sweep":
                    answer = str(work.every())
                case "end":
                    work.over.set()
                    for thread in threads:
                        thread.join()
                    answer = json.dumps(work.found(stalls))
            print(answer, flush=True)
    work.over.set()
    work.cache.close()


if __name__ == "__main__":
    main()
