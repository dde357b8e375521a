"""Hits of eight threads at once, each with a key of its own: the time that passes for one hit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.servers import Server

from benchmarks.harness import Placement, Scale, Timed, cores, entered, hold, move, placements
from benchmarks.peers import blocking
from benchmarks.results import Result, Target

TITLE = "Hits at a server, eight threads"
CONTESTANTS = (
    blocking.OURS,
    blocking.REDIS,
    blocking.VALKEY,
    blocking.DOGPILE,
    blocking.DJANGO,
)
LIMIT = 0.75
THREADS = 8
CALLS = 15


class Crew:
    """Threads that wait for work and begin it together. Used from one thread."""

    def __init__(self, size: int = THREADS) -> None:
        self._gate = threading.Barrier(size + 1)
        self._call: Callable[[int], Any] | None = None
        self._calls = 0
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(size)]
        for one in self._threads:
            one.start()

    def __repr__(self) -> str:
        return f"<Crew of {len(self._threads)}>"

    def _work(self, number: int) -> None:
        while True:
            self._gate.wait()
            call = self._call
            if call is None:
                return
            try:
                for _ in range(self._calls):
                    call(number)
            except BaseException as error:
                self._errors.append(error)
            self._gate.wait()

    def run(self, call: Callable[[int], Any], calls: int) -> float:
        """Each thread calls with its number, `calls` times; gives the seconds that passed for one call."""
        self._call, self._calls = call, calls
        self._gate.wait()
        began = time.perf_counter()
        self._gate.wait()
        passed = time.perf_counter() - began
        if self._errors:
            raise self._errors[0]
        return passed / (calls * len(self._threads))

    def close(self) -> None:
        """End the threads."""
        self._call = None
        self._gate.wait()
        for one in self._threads:
            one.join(5)


def run(scale: Scale) -> Result:
    notes = ["redis-py and valkey-py give bytes, the others a dict; a pool of connections for each"]
    tables, targets = [], []
    with ExitStack() as stack:
        allowed = cores()
        stack.enter_context(hold(allowed[0] if allowed else None))
        server = stack.enter_context(Server.start("valkey"))
        assert server.process is not None
        there = entered(CONTESTANTS, server, stack, notes)
        kinds = {one.name: one.kind for one in there}
        reads = {one.name: read for one, read in there.items()}
        for place in [*placements(), *[Placement("nothing pinned", None)] * (len(allowed) > 1)]:
            ours = allowed if place.core is None else allowed[:1]
            move([server.process.pid], allowed if place.core is None else [place.core])
            with _moved_here(ours):
                crew = Crew()
                timed = Timed(list(reads))
                for name in timed.turns(scale):
                    crew.run(reads[name], 2)
                    timed.add(name, crew.run(reads[name], CALLS))
                crew.close()
            tables.append(timed.table(place.name, kinds, blocking.REDIS.name))
            ratio = timed.ratio(blocking.OURS.name, blocking.REDIS.name)
            targets.append(Target(f"of redis-py, {place.name}", ratio, LIMIT))
    return Result("threads", TITLE, tuple(tables), tuple(targets), tuple(notes))


def _moved_here(wanted: list[int]) -> ExitStack:
    """All threads of this process on these cores, and new ones too."""
    stack = ExitStack()
    if wanted:
        before = os.sched_getaffinity(0)
        move([os.getpid()], wanted)
        stack.callback(move, [os.getpid()], before)
    return stack
