"""What counts as a stall of the machine, and what the process did itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evercache.ops import stalls
from evercache.ops.stalls import cpu_wait

#: A process that notes its stalls, does something, and prints what it noted.
PROGRAM = """
import sys, time
from evercache.ops.stalls import Stalls
with Stalls(idle_only=sys.argv[1] == "idle") as stalls:
    time.sleep(0.05)
    began, used = time.monotonic(), time.process_time()
    print("began", flush=True)
    if sys.argv[2] == "hog":
        # One call that uses the processor and never releases the interpreter.
        sum(range(20_000_000))
    else:
        time.sleep(0.5)
    ended, used = time.monotonic(), time.process_time() - used
    time.sleep(0.05)
print(stalls.within(began, ended), ended - began, used)
"""


def noted(mode: str, does: str) -> tuple[float, float, float]:
    """The stalls that a process noted, how long it took, and its time on the processor."""
    command = [sys.executable, "-c", PROGRAM, mode, does]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if does == "frozen":
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGCONT)
        stalled, took, used = (float(word) for word in process.stdout.readline().split())
    return stalled, took, used


def test_a_process_that_is_frozen_stands_still() -> None:
    assert noted("idle", "frozen")[0] > 0.4


def test_the_own_work_of_a_process_is_no_stall_of_the_machine() -> None:
    """However busy the machine is: what is left is the time in which the process waited for it."""
    stalled, took, used = noted("idle", "hog")
    assert stalled <= took - used + 0.02
    stalled, took, used = noted("any", "hog")
    assert stalled > used / 2, "the interpreter was never free"


def test_the_counters_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pressure, stat = tmp_path / "cpu", tmp_path / "stat"
    pressure.write_text("some avg10=1.00 avg60=0.50 avg300=0.10 total=2500000\nfull avg10=0.00 total=7\n")
    ticks = os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    stat.write_text(f"cpu  1 2 3 4 5 6 7 {3 * ticks} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    monkeypatch.setattr(stalls, "_PRESSURE", pressure)
    monkeypatch.setattr(stalls, "_STAT", stat)
    found = cpu_wait()
    assert found is not None
    assert (found.waited, found.stolen) == (2.5, 3.0)
    pressure.unlink()
    assert cpu_wait() is None
