"""Exceptions that a signal handler raises at random moments, in every operation (`make interrupts` in short)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.storm

#: For how long each of the two is interrupted (s), and how often at most.
SECONDS, COUNT = 25, 12_000


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_what_is_interrupted_leaves_nothing_behind(way: str) -> None:
    seed = str(int.from_bytes(os.urandom(3)))
    command = [sys.executable, "-m", "tests.interrupts", way, "--seeds", seed]
    command += ["--count", str(COUNT), "--seconds", str(SECONDS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 120, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "exceptions, clean after" in ran.stdout, ran.stdout
