"""Rules 7 and 14: ages go on while the machine is suspended, and all moments are of one clock."""

from __future__ import annotations

import inspect
import re
import time
from pathlib import Path

import pytest

import evercache
from evercache import clock
from evercache.engine.deployment import Deployment
from evercache.observe import EventHub
from evercache.topology import ReplicatedTopology, SentinelTopology, StandaloneTopology
from evercache.topology.monitor import Monitor

PACKAGE = Path(evercache.__file__).parent
#: They time themselves, and hand no moment to the rest.
APART = (
    "ops/cli/",
    "ops/demo/",
    "ops/drill/",
    "ops/stalls.py",
    "ops/local.py",
    "ops/stalls.py",
    "ops/supervision.py",
    "process.py",
    *(f"ops/warm/{name}.py" for name in ("keeping", "pace", "probe", "warming")),
    "integrations/flask/",
    "ops/flask/",
)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no CLOCK_BOOTTIME")
def test_the_clock_is_the_one_that_goes_on_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = clock.monotonic()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_without_it_the_usual_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert clock._clock() is time.monotonic


def test_a_sandbox_that_does_not_know_it_gets_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> float:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", refuse)
    assert clock._clock() is time.monotonic


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Deployment, "now"),
        (EventHub, "now"),
        (Monitor, "clock"),
        (ReplicatedTopology, "clock"),
        (SentinelTopology, "clock"),
        (StandaloneTopology, "clock"),
    ],
)
def test_it_is_the_default(thing: type, name: str) -> None:
    assert inspect.signature(thing).parameters[name].default is clock.monotonic


def test_nothing_else_in_the_package_reads_another_clock() -> None:
    """A moment of one clock means nothing on the other: a deadline would lie hours ahead, or would have passed."""
    another = re.compile(r"time\.(monotonic|perf_counter)\b|from time import .*monotonic")
    found = [
        f"{name}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not (name := path.relative_to(PACKAGE).as_posix()).startswith((*APART, "clock.py"))
        for line in path.read_text().splitlines()
        if another.search(line)
    ]
    assert [line for line in found if not line.startswith("ops/bench.py: ")] == []
