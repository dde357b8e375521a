"""What the operations of a cache cost at given servers, in a few seconds: round trip, hit, fill, invalidation."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import median, quantiles
from typing import Any

from evercache.cache import Cache
from evercache.clock import monotonic
from evercache.errors import MasterUnknown, UnavailableError
from evercache.net.blocking import BlockingWire
from evercache.ops.remote import targets_of
from evercache.ops.survey import NodeReport, Survey, Targets, ask, survey
from evercache.protocol.commands import Bookkeeping

__all__ = ["Bench", "Timing", "bench"]

#: Keys of one `get_many`.
MANY = 100
_TTL = 60
_BLOCK, _WARM = 10, 3
_WORDS = "a dict such as a database gives, of some two hundred bytes; "


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one operation took, in seconds, and how often it was tried."""

    name: str
    runs: int
    median: float
    p95: float
    longest: float

    @classmethod
    def of(cls, name: str, times: list[float]) -> Timing:
        """The summary of some times."""
        return cls(name, len(times), median(times), quantiles(times, n=20)[-1], max(times))


@dataclass(frozen=True, slots=True)
class Bench:
    """The timings, and whom they were taken at. `trips`: a `PING` on an open connection, for each node in use."""

    trips: tuple[Timing, ...]
    operations: tuple[Timing, ...]
    #: Hits that a replica answered, of all.
    replica_hits: int
    hits: int


def bench(url: str, *, seconds: float = 3.0, namespace: str | None = None) -> Bench:
    """Try every operation in turn for so many seconds.

    Without a `namespace`, one of its own is used, of which nothing is left but entries that expire within a
    minute. Raises `URLError`, `ConfigurationError`, and `UnavailableError` when the servers fail.
    """
    targets = targets_of(url)
    seen = survey(targets)
    if seen.master is None:
        raise MasterUnknown("; ".join(seen.problems))
    own = namespace is None
    namespace = namespace or f"bench-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        if own:
            stack.callback(_forget, seen, targets, namespace)
        # Slow answers are measured, not given up, and failures are told.
        cache = stack.enter_context(Cache(url, namespace=namespace, budget=2.0, on_error="raise", jitter=0.0))
        trips = {_name(node): stack.enter_context(_ping(node, targets)) for node in _used(seen)}
        rows = cache.cached(ttl=_TTL, beta=0.0, name="evercache.bench.rows")(_row)
        filled = cache.cached(ttl=_TTL, name="evercache.bench.filled")(_row)
        number = count(secrets.randbelow(1 << 40))
        keys = [f"evercache.bench:{index}" for index in range(MANY)]
        cache.set_many({key: _row(index) for index, key in enumerate(keys)}, ttl=_TTL)
        rows(7)
        operations: dict[str, Callable[[], Any]] = {
            "hit": lambda: rows(7),
            f"get_many of {MANY}": lambda: cache.get_many(keys),
            "fill": lambda: filled(next(number)),
            "invalidate": lambda: filled.invalidate(7),
        }
        _settle(cache)
        times = _timed({**trips, **operations}, seconds)
        counters = rows.stats().counters
        if counters.computed > 1:
            raise UnavailableError("an entry was lost meanwhile: is the memory of the servers full?")
        return Bench(
            tuple(times[name] for name in trips),
            tuple(times[name] for name in operations),
            counters.replica_hits,
            counters.hits,
        )


def _row(number: int) -> dict[str, Any]:
    return {"id": number, "name": f"row {number}", "text": _WORDS * 2, "price": 12.9, "in_stock": True}


def _used(seen: Survey) -> list[NodeReport]:
    return [node for node in seen.nodes if node.use != "nothing"]


def _name(node: NodeReport) -> str:
    return f"round trip to {node.address}, {node.role}"


@contextlib.contextmanager
def _ping(node: NodeReport, targets: Targets) -> Iterator[Callable[[], Any]]:
    endpoint = BlockingWire().endpoint(node.address, targets.node_options)
    try:
        yield lambda: endpoint.execute([("PING",)], monotonic() + 2.0)
    finally:
        endpoint.disconnect()


def _settle(cache: Cache) -> None:
    """Until replicas are admitted, or a second has passed: what a process does only once is not measured."""
    end = monotonic() + 1.0
    while monotonic() < end:
        nodes = cache.health().nodes
        if nodes and all(node.use in ("reads", "writes", "writes and reads") for node in nodes):
            return
        time.sleep(0.05)


def _timed(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Blocks of each in turn, so that all of them meet the same moments of the servers."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(_WARM):
            call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 2 * _BLOCK:
        for name, call in calls.items():
            for _ in range(_BLOCK):
                began = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began)
    return {name: Timing.of(name, some) for name, some in times.items()}


def _forget(seen: Survey, targets: Targets, namespace: str) -> None:
    """Remove the bookkeeping of a namespace that nobody else has: it would have no TTL."""
    assert seen.master is not None
    with contextlib.suppress(UnavailableError):
        ask(seen.master, targets.node_options, ("UNLINK", *Bookkeeping(namespace).keys))
