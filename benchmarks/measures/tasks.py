"""Hits of tasks of one event loop: sixty-four at once, each with a key of its own, and one alone."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

from tests.servers import Server

from benchmarks.harness import Placement, Scale, Timed, cores, hold, move, placements
from benchmarks.instructions import counts, per_hit_of_tasks
from benchmarks.peers.tasks import CONTESTANTS, FLOOR, OURS, REDIS, Read
from benchmarks.results import Figure, Result, Table, Target

TITLE = "Hits at a server, tasks of one event loop"
MANY = 64
LIMITS = {MANY: 0.20, 1: 0.85}
CALLS = 15

Block = Callable[[], Awaitable[float]]


def many(read: Read) -> Block:
    """All tasks at once; seconds for one hit."""

    async def run() -> float:
        began = time.perf_counter()
        await asyncio.gather(*[read(number) for number in range(MANY)])
        return (time.perf_counter() - began) / MANY

    return run


def one(read: Read) -> Block:
    """One hit after the other."""

    async def run() -> float:
        await read(7)
        began = time.perf_counter()
        for _ in range(CALLS):
            await read(7)
        return (time.perf_counter() - began) / CALLS

    return run


async def on_loop(
    loop: str, server: Server, scale: Scale, notes: list[str], where: list[Placement]
) -> list[tuple[Table, Target]]:
    """Everything on one kind of event loop."""
    assert server.process is not None
    found = []
    async with AsyncExitStack() as stack:
        reads: dict[str, Any] = {}
        for each in CONTESTANTS:
            try:
                for module in each.needs:
                    importlib.import_module(module)
                reads[each.name] = await stack.enter_async_context(each.open(server))
            except Exception as error:
                if each.kind != "peer":
                    raise
                notes.append(f"left out on {loop}: {each.name} ({type(error).__name__}: {error})")
        kinds = {each.name: each.kind for each in CONTESTANTS}
        for place in where:
            move([server.process.pid], [] if place.core is None else [place.core])
            for tasks, form in ((MANY, many), (1, one)):
                blocks = {name: form(read) for name, read in reads.items()}
                timed = Timed(list(blocks))
                for name in timed.turns(scale):
                    timed.add(name, await blocks[name]())
                text = f"{tasks} task{'s' * (tasks > 1)}, {loop}, {place.name}"
                ratio = timed.ratio(OURS.name, REDIS.name)
                found.append(
                    (
                        timed.table(text, kinds, REDIS.name),
                        Target(f"of redis.asyncio, {text}", ratio, LIMITS[tasks]),
                    )
                )
    return found


def instructions(url: str, notes: list[str]) -> list[Table]:
    """Of the loop's thread on asyncio, beside the bare protocol."""
    tables = []
    for tasks in (MANY, 1):
        who = {FLOOR.name: "floor", OURS.name: "ours"}
        each = {name: partial(per_hit_of_tasks, url, short, tasks) for name, short in who.items()}
        counted = counts(each, notes)
        if len(counted) == len(each):
            tables.append(
                Table(
                    f"{tasks} task{'s' * (tasks > 1)}, asyncio, instructions of the loop's thread",
                    ("for one hit", f"x {FLOOR.name}"),
                    tuple(
                        Figure(name, (count, count / counted[FLOOR.name]), "ours" if name == OURS.name else "floor")
                        for name, count in counted.items()
                    ),
                )
            )
    return tables


def run(scale: Scale) -> Result:
    notes = [
        f"{FLOOR.name}: the commands of one turn of the loop in one write, a future each, nothing decoded",
        "redis.asyncio, valkey-glide and coredis give bytes, the others a dict",
    ]
    with ExitStack() as stack:
        where = placements()
        stack.enter_context(hold(cores()[0] if cores() else None))
        server = stack.enter_context(Server.start("valkey"))
        found = asyncio.run(on_loop("asyncio", server, scale, notes, where))
        if importlib.util.find_spec("uvloop") is None:
            notes.append("left out: uvloop")
        else:
            import uvloop

            found += uvloop.run(on_loop("uvloop", server, scale, notes, where))
        counted = [] if scale.quick else instructions(server.url, notes)
    tables = (*(table for table, _ in found), *counted)
    return Result("tasks", TITLE, tables, tuple(target for _, target in found), tuple(notes))
