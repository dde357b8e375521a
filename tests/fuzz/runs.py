"""Runs of atheris, each in a process of its own: a copy of one that has imported the library, to count in it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FOUND", "Run", "guided"]

#: How libFuzzer ends when a promise is broken.
FOUND = 77
#: An input has no end if it takes so many seconds: a machine may stand still for a while. Slow ones are found by
#: the time of the processor that they take, see `guard`.
_ENDLESS = 300
#: Bytes of an input, which hold every seed.
_LONGEST = 8192
_FLAGS = (f"-timeout={_ENDLESS}", "-rss_limit_mb=2048", f"-max_len={_LONGEST}", "-use_value_profile=1")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.fuzz.guided"])


@dataclass(frozen=True, slots=True)
class Run:
    """How it ended, and what it printed."""

    code: int
    text: str

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return int(self._last("stat::number_of_executed_units:") or 0)

    @property
    def places(self) -> str:
        """How many places of the code were reached."""
        return self._last(" cov: ") or "?"

    @property
    def words(self) -> str:
        """The error, in one line."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        at = next((i for i, line in enumerate(lines) if "Uncaught Python exception" in line), len(lines))
        told = [line for line in lines if "ERROR: libFuzzer" in line] or lines[-1:] or [f"ended with {self.code}"]
        return (lines[at + 1] if at + 1 < len(lines) else told[0]).strip()[:70]

    def _last(self, mark: str) -> str:
        return (self.text.rpartition(mark)[2].split() or [""])[0] if mark in self.text else ""


def guided(name: str, folder: Path, *flags: str, bug: int | None = None) -> Run:
    """Hunt in one target, for as long as the flags say."""
    output = folder / "output"
    everything = (*_FLAGS, "-print_final_stats=1", f"-artifact_prefix={folder}/", *flags)
    process = _forks.Process(target=_hunt, args=(name, folder, everything, bug, output))
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    return Run(1 if code is None else code, output.read_text(errors="replace"))


def _hunt(name: str, folder: Path, flags: tuple[str, ...], bug: int | None, output: Path) -> None:
    """In the new process."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    tempfile.tempdir = str(folder.resolve())  # libFuzzer ends a process without a chance to clean up
    try:
        from tests.fuzz.guided import hunt

        hunt(name, folder, flags, bug)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    # Processes of this kind end without what C does at an exit, where libFuzzer keeps the input that it was at.
    ctypes.CDLL(None).exit(1)
