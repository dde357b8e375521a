"""A hit at a server, one thread: a decorated call that gives a dict of about 200 bytes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from tests.servers import Server

from benchmarks.harness import Scale, Timed, block, cores, entered, hold, move, placements
from benchmarks.peers import blocking
from benchmarks.results import Result, Target

TITLE = "A hit at a server, one thread"
CONTESTANTS = (
    blocking.OURS,  # first: others read its entries
    blocking.FLOOR,
    blocking.PYBOSSA,
    blocking.REDIS,
    blocking.VALKEY,
    blocking.MEMOIZE,
    blocking.DOGPILE,
    blocking.DJANGO,
    blocking.FLASK,
    blocking.FLASK_OURS,
)
LIMIT = 1.25
PYBOSSA_LIMIT, FLASK_LIMIT = 1.35, 1.6
CALLS = 25


def run(scale: Scale) -> Result:
    notes = ["bare socket, redis-py and valkey-py give the bytes of our entry; the others a dict"]
    tables, targets = [], []
    with ExitStack() as stack:
        stack.enter_context(hold(cores()[0] if cores() else None))
        server = stack.enter_context(Server.start("valkey"))
        assert server.process is not None
        there = entered(CONTESTANTS, server, stack, notes)
        blocks = {one.name: block(partial(read, 7), CALLS) for one, read in there.items()}
        kinds = {one.name: one.kind for one in there}
        for place in placements():
            move([server.process.pid], [] if place.core is None else [place.core])
            timed = Timed(list(blocks))
            for name in timed.turns(scale):
                timed.add(name, blocks[name]())
            tables.append(timed.table(place.name, kinds, blocking.FLOOR.name))
            ratio = timed.ratio(blocking.OURS.name, blocking.FLOOR.name)
            targets.append(Target(f"of the bare socket, {place.name}", ratio, LIMIT))
            for one, text, limit in (
                (blocking.PYBOSSA, "the drop-in for PyBossa", PYBOSSA_LIMIT),
                (blocking.FLASK_OURS, "the drop-in for Flask-Caching", FLASK_LIMIT),
            ):
                if one in there:
                    ratio = timed.ratio(one.name, blocking.FLOOR.name)
                    targets.append(Target(f"{text}, {place.name}", ratio, limit))
    return Result("hit", TITLE, tuple(tables), tuple(targets), tuple(notes))
