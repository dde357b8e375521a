"""Where the time of a hit goes, function by function: `python -m benchmarks.hotspots`.

cProfile makes each Python call dearer, so its shares tell what to look at, not what can be saved. What a hit
costs beside other libraries is `python -m benchmarks --only hit`.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.servers import Server, wait_for

from benchmarks.values import product
from evercache import Cache

__all__ = ["profile", "reads"]

Read = Callable[[], Any]
TTL = 3600.0


@contextmanager
def reads() -> Iterator[dict[str, Read]]:
    """The ways of reading by name; servers and caches are gone at the end."""
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        valkey = stack.enter_context(Cache(server.url, namespace="bench"))
        memory = stack.enter_context(Cache("memory://", namespace="bench"))
        yield {
            "a hit at a server": _hitting(valkey),
            "a hit at a server, tagged": _hitting(valkey, tags=("tag",), version=2),
            "a near hit": _hitting(valkey, near=TTL, version=3),
            "a hit on memory://": _hitting(memory),
        }


def _hitting(cache: Cache, **options: Any) -> Read:
    cached: Any = cache.cached(ttl=TTL, **options)(product)
    cached(7)
    wait_for(lambda: cached.peek(7) == product(7), 2.0, "the entry to be there")
    runs = cached.stats().counters.computed
    for _ in range(100):
        cached(7)
    if cached.stats().counters.computed != runs:
        raise RuntimeError(f"{cached!r} does not hit")
    return lambda: cached(7)


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
    lines = [
        (each[2] / total, each[1] / calls, f"{Path(file).parent.name}/{Path(file).name}:{line} {name}")
        if line
        else (each[2] / total, each[1] / calls, name)
        for (file, line, name), each in stats.items()
    ]
    return sorted(lines, reverse=True)[:top]


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hotspots", description=__doc__)
    parser.add_argument("--calls", type=int, default=5_000, help="reads of each kind")
    parser.add_argument("--top", type=int, default=22, help="lines of each profile")
    options = parser.parse_args(arguments)
    with reads() as ways:
        for name, read in ways.items():
            print(f"{name}: share, calls per read, function")
            for share, count, where in profile(read, calls=options.calls, top=options.top):
                print(f"{share:>6.1%}{count:>6.1f}  {where}")
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
