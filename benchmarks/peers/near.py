"""Caches inside the process. Each gives a function of two arguments that is memoized; nothing has tags."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any

from tests.servers import Server, wait_for

from benchmarks.harness import Contestant
from evercache import Cache

__all__ = ["CACHEBOX", "DEEP", "OURS", "contestants"]

Function = Callable[[int, str], dict[str, Any]]
Read = Callable[[int, str], Any]
CACHEBOX = "cachebox (shallow copy)"
DEEP = "cachebox (deep copy)"
LRU = "lru_cache (shares)"
OURS = "evercache (own copy)"


def contestants(function: Function, name: str) -> tuple[Contestant, ...]:
    """All of them for one function."""

    @contextlib.contextmanager
    def ours(server: Server) -> Iterator[Read]:
        with Cache(server.url, namespace="bench") as cache:
            read = cache.cached(ttl=3600, near=3600, name=name)(function)
            read(7, "en")

            def remote() -> tuple[int, int]:
                counters = read.stats().counters
                return counters.computed, counters.replica_hits + counters.master_hits

            def near() -> bool:
                before = remote()
                read(7, "en")
                return remote() == before

            wait_for(near, 5.0, "near to be used")
            mine = read(7, "en")
            mine["changed"] = True
            if "changed" in read(7, "en"):
                raise RuntimeError("a caller's change is seen by the next one")
            before = remote()
            yield read
            if remote() != before:
                raise RuntimeError("not every call of ours was a near hit")

    @contextlib.contextmanager
    def lru(server: Server) -> Iterator[Read]:
        yield lru_cache(maxsize=1024)(function)

    def boxed(postprocess: str | None) -> Callable[[Server], Any]:
        @contextlib.contextmanager
        def enter(server: Server) -> Iterator[Read]:
            import cachebox

            store: Any = cachebox.TTLCache(1024, global_ttl=3600)
            options = {"postprocess": getattr(cachebox, postprocess)} if postprocess else {}
            yield cachebox.cached(store, **options)(function)

        return enter

    @contextlib.contextmanager
    def theine(server: Server) -> Iterator[Read]:
        from theine import Memoize

        yield Memoize(1024, timedelta(hours=1))(function)

    return (
        Contestant(OURS, ours, "ours"),
        Contestant(LRU, lru, "floor"),
        Contestant(CACHEBOX, boxed(None), needs=("cachebox",)),
        Contestant(DEEP, boxed("postprocess_deepcopy"), needs=("cachebox",)),
        Contestant("theine (shares)", theine, needs=("theine",)),
    )
