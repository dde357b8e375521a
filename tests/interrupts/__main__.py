"""`make interrupts`: exceptions at random moments in every operation, on a primary and a replica.

A second process invalidates beside it. After each burst everything must be released within a second, no value may
be older than an acknowledged invalidation, and the next calls must be hits. Ends with 1, and the seed, otherwise.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.interrupts.blocking import Blocking
from tests.interrupts.checks import Failed
from tests.interrupts.tasks import Tasks
from tests.interrupts.truth import Truth
from tests.server import Server, find_server

__all__ = ["main"]

WAYS = {"threads": Blocking, "tasks": Tasks}


def _one(url: str, way: str, seed: int, count: int, seconds: float) -> bool:
    """One seed in this process; whether all was well."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth"
        truth = Truth(path)
        beside = subprocess.Popen(
            [sys.executable, "-m", "tests.interrupts.beside", url, str(path)], stdin=subprocess.PIPE
        )
        began = time.monotonic()
        work = WAYS[way](url, truth, seed)
        try:
            raised, slowest = work.run(count, began + seconds)
            print(f"{way} seed {seed}: {raised} exceptions, clean after {slowest:.2f} s at most", flush=True)
            return True
        except (Failed, SystemExit) as error:
            work.alarms.disarm()
            print(f"{way} seed {seed}: after {work.alarms.raised} exceptions: {error}", flush=True)
            return False
        finally:
            work.alarms.disarm()
            assert beside.stdin is not None
            beside.stdin.close()
            try:
                beside.wait(10)
            except subprocess.TimeoutExpired:
                beside.kill()


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.interrupts", description=__doc__)
    parser.add_argument("ways", nargs="*", default=["threads", "tasks"], help="threads, tasks")
    parser.add_argument("--count", type=int, default=20_000, help="exceptions for each seed")
    parser.add_argument("--seconds", type=float, default=600, help="at most, for each seed")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--url", help="of a deployment; else a primary and a replica are started")
    options = parser.parse_args()
    logging.getLogger("evercache").setLevel(logging.CRITICAL)
    if options.url:
        (way,), (seed,) = options.ways, options.seeds
        faulthandler.dump_traceback_later(options.seconds + 60, exit=True)
        well = _one(options.url, way, seed, options.count, options.seconds)
        sys.stdout.flush()
        os._exit(0 if well else 1)  # a thread that is stuck must not keep it
    kind = "valkey" if find_server("valkey") else "redis7"
    failed = 0
    with Server.start(kind) as primary, Server.start(kind, replica_of=primary) as replica:
        url = f"redis://127.0.0.1:{primary.port}?replicas=127.0.0.1:{replica.port}"
        for way in options.ways:
            for seed in options.seeds:
                command = [sys.executable, "-m", "tests.interrupts", way, "--url", url, "--seeds", str(seed)]
                command += ["--count", str(options.count), "--seconds", str(options.seconds)]
                failed += subprocess.run(command, check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
