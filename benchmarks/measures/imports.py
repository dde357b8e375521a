"""What importing the library costs a process, beside redis-py, in processor time: alternating interpreters."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from statistics import median

from benchmarks.harness import Scale
from benchmarks.results import Figure, Kind, Result, Table, Target

TITLE = "Processor time of an interpreter that imports the library, without that of an empty one"
URL = "redis://cache.example"
#: Name, kind, and what the interpreter runs.
CASES: tuple[tuple[str, Kind, str], ...] = (
    ("from evercache import Cache", "ours", "from evercache import Cache"),
    ("and a Cache for a URL", "ours", f"from evercache import Cache; Cache({URL!r})"),
    ("import redis", "peer", "import redis"),
    ("and a Redis for a URL", "peer", f"import redis; redis.Redis.from_url({URL!r})"),
)


def run(scale: Scale) -> Result:
    """The bytecode is written beforehand; without redis-py there are no targets."""
    notes = []
    cases = [case for case in CASES if case[1] == "ours" or importlib.util.find_spec("redis")]
    if len(cases) < len(CASES):
        notes.append("left out: redis-py (not installed)")
    empty = list[float]()
    times: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    for turn in range(6 if scale.quick else 21):
        found = {name: _seconds(code) for name, _, code in cases}
        empty.append(_seconds("pass"))
        if turn:  # the first one writes the bytecode
            for name, seconds in found.items():
                times[name].append(seconds - empty[-1])
    figures = tuple(
        Figure(name, (median(times[name]) * 1e3, min(times[name]) * 1e3), kind) for name, kind, _ in cases
    )
    table = Table("an interpreter", ("median, ms", "least, ms"), figures)
    targets = tuple(
        Target(text, _ratio(table, ours, theirs), 1.0)
        for text, ours, theirs in (
            ("importing evercache, of importing redis-py", CASES[0][0], CASES[2][0]),
            ("importing it and creating a cache, of the same with redis-py", CASES[1][0], CASES[3][0]),
        )
    )
    return Result("imports", TITLE, (table,), targets, tuple(notes))


def _ratio(table: Table, ours: str, theirs: str) -> float | None:
    mine, other = table.value(ours), table.value(theirs)
    return mine / other if mine and other else None


def _seconds(code: str) -> float:
    """The processor time of an interpreter that runs this."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
