"""Hearing invalidations: what 5,000 a second cost a process, and how one starts that has 100,000 marks to learn."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from tests.servers import Server

from benchmarks.harness import Scale, cores, hold, move
from benchmarks.invalidations import invalidate_keys, invalidate_tags
from benchmarks.results import Figure, Result, Table
from benchmarks.values import product
from evercache import Cache

TITLE = "Hearing invalidations"
RATE = 5_000
MARKS = 100_000
_CONTEXT = multiprocessing.get_context("spawn")


def listener(url: str, pipe: Connection) -> None:
    """A process that hears invalidations; answers with processor times, and with moments at which it heard one."""
    with Cache(url, namespace="bench") as cache:
        read: Any = cache.cached(ttl=3600, tags=("probe",), name="probe")(product)
        read(7)
        pipe.send("ready")
        while (wish := pipe.recv()) is not None:
            if wish == "processor":
                pipe.send((time.process_time(), time.monotonic()))
            elif wish == "fill":
                read(7)
                pipe.send(read.peek(7) is not None)
            else:
                end = time.monotonic() + 5
                # The entry stays on the server: it is missed as soon as the mark is heard.
                while read.peek(7) is not None and time.monotonic() < end:
                    time.sleep(0.0005)
                pipe.send(time.monotonic())


def run(scale: Scale) -> Result:
    notes: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        assert server.process is not None
        move([server.process.pid], cores()[-1:])
        tail = _tail(server, scale, stack)
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        start = _start(server, 5_000 if scale.quick else MARKS, stack)
    return Result("following", TITLE, (tail, start), (), tuple(notes))


# -- the tail


def _tail(server: Server, scale: Scale, stack: ExitStack) -> Table:
    seconds = 2.0 if scale.quick else 5.0
    pipe, there = _CONTEXT.Pipe()
    with hold(cores()[-1] if cores() else None):
        process = _CONTEXT.Process(target=listener, args=(server.url, there), daemon=True)
        process.start()
    stack.callback(process.join, 10)
    stack.callback(pipe.send, None)
    _received(pipe)
    cache = stack.enter_context(Cache(server.url, namespace="bench"))
    cache.invalidate_tag("first")
    idle = _share(pipe, lambda: time.sleep(seconds / 2))
    sent: list[int] = []
    with hold(cores()[0] if cores() else None):
        load = asyncio.new_event_loop()
        stack.callback(load.close)
        busy = _share(pipe, lambda: sent.append(load.run_until_complete(invalidate_keys(cache, RATE, seconds))))
        lags = load.run_until_complete(_probed(cache, pipe, 5 if scale.quick else 15))
    return Table(
        f"the tail of one process, at {RATE:,} invalidations a second",
        ("measured",),
        (
            Figure("invalidations a second, reached", (sent[0] / seconds,)),
            Figure("processor of the listening process, %", (busy * 100,), "ours"),
            Figure("the same without any invalidation, %", (idle * 100,)),
            Figure("heard after, median, ms", (median(lags) * 1e3,)),
            Figure("heard after, longest, ms", (max(lags) * 1e3,)),
        ),
    )


async def _probed(cache: Cache, pipe: Connection, times: int) -> list[float]:
    """How long the listener takes to hear one invalidation among the others; seconds."""
    over = asyncio.Event()
    load = asyncio.create_task(invalidate_keys(cache, RATE, 60, over))
    lags = []
    for _ in range(times):
        pipe.send("fill")
        if not await asyncio.to_thread(_received, pipe):
            continue
        pipe.send("probe")
        await asyncio.sleep(0.02)
        await cache.ainvalidate_tag("probe")
        acknowledged = time.monotonic()
        lags.append(max(0.0, await asyncio.to_thread(_received, pipe) - acknowledged))
    over.set()
    await load
    return lags


def _share(pipe: Connection, during: Callable[[], Any]) -> float:
    """The part of one core that the listener uses meanwhile."""
    pipe.send("processor")
    cpu, clock = _received(pipe)
    during()
    pipe.send("processor")
    then, now = _received(pipe)
    return float((then - cpu) / (now - clock))


# -- the start


def starter(url: str, namespace: str, pipe: Connection) -> None:
    """A process that starts: seconds of its first call, and until it hears all invalidations."""
    began = time.monotonic()
    with Cache(url, namespace=namespace, budget=5.0) as cache:
        read: Any = cache.cached(ttl=3600, near=3600, name="product")(product)
        read(7)
        first = time.monotonic() - began

        def remote() -> int:
            counters = read.stats().counters
            return int(counters.computed + counters.replica_hits + counters.master_hits)

        end = began + 10
        while time.monotonic() < end:  # near is used as soon as invalidations are heard
            before = remote()
            read(7)
            if remote() == before:
                break
            time.sleep(0.001)
        pipe.send((first, time.monotonic() - began))


def _start(server: Server, marks: int, stack: ExitStack) -> Table:
    with Cache(server.url, namespace="many") as cache:
        asyncio.run(invalidate_tags(cache, marks))
        cache.cached(ttl=3600, near=3600, name="product")(product)(7)
    with Cache(server.url, namespace="none") as cache:
        cache.cached(ttl=3600, near=3600, name="product")(product)(7)
    server.cli_many([("CONFIG", "SET", "slowlog-log-slower-than", 0), ("CONFIG", "SET", "slowlog-max-len", 1000)])
    figures = []
    for name, namespace in (("no marks", "none"), (f"{marks:,} marks", "many")):
        firsts, alls, slowest = [], [], 0
        for _ in range(3):
            server.cli("SLOWLOG", "RESET")
            pipe, there = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=starter, args=(server.url, namespace, there), daemon=True)
            process.start()
            first, whole = _received(pipe)
            process.join(10)
            firsts.append(first * 1e3)
            alls.append(whole * 1e3)
            slowest = max(slowest, *(entry[2] for entry in server.cli("SLOWLOG", "GET", 1000)))
        figures.append(Figure(name, (median(firsts), median(alls), slowest / 1e3), "ours"))
    columns = ("first call, ms", "hears everything after, ms", "slowest command at the server, ms")
    return Table("a process starts", columns, tuple(figures))


def _received(pipe: Connection) -> Any:
    if not pipe.poll(60):
        raise TimeoutError("the other process does not answer")
    return pipe.recv()
