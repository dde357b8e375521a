"""The processes of one cell of the matrix: started, stopped, and what they wrote down."""

from __future__ import annotations

import contextlib
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from evercache.ops.stalls import Stalls
from tests.faults.plans import LoadPlan
from tests.faults.records import Journal, Truth, Written
from tests.faults.stage import Access
from tests.nursery import ROOT, Program

__all__ = ["LOADS", "Fleet", "Process"]

LOADS = ("threads", "tasks", "prefork")


class Reached(Protocol):
    """What the load works on."""

    def access(self, group: str) -> Access:
        """How one group of clients reaches it."""
        ...


class Process:
    """One process at work."""

    def __init__(self, plan: LoadPlan, prefix: Sequence[str] = ()) -> None:
        self.plan = plan
        folder = Path(plan.folder)
        self._said = (folder / f"stderr-{plan.kind}-{plan.group}-{time.monotonic_ns()}").open("w+b")
        self.process: Program | subprocess.Popen[bytes]
        if prefix:  # in a namespace, say, where no process of this one's can be forked into
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.faults.worker", plan.as_json()],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                bufsize=0,
            )
            return
        self.process = Program(
            "tests.faults.worker:main", plan.as_json(), strict=False, text=False, stderr=self._said
        )

    def __repr__(self) -> str:
        return f"<Process {self.plan.kind} {self.plan.group} pid {self.process.pid}>"

    def stderr(self) -> str:
        self._said.seek(0)
        return self._said.read()[-3000:].decode(errors="replace")

    def expect(self, word: str, timeout: float = 40.0) -> str:
        """The next line that it says, which begins with `word`."""
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline().decode().strip() if ready else "nothing"
        if not line.startswith(word):
            raise RuntimeError(f"{self!r} said {line!r} instead of {word!r}: {self.stderr()}")
        return line

    def say(self, word: str) -> None:
        self.process.stdin.write(word.encode() + b"\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self._said):
            stream.close()


class Fleet:
    """The load on a stage; `prefix` goes before the command of each process. Not for several threads at once.

    Readers and editors pause `ease` times as long as they do in the matrix.
    """

    def __init__(
        self,
        stage: Reached,
        load: str,
        folder: Path,
        *,
        callers: int = 8,
        cache: dict[str, Any] | None = None,
        short_lived: int = 0,
        groups: str = "ab",
        prefix: Sequence[str] = (),
        ease: float = 1.0,
    ) -> None:
        self.stage, self.load, self.folder = stage, load, folder
        self._cache = cache
        self._prefix, self._ease = prefix, ease
        self.truth, self.journal = Truth(folder), Journal(folder)
        self.processes: list[Process] = []
        self._stalls, self._watching = Stalls(), contextlib.ExitStack()  # the gates run in this process
        pace = 0.015 * ease
        plans = [self.plan("threads", "w", editor=0, callers=2, pace=pace, edit_every=0.03 * ease)]
        match load:
            case "threads":
                plans += [
                    self.plan("threads", g, editor=e, callers=callers, pace=pace) for e, g in enumerate(groups, 1)
                ]
            case "tasks":
                pace *= 4 * max(1.0, callers / 8)
                plans += [
                    self.plan("tasks", g, editor=e, callers=4 * callers, pace=pace) for e, g in enumerate(groups, 1)
                ]
            case "prefork":
                plans += [self.plan("prefork", "a", editor=1, callers=callers, pace=pace)]
        plans += [self.plan("nursery", "w", editor=3 + number) for number in range(short_lived)]
        self._plans = plans

    def plan(self, kind: str, group: str, **more: Any) -> LoadPlan:
        """For one process of this fleet."""
        access = self.stage.access(group).as_json()
        more = {"edit_every": 0.1 * self._ease, **more}
        return LoadPlan(kind, group, access, str(self.folder), cache=self._cache, **more)

    def start(self) -> None:
        self.processes = [Process(plan, self._prefix) for plan in self._plans]
        for process in self.processes:
            process.expect("ready")
        self._watching.enter_context(self._stalls)

    def stop(self) -> list[Written]:
        """End the load; each process checks what it knows once all have delivered what they had queued."""
        for word, answer in (("stop", "stopped"), ("final", "")):
            for process in self.processes:
                process.say(word)
            for process in self.processes:
                if answer:
                    process.expect(answer)
            if answer:
                time.sleep(0.3)  # every other process has heard by then, or the reads that follow say so
        for process in self.processes:
            process.process.wait(30)
        self._watching.close()
        failed = [process for process in self.processes if process.process.returncode]
        if failed:
            raise RuntimeError(f"{failed} failed: {failed[0].stderr()}")
        written = [pickle.loads(path.read_bytes()) for path in sorted(self.folder.glob("written-*.done"))]
        for one in written:
            one.gather(self.folder)
        here = Written(0, "here", "control", overslept=self._stalls.overslept)
        return [*written, here]

    def victim(self) -> Process:
        """A process that will compute the reserved key; say `go`, and it answers with the run."""
        process = Process(self.plan("victim", "b"), self._prefix)
        process.expect("ready")
        return process

    def close(self) -> None:
        self._watching.close()
        for process in self.processes:
            process.kill()


@contextlib.contextmanager
def fleet(stage: Reached, load: str, **more: Any) -> Iterator[Fleet]:
    """A fleet at work, in a folder of its own; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="evercache-faults-") as folder:
        made = Fleet(stage, load, Path(folder), **more)
        try:
            made.start()
            yield made
        finally:
            made.close()
