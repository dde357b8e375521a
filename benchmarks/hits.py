"""What a hit costs a thread, and where its time goes: `python -m benchmarks.hits`.

Every way of reading runs in turn, in short batches of one run, on a Valkey of its own and on `memory://`. Shown
are the median over the batches of the time for one hit and of the processor time of the calling thread (which
another process cannot lengthen). Then the profile of a hit, function by function: cProfile makes each Python
call dearer, so its shares tell what to look at, not what can be saved.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import importlib.util
import json
import os
import platform
import pstats
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import hiredis
from tests.servers import Server, wait_for

from benchmarks.filling import TAG, TTL, Row, row
from evercache import Cache
from evercache.wire.blocking import BlockingEndpoint
from evercache.wire.resp import encode
from evercache.wire.types import ConnectionOptions

__all__ = ["Read", "measure", "profile", "ways"]

Read = Callable[[], Any]
NUMBER = 7


@contextmanager
def _bare(server: Server, key: str) -> Iterator[Read]:
    """The least that a `GET` can cost here: one socket, the parser, nothing else."""
    packed = encode([("GET", key)])
    reader = hiredis.Reader()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def read() -> Any:
            connection.send(packed)
            reader.feed(connection.recv(65536))
            return reader.gets()

        yield read


def _options(near: float = 0.0, tagged: bool = False) -> dict[str, Any]:
    return {"ttl": TTL, "near": near, "tags": (TAG,) if tagged else (), "version": f"{int(near)}{tagged:d}"}


def _decorated(cache: Cache, **options: Any) -> Read:
    """A cached call that hits, checked to be one."""
    cached = cache.cached(**options)(row)
    cached(NUMBER)
    wait_for(lambda: cached.peek(NUMBER) == row(NUMBER), 2.0, "the entry to be there")
    runs = cached.stats().counters.computed

    def read() -> Row:
        return cached(NUMBER)

    for _ in range(100):
        read()
    if cached.stats().counters.computed != runs:
        raise RuntimeError(f"{cached!r} does not hit")
    return read


@contextmanager
def ways() -> Iterator[dict[str, Read]]:
    """The ways of reading by name; servers and caches are gone at the end."""
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        valkey = stack.enter_context(Cache(server.url, namespace="bench"))
        memory = stack.enter_context(Cache("memory://", namespace="bench"))
        reads = {"cached call": _decorated(valkey, **_options())}
        key = valkey.cached(**_options())(row).key(NUMBER)
        endpoint = BlockingEndpoint(server.address, ConnectionOptions())
        stack.callback(endpoint.disconnect)
        reads |= {
            "cached call, tagged": _decorated(valkey, **_options(tagged=True)),
            "cached call, near": _decorated(valkey, **_options(near=TTL)),
            "cached call, memory://": _decorated(memory, **_options()),
            "endpoint.execute(GET)": lambda: endpoint.execute([("GET", key)], time.monotonic() + 1.0),
            "bare socket GET": stack.enter_context(_bare(server, key)),
        }
        if importlib.util.find_spec("redis") is not None:
            import redis

            client = redis.Redis(port=server.port)
            stack.callback(client.close)
            reads["redis-py get(), bytes only"] = lambda: client.get(key)
        for name, read in reads.items():
            if not read():
                raise RuntimeError(f"{name} read nothing")
        yield reads


def measure(reads: dict[str, Read], *, batches: int, calls: int) -> dict[str, dict[str, float]]:
    """Microseconds for one read, by the clock and of this thread's processor time."""
    wall: dict[str, list[float]] = {name: [] for name in reads}
    cpu: dict[str, list[float]] = {name: [] for name in reads}
    turn = range(calls)
    gc.collect()
    for _ in range(batches):
        for name, read in reads.items():
            clock, thread = time.perf_counter(), time.thread_time()
            for _ in turn:
                read()
            cpu[name].append((time.thread_time() - thread) / calls * 1e6)
            wall[name].append((time.perf_counter() - clock) / calls * 1e6)
    return {name: {"us": round(median(wall[name]), 2), "cpu_us": round(median(cpu[name]), 2)} for name in reads}


def profile(read: Read, *, calls: int, top: int) -> list[tuple[float, float, str]]:
    """Share of the time, calls for one read, and name of the functions that take most by themselves."""
    profiler = cProfile.Profile()
    turn = range(calls)
    profiler.enable()
    for _ in turn:
        read()
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(each[2] for each in stats.values())
    rows = [
        (each[2] / total, each[1] / calls, f"{Path(file).parent.name}/{Path(file).name}:{line} {name}")
        if line
        else (each[2] / total, each[1] / calls, name)
        for (file, line, name), each in stats.items()
    ]
    return sorted(rows, reverse=True)[:top]


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hits", description=__doc__)
    parser.add_argument("--batches", type=int, default=25)
    parser.add_argument("--calls", type=int, default=200, help="reads in a batch")
    parser.add_argument("--top", type=int, default=22, help="lines of each profile (0: no profile)")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks/hits.json"))
    options = parser.parse_args(arguments)
    with ways() as reads:
        measured = measure(reads, batches=options.batches, calls=options.calls)
        print(f"{'':28}{'one read':>12}{'processor':>12}")
        for name, each in measured.items():
            print(f"{name:28}{each['us']:>9.1f} µs{each['cpu_us']:>9.1f} µs")
        print(
            f"Python {platform.python_version()}, {os.cpu_count()} cores at load {os.getloadavg()[0]:.1f}, "
            f"{options.batches} batches of {options.calls}, medians"
        )
        profiles = {}
        if options.top:
            for name in ("cached call", "cached call, near", "cached call, memory://"):
                profiles[name] = profile(reads[name], calls=5_000, top=options.top)
                print(f"\n{name}: share, calls per read, function")
                for share, count, where in profiles[name]:
                    print(f"{share:>6.1%}{count:>6.1f}  {where}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "reads": measured,
        "profiles": profiles,
    }
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
