"""What grows with use, and what does not: the cost of a hit with many keys, and with many known marks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from typing import Any

from tests.servers import Server, wait_for

from benchmarks.copies import copy_entries
from benchmarks.harness import Scale, Timed, block, cores, hold, move
from benchmarks.invalidations import invalidate_tags
from benchmarks.results import Result, Table
from benchmarks.values import product
from evercache import Cache

TITLE = "The cost of a hit as the cache grows, server on another core"
KEYS = (1, 1_000, 1_000_000)
MARKS = (1, 100, 10_000)
CALLS = 25


def run(scale: Scale) -> Result:
    keys = (*KEYS[:-1], 100_000) if scale.quick else KEYS
    marks = (*MARKS[:-1], 1_000) if scale.quick else MARKS
    with ExitStack() as stack:
        stack.enter_context(hold(cores()[0] if cores() else None))
        readers = {_named(count, "key"): _keys(count, stack) for count in keys}
        tables = [_timed("keys on the server, read at random", readers, scale)]
        server = stack.enter_context(Server.start("valkey"))
        assert server.process is not None
        move([server.process.pid], cores()[-1:])
        readers = {_named(count, "mark"): _marks(server, count, stack) for count in marks}
        tables.append(_timed("marks that the process knows; the function has two tags", readers, scale))
    return Result("growth", TITLE, tuple(tables))


def _timed(title: str, readers: dict[str, Callable[[], Any]], scale: Scale) -> Table:
    blocks = {name: block(read, CALLS) for name, read in readers.items()}
    timed = Timed(list(blocks))
    for name in timed.turns(scale):
        timed.add(name, blocks[name]())
    return timed.table(title, dict.fromkeys(blocks, "ours"), next(iter(blocks)), ranked=False)


def _named(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count > 1)}"


def _keys(count: int, stack: ExitStack) -> Callable[[], Any]:
    server = stack.enter_context(Server.start("valkey"))
    assert server.process is not None
    move([server.process.pid], cores()[-1:])
    cache = stack.enter_context(Cache(server.url, namespace="bench"))
    read: Any = cache.cached(ttl=3600, jitter=0.0, name="product")(product)
    copy_entries(read, server, count)
    turn = cycle(random.Random(count).choices(range(count), k=5_000))
    return lambda: read(next(turn))


def _marks(server: Server, count: int, stack: ExitStack) -> Callable[[], Any]:
    """A cache with a namespace of its own; its process has issued so many marks."""
    cache = stack.enter_context(Cache(server.url, namespace=f"marks{count}"))
    read: Any = cache.cached(ttl=3600, tags=("product:{number}", "products"), name="product")(product)
    asyncio.run(invalidate_tags(cache, count))
    read(7)
    wait_for(lambda: read.peek(7) == product(7), 5.0, "the entry")
    return lambda: read(7)
