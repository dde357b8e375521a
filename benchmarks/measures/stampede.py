"""A stampede: four processes of fifty threads call one key at once that is not cached."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from tests.servers import Server

from benchmarks.harness import Scale
from benchmarks.results import Figure, Result, Table, Target
from evercache import Cache

TITLE = "A stampede: 4 x 50 threads on one cold key, a function of 100 ms"
PROCESSES, THREADS, RUNS = 4, 50, 20
COMPUTES = 0.1
LIMIT_MS = 60.0


def crowd(url: str, pipe: Connection) -> None:
    """One process: for each number and moment that comes, fifty threads call then. Answers (runs, waits)."""
    runs: list[int] = []

    with Cache(url, namespace="bench") as cache:

        @cache.cached(ttl=60, name="slow")
        def slow(number: int) -> int:
            runs.append(number)
            time.sleep(COMPUTES)
            return number

        gate = threading.Barrier(THREADS + 1)
        task: list[Any] = [0, 0.0]
        waits = [0.0] * THREADS
        wrong: list[Any] = []

        def work(me: int) -> None:
            while True:
                gate.wait()
                number, at = task
                if number is None:
                    return
                time.sleep(max(0.0, at - time.monotonic()))
                # From when it really began: waking 200 threads on a few cores takes its own time.
                began = time.monotonic()
                if (value := slow(number)) != number:
                    wrong.append(value)
                waits[me] = time.monotonic() - began
                gate.wait()

        for me in range(THREADS):
            threading.Thread(target=work, args=(me,), daemon=True).start()
        slow(-1 - os.getpid())  # connected, and following the log
        runs.clear()
        pipe.send("ready")
        while (received := pipe.recv()) is not None:
            task[:] = received
            runs.clear()
            gate.wait()
            gate.wait()
            pipe.send((len(runs), list(waits), len(wrong)))
        task[:] = (None, 0.0)
        gate.wait()


def run(scale: Scale) -> Result:
    repeats = 5 if scale.quick else RUNS
    context = multiprocessing.get_context("spawn")
    executed, worst, typical = [], [], []
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        pipes = []
        for _ in range(PROCESSES):
            here, there = context.Pipe()
            process = context.Process(target=crowd, args=(server.url, there), daemon=True)
            process.start()
            stack.callback(process.join, 10)
            stack.callback(here.send, None)
            pipes.append(here)
        for pipe in pipes:
            _received(pipe)
        for number in range(repeats):
            at = time.monotonic() + 0.15
            for pipe in pipes:
                pipe.send((number, at))
            answers = [_received(pipe) for pipe in pipes]
            if any(wrong for _, _, wrong in answers):
                raise RuntimeError("a caller got another value")
            executed.append(sum(runs for runs, _, _ in answers))
            waits = [wait for _, some, _ in answers for wait in some]
            worst.append((max(waits) - COMPUTES) * 1e3)
            typical.append((median(waits) - COMPUTES) * 1e3)
    table = Table(
        f"{repeats} times, {PROCESSES * THREADS} callers",
        ("median", "worst"),
        (
            Figure("executions", (median(executed), max(executed)), "ours"),
            Figure("wait beyond the function's time, median of the callers, ms", (median(typical), max(typical))),
            Figure("wait beyond the function's time, longest of the callers, ms", (median(worst), max(worst))),
        ),
    )
    targets = (
        Target("executions, in the worst run", max(executed), 1, ""),
        Target("longest wait beyond the function's time, in the worst run", max(worst), LIMIT_MS, "ms"),
    )
    return Result("stampede", TITLE, (table,), targets)


def _received(pipe: Connection) -> Any:
    if not pipe.poll(60):
        raise TimeoutError("a process of the crowd does not answer")
    return pipe.recv()
