"""A hit through Sentinel with two replicas, beside one at a single server: what following a deployment costs."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.servers import Deployment, Server, wait_for

from benchmarks.harness import Scale, Timed, block, cores, hold, move, placements
from benchmarks.instructions import counts, per_hit
from benchmarks.peers.blocking import cached_product
from benchmarks.results import Figure, Result, Table, Target
from benchmarks.values import product
from evercache import Cache
from evercache.protocol.types import Address

TITLE = "A hit through Sentinel, two replicas"
ALONE, ONE, TWO = "one server, alone", "Sentinel, one replica at both addresses", "Sentinel, two replicas"
TIME, INSTRUCTIONS = 1.15, 1.05
CALLS = 25


def reader(cache: Cache, replica: bool) -> Any:
    """A call that hits; at a replica, once one is admitted."""
    read = cached_product(cache)
    read(7)

    def steady() -> bool:
        before = read.stats().counters.replica_hits
        same = all(read(7) == product(7) for _ in range(20))
        return same and (not replica or read.stats().counters.replica_hits - before == 20)

    wait_for(steady, 10.0, "steady hits")
    return partial(read, 7)


def run(scale: Scale) -> Result:
    notes = [f"{ONE}: both names lead to one process, so that it stays as warm as the single server"]
    tables, targets = [], []
    with ExitStack() as stack:
        stack.enter_context(hold(cores()[0] if cores() else None))
        whole = stack.enter_context(Deployment.start())
        single = stack.enter_context(Server.start("valkey"))
        first, second = whole.replicas
        both = {Address("127.0.0.1", second.port): Address("localhost", first.port)}
        caches = {
            ALONE: Cache(single.url, namespace="bench"),
            ONE: Cache(whole.url, namespace="bench", address_map=both),
            TWO: Cache(whole.url, namespace="bench"),
        }
        for cache in caches.values():
            stack.callback(cache.close)
        blocks = {name: block(reader(cache, name != ALONE), CALLS) for name, cache in caches.items()}
        pids = [one.process.pid for one in [*whole.nodes, *whole.sentinels, single] if one.process]
        for place in placements():
            move(pids, [] if place.core is None else [place.core])
            timed = Timed(list(blocks))
            for name in timed.turns(scale):
                timed.add(name, blocks[name]())
            tables.append(timed.table(place.name, dict.fromkeys(blocks, "ours"), ALONE, ranked=False))
            targets.append(Target(f"of a single server, {place.name}", timed.ratio(ONE, ALONE), TIME))
        urls = {ALONE: single.url, TWO: whole.url}
        counted = {} if scale.quick else counts({name: partial(per_hit, url) for name, url in urls.items()}, notes)
        if len(counted) == 2:
            table = Table(
                "instructions of the calling thread",
                ("for one hit", f"x {ALONE}"),
                tuple(Figure(name, (count, count / counted[ALONE])) for name, count in counted.items()),
            )
            tables.append(table)
            targets.append(Target("of a single server, instructions", counted[TWO] / counted[ALONE], INSTRUCTIONS))
    return Result("sentinel", TITLE, tuple(tables), tuple(targets), tuple(notes))
