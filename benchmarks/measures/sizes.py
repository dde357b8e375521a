"""Hits of values of different sizes, of random text and of text that can be compressed."""

from __future__ import annotations

import base64
import pickle
import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.servers import Server, wait_for

from benchmarks.harness import Scale, Timed, block, cores, hold, move
from benchmarks.results import Figure, Result, Table
from benchmarks.values import article
from evercache import Cache

TITLE = "Hits of values of different sizes, server on another core"
SIZES = {"100 B": 100, "1 KB": 1_000, "10 KB": 10_000, "100 KB": 100_000}


def random_text(size: int) -> dict[str, Any]:
    """Text that no compression makes smaller than three quarters."""
    draw = random.Random(size)
    return {"id": size, "text": base64.b64encode(draw.randbytes(max(1, (size - 30) * 3 // 4))).decode()}


def words(size: int) -> dict[str, Any]:
    """Text of few words."""
    return article(7, size) if size > 200 else {"id": size, "text": "the cache of a site " * 4}


def run(scale: Scale) -> Result:
    tables, notes = [], ["compressed: what our entry takes on the server, of what pickle takes"]
    with ExitStack() as stack:
        stack.enter_context(hold(cores()[0] if cores() else None))
        server = stack.enter_context(Server.start("valkey"))
        assert server.process is not None
        move([server.process.pid], cores()[-1:])
        cache = stack.enter_context(Cache(server.url, namespace="bench"))
        for title, make in (("random text", random_text), ("text of few words", words)):
            figures = [
                Figure(name, _measure(server, cache, make, size, scale, stack), "ours")
                for name, size in SIZES.items()
            ]
            columns = ("lower quartile, µs", "median, µs", "pickle on redis-py, µs", "x pickle", "compressed, %")
            tables.append(Table(title, columns, tuple(figures)))
    return Result("sizes", TITLE, tuple(tables), (), tuple(notes))


def _measure(
    server: Server,
    cache: Cache,
    make: Callable[[int], dict[str, Any]],
    size: int,
    scale: Scale,
    stack: ExitStack,
) -> tuple[float | None, ...]:
    read: Any = cache.cached(ttl=3600, name=make.__name__)(make)
    read(size)
    wait_for(lambda: read.peek(size) == make(size), 5.0, "the entry")
    calls = 20 if size <= 10_000 else 8
    blocks = {"evercache": block(partial(read, size), calls)}
    try:
        import redis
    except ImportError:
        return (*_alone(blocks, scale), None, None, None)
    client = stack.enter_context(redis.Redis(port=server.port))
    plain = pickle.dumps(make(size))
    client.setex("plain", 3600, plain)

    def pickled() -> Any:
        found = client.get("plain")
        assert isinstance(found, bytes)
        return pickle.loads(found)

    blocks["pickle"] = block(pickled, calls)
    timed = Timed(list(blocks))
    for name in timed.turns(scale):
        timed.add(name, blocks[name]())
    entry = server.cli("STRLEN", read.key(size))
    return (
        timed.quartile("evercache") * 1e6,
        timed.median("evercache") * 1e6,
        timed.quartile("pickle") * 1e6,
        timed.ratio("evercache", "pickle"),
        100 * entry / len(plain),
    )


def _alone(blocks: dict[str, Callable[[], float]], scale: Scale) -> tuple[float, float]:
    timed = Timed(list(blocks))
    for name in timed.turns(scale):
        timed.add(name, blocks[name]())
    return timed.quartile("evercache") * 1e6, timed.median("evercache") * 1e6
