"""Soft expiries of a hot key: readers get the old value at once while the new one is computed in the background."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from statistics import median, quantiles

from tests.servers import Server

from benchmarks.harness import Scale
from benchmarks.results import Figure, Result, Table, Target
from evercache import Cache

TITLE = "Soft expiries of a hot key, 16 readers, a function of 200 ms"
READERS, EXPIRIES = 16, 100
COMPUTES, TTL, PAUSE = 0.2, 0.2, 0.002
#: A reader that waited half as long as the function takes has waited for it.
WAITED_MS = COMPUTES * 1e3 / 2


def run(scale: Scale) -> Result:
    wanted = 20 if scale.quick else EXPIRIES
    patience = wanted * (TTL + COMPUTES) * 2.0
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        cache = stack.enter_context(Cache(server.url, namespace="bench"))
        runs: list[float] = []

        # No early refresh and no jitter: each expiry is met by the readers.
        @cache.cached(ttl=TTL, stale=60, beta=0.0, jitter=0.0, name="hot")
        def hot(number: int) -> int:
            runs.append(time.monotonic())
            time.sleep(COMPUTES)
            return len(runs)

        hot(7)
        over = threading.Event()
        times: list[list[float]] = [[] for _ in range(READERS)]

        def read(mine: list[float]) -> None:
            while not over.is_set():
                began = time.perf_counter()
                hot(7)
                mine.append((time.perf_counter() - began) * 1e3)
                time.sleep(PAUSE)

        threads = [threading.Thread(target=read, args=(mine,), daemon=True) for mine in times]
        for one in threads:
            one.start()
        end = time.monotonic() + patience
        while len(runs) <= wanted and time.monotonic() < end:
            time.sleep(0.05)
        over.set()
        for one in threads:
            one.join(5)
        stale = hot.stats().counters.stale_served
        if hot.stats().counters.computed != len(runs) or len(runs) < wanted / 2:
            raise RuntimeError(f"{len(runs)} runs of the function; {wanted} were expected")
    seen = sorted(time for mine in times for time in mine)
    cuts = quantiles(seen, n=1000)
    waited = sum(time >= WAITED_MS for time in seen)
    table = Table(
        f"{len(runs) - 1} expiries, {len(seen):,} reads, {stale:,} of them stale",
        ("ms",),
        (
            Figure("median", (median(seen),), "ours"),
            Figure("99 %", (cuts[989],)),
            Figure("99.9 %", (cuts[998],)),
            Figure("longest", (seen[-1],)),
        ),
    )
    target = Target(f"readers that waited for the function ({WAITED_MS:.0f} ms or more)", waited, 0, "")
    return Result("refresh", TITLE, (table,), (target,))
