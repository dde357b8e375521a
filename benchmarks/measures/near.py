"""A hit inside the process: a decorated function of two arguments that gives a dict the caller may change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.servers import Server

from benchmarks.harness import Scale, Timed, block, cores, entered, hold, move
from benchmarks.peers import near
from benchmarks.results import Result, Target
from benchmarks.values import article, product, rows

TITLE = "A hit inside the process (near)"
MICROSECONDS, LIMIT = 1.0, 1.1
CALLS = 200


def small(number: int, language: str) -> dict[str, Any]:
    return product(number)


def text(number: int, language: str) -> dict[str, Any]:
    return article(number)


def nested(number: int, language: str) -> dict[str, Any]:
    return rows(number)


#: What is cached, the peer that gives a caller as much, and whether there is a target.
CASES: tuple[tuple[str, Callable[[int, str], dict[str, Any]], str, bool], ...] = (
    ("200 bytes, flat", small, near.CACHEBOX, True),
    ("10 KB, one long text", text, near.CACHEBOX, True),
    ("10 KB, 50 rows", nested, near.DEEP, False),
)


def run(scale: Scale) -> Result:
    notes = ["shares: a caller's change is seen by all others; a shallow copy shares what is nested"]
    tables, targets = [], []
    with ExitStack() as stack:
        stack.enter_context(hold(cores()[0] if cores() else None))
        server = stack.enter_context(Server.start("valkey"))
        assert server.process is not None
        move_away(server)
        for title, function, peer, aimed in CASES:
            with ExitStack() as inner:
                there = entered(near.contestants(function, function.__name__), server, inner, notes)
                calls = 20 if function is nested else CALLS
                blocks = {one.name: block(partial(read, 7, "en"), calls) for one, read in there.items()}
                timed = Timed(list(blocks))
                for name in timed.turns(scale):
                    timed.add(name, blocks[name]())
                tables.append(timed.table(title, {one.name: one.kind for one in there}, peer))
                if aimed:
                    quartile = timed.quartile(near.OURS) * 1e6
                    targets.append(Target(f"for {title}", quartile, MICROSECONDS, "µs"))
                    targets.append(Target(f"of {peer}, {title}", timed.ratio(near.OURS, peer), LIMIT))
    return Result("near", TITLE, tuple(tables), tuple(targets), tuple(notes))


def move_away(server: Server) -> None:
    """The server to another core, where there is one: here it is not asked."""
    assert server.process is not None
    move([server.process.pid], cores()[-1:])
