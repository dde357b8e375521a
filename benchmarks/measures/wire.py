"""Round trips and bytes on the wire for each operation, counted between the caller and its servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

from tests.servers import Deployment, Server, wait_for

from benchmarks.counting import Count, CountingProxy
from benchmarks.harness import Scale
from benchmarks.results import Figure, Result, Table, Target
from benchmarks.values import product
from evercache import Cache
from evercache.protocol.types import Address

TITLE = "Round trips and bytes on the wire"
REPEATS = 20
COLUMNS = ("round trips", "commands", "bytes sent", "bytes received")
KEYS = [f"key:{number}" for number in range(100)]
LIMITS = {
    "a hit": 1,
    "a fill (read, lease, store)": 3,
    "f.invalidate(7)": 1,
    "f.invalidate_all()": 1,
    "get_many of 100": 1,
}


def run(scale: Scale) -> Result:
    figures, targets = [], []
    with ExitStack() as stack:
        server = stack.enter_context(Server.start("valkey"))
        proxy = stack.enter_context(CountingProxy(server.port))
        cache = stack.enter_context(Cache(f"redis://127.0.0.1:{proxy.port}", namespace="bench", hedge=0))
        for name, operation in _operations(cache):
            operation()  # scripts are loaded, and connections open
            counted = _counted(proxy, operation)
            figures.append(Figure(name, tuple(each / REPEATS for each in counted), "ours"))
            if name in LIMITS:
                targets.append(Target(f"round trips of {name}", counted[0] / REPEATS, LIMITS[name], ""))
    spread, most = _spread()
    targets.append(Target("round trips of get_many of 100 at any of three nodes", most, 1, ""))
    tables = (Table("one server", COLUMNS, tuple(figures)), spread)
    return Result("wire", TITLE, tables, tuple(targets), ("the value is a dict of about 200 bytes",))


def _spread() -> tuple[Table, float]:
    """`get_many` over a deployment, node by node; the table, and the most trips to one node for one call."""
    with ExitStack() as stack:
        whole = stack.enter_context(Deployment.start())
        master = whole.master()
        proxies = {"master": stack.enter_context(CountingProxy(master.port))}
        for number, replica in enumerate(whole.replicas, 1):
            proxies[f"replica {number}"] = stack.enter_context(CountingProxy(replica.port))
        through = {Address("127.0.0.1", one.target): Address("127.0.0.1", one.port) for one in proxies.values()}
        cache = stack.enter_context(Cache(whole.url, namespace="bench", address_map=through, hedge=0))
        cache.set_many({key: product(number) for number, key in enumerate(KEYS)}, ttl=3600)
        # Until both replicas are admitted.
        wait_for(
            lambda: (
                sum(node.use == "reads" for node in cache.health().nodes) == 2 and len(cache.get_many(KEYS)) == 100
            ),
            10.0,
            "the replicas to be read",
        )
        for one in proxies.values():
            one.take()
        most = dict.fromkeys(proxies, 0)
        total = {name: Count() for name in proxies}
        for _ in range(REPEATS):
            if cache.get_many(KEYS)[KEYS[-1]] != product(99):
                raise RuntimeError("get_many did not find everything")
            for name, one in proxies.items():
                counted = one.take()
                most[name] = max(most[name], counted.trips)
                total[name] += counted
        if not sum(most.values()):
            raise RuntimeError("the proxies saw nothing")
    figures = tuple(
        Figure(name, tuple(each / REPEATS for each in (one.trips, one.commands, one.sent, one.received)), "ours")
        for name, one in total.items()
    )
    return Table("get_many of 100 through Sentinel, two replicas", COLUMNS, figures), max(most.values())


def _operations(cache: Cache) -> Iterator[tuple[str, Callable[[], Any]]]:
    numbers = count(1000)
    read: Any = cache.cached(ttl=3600, name="product")(product)
    filled: Any = cache.cached(ttl=3600, name="filled")(product)
    gone: Any = cache.cached(ttl=3600, name="gone")(product)
    cache.set_many({key: product(number) for number, key in enumerate(KEYS)}, ttl=3600)
    read(7)
    wait_for(lambda: read.peek(7) == product(7) and cache.get(KEYS[-1]) == product(99), 5.0, "the entries")
    time.sleep(0.3)  # until reads are plain
    yield "a hit", lambda: read(7)
    yield "a fill (read, lease, store)", lambda: filled(next(numbers))
    yield "get_many of 100", lambda: cache.get_many(KEYS)
    yield "set", lambda: cache.set("key", product(7), ttl=3600)
    yield "f.invalidate(7)", lambda: gone.invalidate(7)
    yield "f.invalidate_all()", gone.invalidate_all
    yield "invalidate_tag", lambda: cache.invalidate_tag("project:7")


def _counted(proxy: CountingProxy, operation: Callable[[], Any]) -> tuple[int, int, int, int]:
    proxy.take()
    total = Count()
    for _ in range(REPEATS):
        operation()
        total += proxy.take()
    time.sleep(0.05)
    total += proxy.take()
    if total.trips < REPEATS:
        raise RuntimeError(f"{total} for {REPEATS} operations: the proxy did not see them all")
    return total.trips, total.commands, total.sent, total.received
