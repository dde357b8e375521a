"""The client processes, seen from the drill: started, told, ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from evercache.errors import DeploymentError
from evercache.ops.drill.client import ClientPlan

__all__ = ["Fleet"]

#: Seconds: until a process has warmed up, and until it has done what it is told.
_READY, _TOLD = 40.0, 20.0


class Fleet:
    """Processes that read and invalidate. Used by one thread; a context manager that ends them."""

    def __init__(self, url: str, namespace: str, folder: Path, processes: int) -> None:
        self._plans = [ClientPlan(url, namespace, str(folder), number, processes) for number in range(processes)]
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __repr__(self) -> str:
        return f"<Fleet of {len(self._processes)} processes>"

    @property
    def size(self) -> tuple[int, int]:
        """Processes, and readers in each."""
        return len(self._plans), self._plans[0].readers

    def start(self) -> None:
        """Start all, and wait until each has warmed up and works; DeploymentError."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EVERCACHE_")}
        for plan in self._plans:
            with (self._folder / f"client-{plan.number}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "evercache.ops.drill.client"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # a Ctrl-C is for the drill, which then ends them
                )
            self._processes.append(process)
            self._write(process, plan.as_line())
        self._await("ready", _READY)

    def tell(self, order: str) -> bool:
        """Give all an order and wait until each has obeyed; whether they did in time."""
        for process in self._processes:
            self._write(process, order.encode() + b"\n")
        try:
            self._await(order, _TOLD)
        except DeploymentError:
            return False
        return True

    def alive(self) -> bool:
        """Whether every process still runs."""
        return all(process.poll() is None for process in self._processes)

    @staticmethod
    def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; `_await` says so
            process.stdin.write(line)
            process.stdin.flush()

    def _await(self, word: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        for number, process in enumerate(self._processes):
            assert process.stdout is not None
            said = b""
            while not said.endswith(b"\n"):
                left = end - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise DeploymentError(f"client {number} of the drill did not say {word!r} in {timeout:.0f} s")
                one = os.read(process.stdout.fileno(), 1)
                if not one:
                    log = (self._folder / f"client-{number}.log").read_text(errors="replace").strip()
                    last = log.splitlines()[-1:] or ["it said nothing"]
                    raise DeploymentError(f"client {number} of the drill ended: {last[0]}")
                said += one

    def close(self) -> None:
        """End what still runs; by their process ids."""
        processes, self._processes = self._processes, []
        for process in processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in processes:
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
