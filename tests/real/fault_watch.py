"""What the tests of figures under faults watch: the servers, and what arrives at one.

A figure holds for the product, not for the machine: a delay counts without what the machine itself stood still in
that time (`tests.stalls`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

from tests.proxy import DelayProxy
from tests.server import CliError, Server

__all__ = ["Answering", "CountingProxy", "promotion"]

TICK = 0.005


class Answering:
    """Threads that ask nodes all the time and note when an answer took long: the servers' own stalls."""

    SLOW = 0.03

    def __init__(self, nodes: list[Server]) -> None:
        self.slow: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(node,), daemon=True) for node in nodes]

    def _run(self, node: Server) -> None:
        while not self._over.wait(2 * TICK):
            began = time.monotonic()
            with contextlib.suppress(OSError, CliError):
                node.cli("PING", timeout=1.0)
            if (now := time.monotonic()) - began > self.SLOW:
                self.slow.append((began, now))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def stalled(self, moment: float, before: float = 0.5) -> bool:
        """Whether a node stood still in the time before a moment: reads of it were given up, and it was left."""
        return any(began <= moment and end >= moment - before for began, end in self.slow)


def promotion(nodes: list[Server], old: Server, timeout: float = 15.0) -> tuple[Server, float]:
    """The first node but the old master that says itself that it is one, and when; asked every 5 ms."""
    others = [node for node in nodes if node is not old and node.alive]
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for node in others:
            with contextlib.suppress(OSError):  # a sentinel that promotes closes the connections
                if node.cli("ROLE")[0] == "master":
                    return node, time.monotonic()
        time.sleep(TICK)
    raise TimeoutError(f"no promotion within {timeout} s")


class CountingProxy(DelayProxy):
    """Forwards 127.0.0.1:`port` to a port, and notes when a GET came."""

    def __init__(self, target: int) -> None:
        self.gets: list[float] = []  # appended to by the proxy's thread only
        super().__init__(target)

    def from_client(self, data: bytes) -> None:
        self.gets += [time.monotonic()] * data.count(b"$3\r\nGET\r\n")

    def since(self, moment: float, until: float = float("inf")) -> list[float]:
        """The GETs that came in a time."""
        return [at for at in list(self.gets) if moment <= at < until]
