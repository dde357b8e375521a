"""Memory of the server for an entry, beyond what a plain `SET key payload EX ttl` takes."""

from __future__ import annotations

import random
from contextlib import ExitStack
from statistics import mean

from tests.servers import Server, wait_for

from benchmarks.harness import Scale
from benchmarks.results import Figure, Result, Table, Target
from evercache import Cache

TITLE = "Memory of the server for one entry"
SIZES = range(16, 1025, 8)
TTL = 3600
LIMIT = 40.0
BANDS = ((16, 64), (65, 256), (257, 1024))


def run(scale: Scale) -> Result:
    draw = random.Random(7)
    payloads = {size: draw.randbytes(size) for size in SIZES}
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        plain = stack.enter_context(Server.start("valkey"))
        cache = stack.enter_context(Cache(server.url, namespace="bench"))

        @cache.cached(ttl=TTL, name="payload")
        def payload(size: int) -> bytes:
            return payloads[size]

        @cache.cached(ttl=TTL, tags=("project:{size}",), name="tagged")
        def tagged(size: int) -> bytes:
            return payloads[size]

        payload(SIZES[0])
        wait_for(lambda: payload.key(SIZES[0]) in server.cli("KEYS", "*"), 5.0, "the entry")
        others = len(server.cli("KEYS", "*")) - 1
        taken: dict[str, dict[int, int]] = {"an entry": {}, "an entry with a tag": {}}
        bare: dict[str, dict[int, int]] = {name: {} for name in taken}
        for name, function in (("an entry", payload), ("an entry with a tag", tagged)):
            for size in SIZES:
                function(size)
                key = function.key(size)
                plain.cli("SET", key, payloads[size], "EX", TTL)
                taken[name][size] = server.cli("MEMORY", "USAGE", key)
                bare[name][size] = plain.cli("MEMORY", "USAGE", key)

    def beyond(name: str, low: int, high: int) -> float:
        return mean(taken[name][size] - bare[name][size] for size in SIZES if low <= size <= high)

    table = Table(
        "bytes beyond a plain SET with the same key",
        (*(f"{low} to {high} B" for low, high in BANDS), "all"),
        tuple(
            Figure(
                name,
                (*(beyond(name, *band) for band in BANDS), beyond(name, SIZES[0], SIZES[-1])),
                "ours" if name == "an entry" else "plain",
            )
            for name in taken
        ),
    )
    targets = (
        Target("beyond a plain SET, mean of payloads of 16 to 1024 bytes", table.value("an entry", 3), LIMIT, "B"),
        # What the processes of the namespace must agree on is stored once (the state of the bookkeeping).
        Target("other keys after a plain fill: one for the whole namespace", others, 1, ""),
    )
    return Result("memory", TITLE, (table,), targets)
