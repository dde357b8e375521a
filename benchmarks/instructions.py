"""Instructions that one hit takes in the thread that calls, counted by callgrind: slow, but without noise.

Counting is switched on between two hits and off again, so that only hits are counted; the two switches are
taken away by a second count of fewer hits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["per_hit"]

#: Runs under valgrind: patient with the servers, since everything takes long.
_CODE = """
import os, subprocess, sys, time
from benchmarks.peers.blocking import cached_product
from evercache import Cache
from evercache.client._sync import hits
from evercache.protocol import balance
from evercache.topology import replicas

# Here a read takes a hundred times as long as usual: what counts as quick must do so too.
balance.NOISE = hits.NOISE = replicas.NOISE = 100 * balance.NOISE

def switch(way):
    subprocess.run(["callgrind_control", "-i", way, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)

url, calls = sys.argv[1], int(sys.argv[2])
with Cache(url, namespace="bench", budget=30, max_staleness=30, hedge=0) as cache:
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
FEW, MANY = 100, 900


def per_hit(url: str) -> float:
    """Instructions for one hit at this URL. RuntimeError when valgrind fails."""
    return (_total(url, MANY) - _total(url, FEW)) / (MANY - FEW)


def _total(url: str, calls: int) -> int:
    """Instructions of the main thread of a process that hits so often."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        tool = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--instr-atstart=no"]
        done = subprocess.run(
            [*tool, f"--callgrind-out-file={out}", sys.executable, "-c", _CODE, url, str(calls)],
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
