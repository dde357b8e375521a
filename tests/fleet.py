"""Processes that use one cache together, for tests: what each saw comes back as records.

`Truth` is what a database would be: a number in memory shared by all. Times are of the monotonic clock, which
is one for the whole machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evercache import Cache
from evercache.ops.meter import Noise
from evercache.ops.stalls import NAP, Stalls
from evercache.ops.versions import Versions
from tests.nursery import Program

__all__ = ["Plan", "Ran", "Truth", "Worker", "run_plan", "start_together", "truth", "worker"]

#: A caller that reads over and over pauses for so long (s).
PAUSE = 0.004
ROOT = Path(__file__).resolve().parents[1]


class Truth(Versions):
    """Numbered slots, each a version; and a list of runs."""

    SLOTS = 4096

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, self.SLOTS)
        self.folder = folder

    def ran(self, key: str) -> None:
        """Note one run of a function; one short write that is appended whole."""
        with (self.folder / "runs").open("ab", buffering=0) as file:
            file.write(f"{key} {os.getpid()} {time.monotonic():.6f}\n".encode())

    def runs(self) -> list[Ran]:
        """All runs so far."""
        path = self.folder / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Ran(key, int(pid), float(at)) for key, pid, at in (line.split() for line in lines)]


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a function."""

    key: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What one worker process does: `callers` threads (or tasks) call `f(key)`, one key every `step` seconds.

    With `reading` seconds the callers read all keys over and over instead, and note each read.
    """

    url: str
    folder: str
    keys: tuple[str, ...]
    seconds: float = 0.01
    callers: int = 8
    tasks: bool = False
    step: float = 0.0
    reading: float = 0.0
    slot_of: tuple[int, ...] = ()
    options: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None


def run_plan(plan: Plan) -> list[dict[str, Any]]:
    """In the worker: do it, and return a record for each call.

    `stalled` of a record is for how long (s) of the second before it this process did not run when it wanted to.
    """
    truth = Truth(Path(plan.folder))
    cache = Cache(plan.url, **{"namespace": "fleet", **(plan.cache or {})})
    slots = dict(zip(plan.keys, plan.slot_of, strict=False))
    options = {"ttl": 600, **(plan.options or {})}
    records: list[dict[str, Any]] = []
    begin = 0.0

    def work(key: str) -> tuple[str, int, int]:
        truth.ran(key)
        half = plan.seconds / 2
        time.sleep(half)
        version = truth[slots.get(key, 0)]
        time.sleep(half)
        return key, version, os.getpid()

    async def awork(key: str) -> tuple[str, int, int]:
        truth.ran(key)
        half = plan.seconds / 2
        await asyncio.sleep(half)
        version = truth[slots.get(key, 0)]
        await asyncio.sleep(half)
        return key, version, os.getpid()

    # Both kinds of callers, and workers of other plans, share their entries.
    options["name"] = "tests.fleet.work"
    sync_f = cache.cached(**options)(work)
    async_f = cache.cached(**options)(awork)
    sync_f.peek("warm-up")  # the connections are there before the race begins

    def note(key: str, began: float, value: Any, error: BaseException | None) -> None:
        records.append(
            {
                "key": key,
                "began": began,
                "ended": time.monotonic(),
                "version": value[1] if value else None,
                "pid": value[2] if value else None,
                "error": repr(error) if error else None,
            }
        )

    def call(key: str) -> None:
        began, value, error = time.monotonic(), None, None
        try:
            value = sync_f(key)
        except Exception as caught:
            error = caught
        note(key, began, value, error)

    async def acall(key: str) -> None:
        began, value, error = time.monotonic(), None, None
        try:
            value = await async_f(key)
        except Exception as caught:
            error = caught
        note(key, began, value, error)

    def starts() -> Iterator[tuple[str, float]]:
        for number, key in enumerate(plan.keys):
            yield key, begin + number * plan.step

    async def all_tasks() -> None:
        if plan.reading:
            end = begin + plan.reading

            async def read(number: int) -> None:
                position = number
                while time.monotonic() < end:
                    await acall(plan.keys[position % len(plan.keys)])
                    position += 1
                    await asyncio.sleep(PAUSE)

            await asyncio.gather(*(read(number) for number in range(plan.callers)))
            return

        async def at(key: str, start: float) -> None:
            await asyncio.sleep(max(0.0, start - time.monotonic()))
            await acall(key)

        await asyncio.gather(*(at(key, start) for key, start in starts() for _ in range(plan.callers)))

    def thread(number: int) -> None:
        if plan.reading:
            position = number
            while time.monotonic() < begin + plan.reading:
                call(plan.keys[position % len(plan.keys)])
                position += 1
                time.sleep(PAUSE)
            return
        for key, start in starts():
            time.sleep(max(0.0, start - time.monotonic()))
            call(key)

    with Stalls(noise=NAP) as stalls:
        print("ready", flush=True)
        begin = float(sys.stdin.readline())
        if plan.tasks:
            asyncio.run(all_tasks())
        else:
            threads = [threading.Thread(target=thread, args=(number,)) for number in range(plan.callers)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
    cache.close()
    noise = Noise(stalls.overslept)
    for record in records:
        record["stalled"] = noise.within(record["began"] - 1.0, record["began"])
    return records


class Worker:
    """One process at work."""

    def __init__(self, plan: Plan) -> None:
        self.process = Program("tests.fleet:main", json.dumps(asdict(plan)), stderr=subprocess.PIPE)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> None:
        """Until it has its connections."""
        line = self.process.stdout.readline()
        if line.strip() != "ready":
            raise RuntimeError(f"the worker did not start: {line}{self.process.communicate()[1]}")

    def go(self, begin: float) -> None:
        """Let it begin at a moment of the monotonic clock."""
        self.process.stdin.write(f"{begin}\n")
        self.process.stdin.flush()

    def records(self, timeout: float = 90.0) -> list[dict[str, Any]]:
        """What it saw, once it has ended by itself."""
        out, err = self.process.communicate(timeout=timeout)
        if self.process.returncode:
            raise RuntimeError(f"the worker ended with {self.process.returncode}: {err[-3000:]}")
        found: list[dict[str, Any]] = json.loads(out.splitlines()[-1])
        return found

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def worker(plan: Plan) -> Iterator[Worker]:
    """A worker that is gone at the end."""
    one = Worker(plan)
    try:
        yield one
    finally:
        one.end()


def start_together(*workers: Worker) -> float:
    """Let several begin at one moment, which is returned, once all have their connections."""
    for each in workers:
        each.wait_ready()
    begin = time.monotonic() + 0.2
    for each in workers:
        each.go(begin)
    return begin


@contextlib.contextmanager
def truth() -> Iterator[Truth]:
    """A truth in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="evercache-fleet-") as folder:
        yield Truth(Path(folder))


def main() -> None:
    """Entry of the worker process."""
    raw = json.loads(sys.argv[1])
    raw["keys"], raw["slot_of"] = tuple(raw["keys"]), tuple(raw["slot_of"])
    print(json.dumps(run_plan(Plan(**raw))))


if __name__ == "__main__":
    main()
