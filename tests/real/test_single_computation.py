"""Promise 5: one computation per key at a time, over all threads, tasks and processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter

import pytest
from tests.fleet import Plan, Worker, start_together, truth, worker
from tests.servers import Server


def race(server: Server, folder: str, seconds: float, keys: int, step: float) -> list[Plan]:
    """Two processes of 8 threads and one of 64 tasks that call each key at the same moment."""
    names = tuple(f"{seconds}-{number}" for number in range(keys))
    common = {"url": server.url, "folder": folder, "keys": names, "seconds": seconds, "step": step}
    return [Plan(**common), Plan(**common), Plan(**common, callers=64, tasks=True)]


def run_race(server: Server, seconds: float, keys: int, step: float, timeout: float = 50.0) -> None:
    with truth() as shared, contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(worker(plan)) for plan in race(server, str(shared.folder), seconds, keys, step)
        ]
        start_together(*workers)
        records = [record for each in workers for record in each.records(timeout)]
        runs = Counter(ran.key for ran in shared.runs())
    assert [r for r in records if r["error"]] == []
    assert len(records) == keys * (8 + 8 + 64)
    assert runs == Counter({f"{seconds}-{number}": 1 for number in range(keys)})
    slowest = max(r["ended"] - r["began"] for r in records)
    assert slowest < seconds + 1.5


@pytest.mark.parametrize(("seconds", "step"), [(0.01, 0.3), pytest.param(0.4, 0.7, marks=pytest.mark.long)])
def test_a_cold_key_is_computed_once_ten_times_out_of_ten(valkey: Server, seconds: float, step: float) -> None:
    run_race(valkey, seconds, 10, step)


@pytest.mark.long
def test_a_cold_key_of_three_seconds_is_computed_once(valkey: Server) -> None:
    # The ten keys at one moment: 240 callers wait.
    run_race(valkey, 3.0, 3, 0.0)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_three_seconds_ten_times_and_forty_once(valkey: Server) -> None:
    run_race(valkey, 3.0, 10, 3.5, 120)
    run_race(valkey, 40.0, 1, 0.0, 120)


def test_a_killed_holder_costs_one_lease(valkey: Server) -> None:
    """SIGKILL of the process that computes: one more run begins within 1.5 s."""
    with truth() as shared, contextlib.ExitStack() as stack:
        plan = Plan(valkey.url, str(shared.folder), ("only",), seconds=2.0, callers=4)
        workers: list[Worker] = [stack.enter_context(worker(plan)) for _ in range(2)]
        start_together(*workers)
        while not shared.runs():
            time.sleep(0.01)
        time.sleep(1.0)
        (first,) = shared.runs()
        killed = time.monotonic()
        os.kill(first.pid, signal.SIGKILL)
        (survivor,) = (each for each in workers if each.pid != first.pid)
        records = survivor.records()
        runs = shared.runs()
    assert len(runs) == 2
    assert runs[1].pid == survivor.pid
    assert runs[1].at - killed < 1.5
    assert len(records) == 4
    assert {r["pid"] for r in records} == {survivor.pid}
