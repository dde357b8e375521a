"""The fixtures in a project of their own: found by pytest, and gone after each test."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

TESTS = """
from evercache import Cache

cache = Cache("redis://127.0.0.1:1", jitter=0)
ran = []

@cache.cached(ttl=60)
def page(n):
    ran.append(n)
    return n

def test_memory(evercache_memory):
    page(1), page(1)
    assert ran == [1]
    evercache_memory.advance(61)
    page(1)
    assert ran == [1, 1]

def test_off(evercache_off):
    page(1), page(1)
    assert ran == [1] * 4

def test_record(evercache_record):
    page(1), page(1)
    assert len(evercache_record.of(page, 1).computed) == 1

def test_without():
    from evercache import modes
    assert modes.active is None
"""


def test_a_projects_own_tests_find_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(TESTS)
    known = any(point.value == "evercache.testing.plugin" for point in entry_points(group="pytest11"))
    plugin = [] if known else ["-p", "evercache.testing.plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *plugin, "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_the_core_does_not_need_pytest() -> None:
    code = "import sys, evercache.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == 0
