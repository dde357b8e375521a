"""Instructions that one hit takes in the thread that calls, counted by callgrind: slow, but without noise.

Counting is switched on between two hits and off again, so that only hits are counted; the two switches are
taken away by a second count of fewer hits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["counts", "per_hit", "per_hit_of_tasks"]

#: Runs under valgrind: patient with the servers, since everything takes long.
_HEAD = """
import os, subprocess, sys, time
from evercache import Cache
from evercache.client._sync import hits
from evercache.protocol import balance
from evercache.topology import replicas

# Here a read takes a hundred times as long as usual: what counts as quick must do so too.
balance.NOISE = hits.NOISE = replicas.NOISE = 100 * balance.NOISE

def switch(way):
    subprocess.run(["callgrind_control", "-i", way, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)

url, calls = sys.argv[1], int(sys.argv[2])
patient = {"namespace": "bench", "budget": 30, "max_staleness": 30, "hedge": 0}
"""

#: One thread.
_THREAD = """
from benchmarks.peers.blocking import cached_product
with Cache(url, **patient) as cache:
    read = cached_product(cache)
    for turn in range(100):
        read(7)
        if turn < 30:
            time.sleep(0.1)  # until replicas are admitted
    before = read.stats().counters.computed
    switch("on")
    for _ in range(calls):
        read(7)
    switch("off")
    if read.stats().counters.computed != before:
        sys.exit("a call did not hit")
"""
#: Tasks of one loop, all at once: of the cache, or of the bare protocol, which finds the entries of the cache.
_TASKS = """
import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from benchmarks.peers import tasks
from evercache.client._async import hits as async_hits

who, number, async_hits.NOISE = sys.argv[3], int(sys.argv[4]), balance.NOISE

@asynccontextmanager
async def ours():
    async with Cache(url, **patient) as cache:
        read = cache.cached(ttl=tasks.TTL, name="product")(tasks.AsyncProduct().coroutine)
        for n in tasks.NUMBERS:
            await read(n)
        await asyncio.sleep(1)  # until the tail is sure
        runs = read.stats().counters.computed
        yield read
        if read.stats().counters.computed != runs:
            sys.exit("a call did not hit")

async def main():
    server = SimpleNamespace(url=url, port=int(url.rsplit(":", 1)[1]))
    async with ours() if who == "ours" else tasks.FLOOR.open(server) as read:
        async def turn():
            await (read(7) if number == 1 else asyncio.gather(*[read(n) for n in range(number)]))
        for _ in range(30):
            await turn()
        switch("on")
        for _ in range(calls // number):
            await turn()
        switch("off")

asyncio.run(main())
"""
FEW, MANY = 128, 896


def per_hit(url: str) -> float:
    """Instructions for one hit of one thread at this URL. RuntimeError when valgrind fails."""
    return _per_call(_THREAD, url)


def per_hit_of_tasks(url: str, who: str, number: int) -> float:
    """The same for so many tasks at once (a divisor of 128), with the tasks themselves: `who` is "ours" or the
    "floor", which finds what ours stored."""
    return _per_call(_TASKS, url, who, str(number))


def counts(each: Mapping[str, Callable[[], float]], notes: list[str]) -> dict[str, float]:
    """The counts by name; where that is not possible, a note of why."""
    if not sys.platform.startswith("linux") or shutil.which("valgrind") is None:
        notes.append("instructions not counted: no valgrind on this machine")
        return {}
    counted = {}
    for name, count in each.items():
        try:
            counted[name] = count()
        except (OSError, RuntimeError) as error:
            notes.append(f"instructions not counted: {error}")
    return counted


def _per_call(code: str, url: str, *arguments: str) -> float:
    few, many = (_total(code, url, str(calls), *arguments) for calls in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _total(code: str, *arguments: str) -> int:
    """Instructions of the main thread of a process that runs this."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        tool = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--instr-atstart=no"]
        done = subprocess.run(
            [*tool, f"--callgrind-out-file={out}", sys.executable, "-c", _HEAD + code, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=False,
        )
        totals = [_summary(path) for path in sorted(Path(folder).glob("counts*-01"))]
        if done.returncode or not totals:
            said = [line for line in done.stderr.splitlines() if not line.startswith("==")]
            raise RuntimeError((said or ["valgrind failed"])[-1])
        return sum(totals)


def _summary(path: Path) -> int:
    line = next(one for one in path.read_text().splitlines() if one.startswith("totals:"))
    return int(line.split()[1])
