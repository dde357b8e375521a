"""What each process that listens costs the master: processor time by invalidations, memory and connections."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection

from tests.servers import Server

from benchmarks.harness import Scale, cores, hold, move
from benchmarks.invalidations import invalidate_keys
from benchmarks.results import Figure, Result, Table
from benchmarks.values import product
from evercache import Cache

TITLE = "What a fleet costs its master"
RATES = (0, 200, 1_000)
LISTENERS = (1, 16)
_CONTEXT = multiprocessing.get_context("spawn")


def listeners(url: str, count: int, pipe: Connection) -> None:
    """So many caches, each with a tail of its own, as if each were a process; until told to end."""
    with ExitStack() as stack:
        for _ in range(count):
            cache = stack.enter_context(Cache(url, namespace="bench"))
            cache.cached(ttl=3600, name="product")(product)(7)
        pipe.send("ready")
        pipe.recv()


def run(scale: Scale) -> Result:
    rates = (0, 1_000) if scale.quick else RATES
    seconds = 1.0 if scale.quick else 3.0
    shares: dict[tuple[int, int], float] = {}
    connections: dict[int, int] = {}
    memory: dict[int, int] = {}
    for count in LISTENERS:
        with ExitStack() as stack:
            server = stack.enter_context(Server.start("valkey"))
            assert server.process is not None
            move([server.process.pid], cores()[-1:])
            pipe, there = _CONTEXT.Pipe()
            with hold(cores()[0] if cores() else None):
                process = _CONTEXT.Process(target=listeners, args=(server.url, count, there), daemon=True)
                process.start()
                stack.callback(process.join, 10)
                stack.callback(pipe.send, None)
                if not pipe.poll(60):
                    raise TimeoutError("the listeners do not answer")
                cache = stack.enter_context(Cache(server.url, namespace="bench"))
                cache.delete("first")
                connections[count] = int(server.info("clients")["connected_clients"])
                memory[count] = int(server.info("memory")["mem_clients_normal"])
                for rate in rates:
                    shares[count, rate] = _share(server, partial(_load, cache, rate, seconds))
    few, many = LISTENERS
    more = many - few
    lines = [
        Figure(
            f"{rate:,} invalidations a second",
            (
                shares[few, rate] * 100,
                shares[many, rate] * 100,
                (shares[many, rate] - shares[few, rate]) / more * 100,
            ),
            "ours",
        )
        for rate in rates
    ]
    columns = (f"with {few} listener, %", f"with {many}, %", "each listener more, %")
    return Result(
        "fleet",
        TITLE,
        (
            Table("processor of the master, of one core", columns, tuple(lines)),
            Table(
                "each listener more",
                ("measured",),
                (
                    Figure("connections", ((connections[many] - connections[few]) / more,), "ours"),
                    Figure("memory of the master, KB", ((memory[many] - memory[few]) / more / 1000,), "ours"),
                ),
            ),
        ),
        (),
        ("a listener: what one process of an application opens, before it has several threads that read at once",),
    )


def _load(cache: Cache, rate: int, seconds: float) -> None:
    asyncio.run(invalidate_keys(cache, rate, seconds))


def _share(server: Server, during: Callable[[], None]) -> float:
    """The part of one core that the server uses meanwhile."""
    before, began = _used(server), time.monotonic()
    during()
    return (_used(server) - before) / (time.monotonic() - began)


def _used(server: Server) -> float:
    info = server.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
