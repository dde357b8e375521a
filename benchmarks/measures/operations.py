"""What else is done with a cache: many keys at once, filling, invalidating one entry or a million."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any

from tests.servers import Server

from benchmarks.copies import copy_entries
from benchmarks.harness import Scale, Timed, block, cores, hold, move
from benchmarks.results import Figure, Result, Table, Target
from benchmarks.values import product
from evercache import Cache

TITLE = "Other operations, one thread, server on another core"
FEW, MANY = 1_000, 1_000_000
LIMIT = 1.5
KEYS = [f"key:{number}" for number in range(100)]
Operations = dict[str, tuple[Callable[[], Any], Callable[[], Any], int]]


def run(scale: Scale) -> Result:
    notes: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(hold(cores()[0] if cores() else None))
        small = stack.enter_context(Server.start("valkey"))
        large = stack.enter_context(Server.start("valkey"))
        move([one.process.pid for one in (small, large) if one.process], cores()[-1:])
        beside = _beside(small, scale, notes, stack)
        sizes = _sizes(small, large, scale, notes, stack)
    ratios = [Target(f"of its time over {FEW:,} entries: {name}", ratio, LIMIT) for name, ratio in sizes[1]]
    return Result("operations", TITLE, (*beside, sizes[0]), tuple(ratios), tuple(notes))


def _beside(server: Server, scale: Scale, notes: list[str], stack: ExitStack) -> list[Table]:
    """Ours beside what one does with redis-py and pickle."""
    try:
        import redis
    except ImportError as error:
        notes.append(f"left out: redis-py ({error})")
        return []
    cache = stack.enter_context(Cache(server.url, namespace="bench", on_error="raise"))
    client = stack.enter_context(redis.Redis(port=server.port))
    numbers, others = count(), count()
    filled: Any = cache.cached(ttl=3600, name="filled")(product)
    gone: Any = cache.cached(ttl=3600, name="gone")(product)
    values = {key: product(number) for number, key in enumerate(KEYS)}
    cache.set_many(values, ttl=3600)
    for key, value in values.items():
        client.setex(f"plain:{key}", 3600, pickle.dumps(value))
    plain = [f"plain:{key}" for key in KEYS]

    def get_many() -> list[Any]:
        return [pickle.loads(found) for found in client.mget(plain)]

    def fill() -> None:
        key = f"plain:filled:{next(others)}"
        if client.get(key) is None:
            client.setex(key, 3600, pickle.dumps(product(7)))

    operations: Operations = {
        "get_many of 100": (lambda: cache.get_many(KEYS), get_many, 5),
        "set": (
            lambda: cache.set("one", values["key:7"], ttl=3600),
            lambda: client.setex("plain:one", 3600, pickle.dumps(values["key:7"])),
            20,
        ),
        "a fill": (lambda: filled(next(numbers)), fill, 20),
        "invalidate one": (lambda: gone.invalidate(7), lambda: client.delete("plain:gone"), 20),
    }
    if cache.get_many(KEYS) != values or get_many() != list(values.values()):
        raise RuntimeError("get_many did not find everything")
    figures = []
    for name, (ours, theirs, size) in operations.items():
        blocks = {"evercache": block(ours, size), "redis-py": block(theirs, size)}
        timed = Timed(list(blocks))
        for each in timed.turns(scale):
            timed.add(each, blocks[each]())
        figures.append(
            Figure(
                name,
                (
                    timed.quartile("evercache") * 1e6,
                    timed.median("evercache") * 1e6,
                    timed.quartile("redis-py") * 1e6,
                    timed.ratio("evercache", "redis-py"),
                ),
                "ours",
            )
        )
    notes.append("a fill of ours takes a lease, so that one caller computes; redis-py: get, then setex; pickle")
    columns = ("lower quartile, µs", "median, µs", "pickle on redis-py, µs", "x redis-py")
    return [Table("beside pickle on redis-py", columns, tuple(figures))]


def _sizes(
    small: Server, large: Server, scale: Scale, notes: list[str], stack: ExitStack
) -> tuple[Table, list[tuple[str, float | None]]]:
    """Invalidations over few entries and over many, in turn."""
    many = 50_000 if scale.quick else MANY
    sides = {}
    for server, entries in ((small, FEW), (large, many)):
        # A slow answer must be measured, and a failure must not look like a miss.
        cache = stack.enter_context(Cache(server.url, namespace="wide", budget=2.0, on_error="raise"))
        read: Any = cache.cached(ttl=3600, tags=("rows",), name="wide")(product)
        read.invalidate_all()
        copy_entries(read, server, entries)
        sides[entries] = (cache, read)
    sample = random.Random(7).sample(range(many), 500)
    read = sides[many][1]
    alive = sum(read.peek(number) is not None for number in sample)
    names = {"f.invalidate_all()": FEW, "cache.invalidate_tag()": FEW, "cache.clear()": FEW}
    figures, ratios = [], []
    for name in names:
        blocks = {
            str(entries): block(
                {
                    "f.invalidate_all()": read.invalidate_all,
                    "cache.invalidate_tag()": lambda cache=cache: cache.invalidate_tag("rows"),
                    "cache.clear()": cache.clear,
                }[name],
                5,
            )
            for entries, (cache, read) in sides.items()
        }
        timed = Timed(list(blocks))
        for each in timed.turns(scale):
            timed.add(each, blocks[each]())
        ratio = timed.ratio(str(many), str(FEW))
        figures.append(
            Figure(name, (timed.quartile(str(FEW)) * 1e6, timed.quartile(str(many)) * 1e6, ratio), "ours")
        )
        ratios.append((f"{name} over {many:,} entries", ratio))
    served = sum(read.peek(number) is not None for number in sample)
    if alive != len(sample) or served:
        raise RuntimeError(f"{alive} of {len(sample)} hit before the invalidation, {served} after it")
    notes.append(f"of {alive} random entries of {many:,}, {alive} hit before and none afterwards")
    columns = (f"over {FEW:,} entries, µs", f"over {many:,}, µs", "ratio")
    return Table("invalidations of everything", columns, tuple(figures)), ratios
