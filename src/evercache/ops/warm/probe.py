"""What the site feels of a warming: a process of its own reads through the cache all the time, and tells how long.

A process, since a thread beside the workers would wait for them, not for the servers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from math import exp, log
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from evercache.cache import Cache

__all__ = ["Probe", "Times"]

#: Reads a second, seconds between two reports, and how long a read may take.
RATE, _REPORT, _BUDGET = 200, 0.5, 2.0
#: Seconds in which the process must have begun.
_BEGIN = 20.0
_STEP = log(1.02)


class Times:
    """Durations in seconds, by the hundred thousand: kept in steps of 2 %. Written by one thread."""

    def __init__(self) -> None:
        self.count = self.failed = 0
        self.longest = 0.0
        self._steps: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Times of {self.count} reads, p99 {self.quantile(0.99) * 1e3:.3f} ms>"

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        step = int(log(max(seconds, 1e-7) / 1e-7) / _STEP)
        self._steps[step] = self._steps.get(step, 0) + 1

    def quantile(self, share: float) -> float:
        """What so large a share of them did not exceed, to 2 %; 0 without any."""
        left = share * self.count
        for step in sorted(self._steps):
            left -= self._steps[step]
            if left <= 0:
                return min(1e-7 * exp((step + 1) * _STEP), self.longest)
        return self.longest


class Probe:
    """The reading process, and what it told: `before` until `during` begins. A context manager."""

    def __init__(self, cache: Cache, heard: Callable[[float, int], None]) -> None:
        self._cache = cache
        #: Told the median of the reads of each report, and how many failed, once the warming has begun.
        self.heard = heard
        self.before, self.during = Times(), Times()
        self._into = self.before
        self._process: Any = None
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._begun = threading.Event()

    def __repr__(self) -> str:
        return f"<Probe {self._into!r}>"

    def __enter__(self) -> Probe:
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        cache = self._cache
        with contextlib.ExitStack() as stack:
            stack.callback(its.close)
            process = context.Process(
                target=_read,
                args=(its, cache.location, cache.settings.namespace, cache._address_map),
                name="evercache-warm-probe",
                daemon=True,
            )
            process.start()
        self._process, self._connection = process, mine
        self._thread = threading.Thread(target=self._listen, args=(mine,), name="evercache-warm-probe", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
        if self._process is not None:
            self._process.join(3.0)
            if self._process.is_alive():
                self._process.kill()
                self._process.join(3.0)
        if self._thread is not None:
            self._thread.join(3.0)
        if self._connection is not None:
            self._connection.close()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Let it read for so long, from its first read on; whether it reads at all."""
        end = time.monotonic() + _BEGIN
        while not self._begun.wait(0.1):
            if stop.is_set() or time.monotonic() > end or not self._process.is_alive():
                return False
        stop.wait(seconds)
        return self.before.count > 0

    def begin(self) -> None:
        """From now on the warming is under way."""
        self._into = self.during

    def _listen(self, connection: Connection) -> None:
        while True:
            try:
                times, failed = connection.recv()
            except (EOFError, OSError):
                return
            into = self._into
            for one in times:
                into.add(one)
            into.failed += failed
            self._begun.set()
            if into is self.during and times:
                self.heard(median(times), failed)


def _row(number: int) -> dict[str, Any]:
    return {"id": number, "name": f"row {number}", "text": "such as a database gives, two hundred bytes; " * 4}


def _read(connection: Connection, location: Any, namespace: str, address_map: Any) -> None:
    """The process: read one entry of its own, as a site reads its own, until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's matter
    cache = Cache("memory://", namespace=namespace, budget=_BUDGET, jitter=0.0, address_map=address_map)
    cache.location = location  # there is no URL of it any more
    rows = cache.cached(ttl=3600, beta=0.0, name="evercache.warm.probe")(_row)
    with cache, contextlib.suppress(OSError, EOFError):
        _settle(cache, rows)
        due = time.monotonic()
        while True:
            times: list[float] = []
            before = rows.stats().counters
            end = time.monotonic() + _REPORT
            while time.monotonic() < end:
                began = time.perf_counter()
                rows(7)
                times.append(time.perf_counter() - began)
                due = max(due + 1 / RATE, time.monotonic() - 0.1)
                time.sleep(max(0.0, due - time.monotonic()))
            after = rows.stats().counters
            # One that the function had to answer is no read.
            connection.send((times, after.computed - before.computed))
            if connection.poll():
                connection.recv()
                return


def _settle(cache: Cache, rows: Callable[[int], Any]) -> None:
    """What a process does once (connections, the first marks, admitting replicas) is not measured."""
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        for _ in range(20):
            rows(7)
        nodes = cache.health().nodes
        if nodes and all(node.use in ("reads", "writes", "writes and reads") for node in nodes):
            return
        time.sleep(0.05)
