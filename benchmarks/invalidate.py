"""Does an invalidation of everything take longer when everything is more? `python -m benchmarks.invalidate`.

Two Valkey servers of its own, one with a thousand entries of a function, one with a million. The same process
invalidates on both in turn, in an order that changes from round to round: `f.invalidate_all()`,
`cache.invalidate_tag()` and `cache.clear()`. Before that come some cycles for each operation: all entries are
alive, a random sample of them is seen to hit, the operation runs, and the sample is seen to miss, in the cache
that invalidated and in a second one that only hears of it. The timed rounds meet the same number of dead
entries. Exit code 1 when a median grows by half or more, or when one entry of a sample is still served.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.servers import Server, wait_for

from benchmarks.filling import TAG, Rows, cached_rows, fill, revive, row
from evercache import Cache
from evercache.results import Ack

__all__ = ["LIMIT", "OPERATIONS", "Measured", "Side", "Timing", "measure", "missing", "run"]

#: The median on the large server may be this many times that on the small one.
LIMIT = 1.5
_ABSENT = object()


class Side:
    """One server with the entries of one cached function, and two caches on it; used by one thread."""

    def __init__(self, server: Server, count: int, *, really: int, budget: float = 2.0) -> None:
        """Fill `count` entries, the first `really` of them by calling the function."""
        self.server = server
        self.count = count
        # A slow answer must be measured, not given up; and a failure must not look like a miss.
        self.cache = Cache(server.url, namespace="bench", budget=budget, on_error="raise")
        self.witness = Cache(server.url, namespace="bench", budget=budget, on_error="raise")
        self.rows: Rows = cached_rows(self.cache)
        self.heard: Rows = cached_rows(self.witness)
        self.memory_before = self.memory()
        began = time.perf_counter()
        for number in range(really):
            self.rows(number)
        self.seconds_real = time.perf_counter() - began
        self.seconds_set = fill(
            self.rows,
            range(really, count),
            server,
            now_ms=int(server.cli("TIME")[0]) * 1000,
            stamp=self.tip(),
        )
        self.entries = self.size()
        if self.entries != count:
            raise RuntimeError(f"{count} entries were filled, and the server has {self.entries}")
        self.memory_filled = self.memory()
        # The first one carries the whole script and creates the bookkeeping; the second cache begins to listen.
        self.rows.invalidate_all()
        self.heard.peek(0)

    def __repr__(self) -> str:
        return f"<Side {self.server!r} entries={self.count}>"

    def close(self) -> None:
        """Close the caches; the server is the caller's."""
        self.cache.close()
        self.witness.close()

    def tip(self) -> int:
        """The newest stamp of the server."""
        stamp = self.cache.stamp()
        if stamp is None:
            raise RuntimeError(f"{self!r} did not tell its newest stamp")
        return stamp

    def size(self) -> int:
        """Entries on the server (keys that are not bookkeeping)."""
        kept = [f"bench~{name}" for name in ("state", "marks", "log", "ids")]
        total, bookkeeping = self.server.cli_many([("DBSIZE",), ("EXISTS", *kept)])
        return int(total) - int(bookkeeping)

    def memory(self) -> int:
        """Bytes that the server uses."""
        return int(self.server.info("memory")["used_memory"])

    def revive(self) -> None:
        """All entries are alive again."""
        revive(self.rows, self.count, self.server, stamp=self.tip())

    def script_microseconds(self) -> float:
        """The server's own time for one script since the last `CONFIG RESETSTAT`."""
        line = self.server.info("commandstats")["cmdstat_evalsha"]
        return float(dict(part.split("=") for part in line.split(","))["usec_per_call"])


OPERATIONS: dict[str, Callable[[Side], Ack]] = {
    "f.invalidate_all()": lambda side: side.rows.invalidate_all(),
    "cache.invalidate_tag()": lambda side: side.cache.invalidate_tag(TAG),
    "cache.clear()": lambda side: side.cache.clear(),
}


@dataclass(frozen=True, slots=True)
class Timing:
    """One operation on one side: milliseconds around the call, `server_us` inside the server.

    `alive_ms` is the median of the calls that met living entries, `still_there` how many entries lie on the
    server afterwards: they leave by their TTL.
    """

    entries: int
    median_ms: float
    p95_ms: float
    alive_ms: float
    server_us: float
    still_there: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One operation on both sides. `heard_ms`: until the second cache stopped serving the entries."""

    operation: str
    small: Timing
    large: Timing
    ratio: float
    sample: int
    hits_before: int
    misses_here: int
    misses_there: int
    heard_ms: float

    @property
    def good(self) -> bool:
        """Whether it holds what is promised."""
        seen = {self.hits_before, self.misses_here, self.misses_there}
        return self.ratio < LIMIT and seen == {self.sample}


def missing(rows: Rows, numbers: list[int]) -> int:
    """How many of these calls have no entry that may be served; RuntimeError for a wrong value."""
    absent = 0
    for number in numbers:
        value = rows.peek(number, default=_ABSENT)
        absent += value is _ABSENT
        if value is not _ABSENT and value != row(number):
            raise RuntimeError(f"the entry of {number} holds {value!r}")
    return absent


def _timed(side: Side, operation: Callable[[Side], Ack]) -> float:
    began = time.perf_counter()
    ack = operation(side)
    took = time.perf_counter() - began
    if not ack:
        raise RuntimeError(f"{side!r} did not acknowledge: {ack}")
    return took


def measure(
    name: str, small: Side, large: Side, *, cycles: int, rounds: int, sample: int, rng: random.Random
) -> Measured:
    """One operation: some cycles with everything alive and a look at a sample, then the timed rounds."""
    operation = OPERATIONS[name]
    looks = [_cycle(operation, small, large, sample, rng) for _ in range(cycles)]
    for side in (small, large):
        side.server.cli("CONFIG", "RESETSTAT")
    times: dict[Side, list[float]] = {small: [], large: []}
    for number in range(rounds):
        for side in (small, large) if number % 2 else (large, small):
            times[side].append(_timed(side, operation))
            # The tails take in the line now, and not inside the next measurement.
            time.sleep(0.001)
    timing = {
        side: Timing(
            entries=side.count,
            median_ms=median(took) * 1e3,
            p95_ms=quantiles(took, n=20)[-1] * 1e3,
            alive_ms=median(look.times[side] for look in looks) * 1e3,
            server_us=side.script_microseconds(),
            still_there=side.size(),
        )
        for side, took in times.items()
    }
    return Measured(
        operation=name,
        small=timing[small],
        large=timing[large],
        ratio=timing[large].median_ms / timing[small].median_ms,
        sample=sum(look.sample for look in looks),
        hits_before=sum(look.hits_before for look in looks),
        misses_here=sum(look.misses_here for look in looks),
        misses_there=sum(look.misses_there for look in looks),
        heard_ms=median(look.heard for look in looks) * 1e3,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    times: dict[Side, float]
    sample: int
    hits_before: int
    misses_here: int
    misses_there: int
    heard: float


def _cycle(operation: Callable[[Side], Ack], small: Side, large: Side, sample: int, rng: random.Random) -> _Look:
    """Everything alive, the operation once on each side, and a random sample before and after."""
    numbers = rng.sample(range(large.count), min(sample, large.count))
    for side in (small, large):
        side.revive()
    hits = len(numbers) - missing(large.rows, numbers)
    times = {side: _timed(side, operation) for side in (small, large)}
    acknowledged = time.perf_counter()
    here = missing(large.rows, numbers[:1])  # not a moment later: the acknowledgement is enough
    wait_for(
        lambda: large.heard.peek(numbers[0], default=_ABSENT) is _ABSENT,
        2.0,
        "the second cache to hear of it",
        pause=0.0002,
    )
    heard = time.perf_counter() - acknowledged
    here += missing(large.rows, numbers[1:])
    return _Look(times, len(numbers), hits, here, missing(large.heard, numbers), heard)


@contextlib.contextmanager
def _cores_apart(servers: Sequence[Server]) -> Iterator[str]:
    """Both servers on one core, this thread on another.

    Otherwise the scheduler may leave one of them on the core of the caller for the whole run, and even a
    `PING` then differs by a factor of two or three.
    """
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        yield "free to move"
        return
    allowed = os.sched_getaffinity(0)
    mine, *_, theirs = sorted(allowed)
    for server in servers:
        assert server.process is not None
        os.sched_setaffinity(server.process.pid, {theirs})
    os.sched_setaffinity(0, {mine})
    try:
        yield "servers and caller pinned to a core each"
    finally:
        os.sched_setaffinity(0, allowed)


def run(
    *,
    few: int,
    many: int,
    cycles: int,
    rounds: int,
    sample: int,
    really: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The whole benchmark; returns what goes into the JSON file."""
    rng = random.Random(seed)
    began = time.perf_counter()
    with Server.start("valkey") as one, Server.start("valkey") as two:
        say(f"filling {few:,} and {many:,} entries ...")
        small, large = Side(one, few, really=min(few, really)), Side(two, many, really=min(many, really))
        say(
            f"filled in {small.seconds_real + large.seconds_real:.1f} s by real calls "
            f"and {small.seconds_set + large.seconds_set:.1f} s by SET"
        )
        measured = []
        try:
            with _cores_apart((one, two)) as cores:
                for name in OPERATIONS:
                    measured.append(
                        measure(name, small, large, cycles=cycles, rounds=rounds, sample=sample, rng=rng)
                    )
                    say(f"{name} measured")
            facts = large.server.info("server")
            return {
                "server": facts.get("valkey_version") or facts.get("redis_version"),
                "python": platform.python_version(),
                "cores": os.cpu_count(),
                "placement": cores,
                "load": round(os.getloadavg()[0], 2),
                "cycles": cycles,
                "rounds": rounds,
                "seed": seed,
                "limit": LIMIT,
                "good": all(each.good for each in measured),
                "seconds": round(time.perf_counter() - began, 1),
                "servers": {
                    name: {
                        "entries": side.count,
                        "by_real_calls": min(side.count, really),
                        "memory_empty": side.memory_before,
                        "memory_filled": side.memory_filled,
                        "memory_after": side.memory(),
                        "bytes_per_entry": round((side.memory_filled - side.memory_before) / side.count),
                    }
                    for name, side in (("small", small), ("large", large))
                },
                "operations": [asdict(each) for each in measured],
            }
        finally:
            small.close()
            large.close()


def _table(result: dict[str, Any]) -> str:
    head = (
        f"{'operation':24}{'entries':>11}"
        f"{'median':>10}{'p95':>10}{'alive':>10}{'in server':>11}{'left':>11}{'ratio':>7}"
    )
    lines = [head, "-" * len(head)]
    for each in result["operations"]:
        for size in ("small", "large"):
            one = each[size]
            ratio = f"{each['ratio']:.2f}" if size == "large" else ""
            lines.append(
                f"{each['operation'] if size == 'small' else '':24}{one['entries']:>11,}{one['median_ms']:>7.3f} ms"
                f"{one['p95_ms']:>7.3f} ms{one['alive_ms']:>7.3f} ms{one['server_us']:>8.1f} µs"
                f"{one['still_there']:>11,}{ratio:>7}"
            )
    lines.append("")
    for each in result["operations"]:
        lines.append(
            f"{each['operation']}: of {each['sample']:,} random entries {each['hits_before']:,} hit before; "
            f"{each['misses_here']:,} miss here afterwards, {each['misses_there']:,} in a second cache, "
            f"which had heard of it after {each['heard_ms']:.1f} ms"
        )
    for name, server in result["servers"].items():
        lines.append(
            f"{name} server: {server['entries']:,} entries, {server['memory_filled'] / 1e6:.1f} MB "
            f"({server['bytes_per_entry']} bytes an entry; {server['memory_empty'] / 1e6:.1f} MB empty, "
            f"{server['memory_after'] / 1e6:.1f} MB at the end)"
        )
    lines.append(
        f"Valkey {result['server']}, Python {result['python']}, {result['cores']} cores at load {result['load']} "
        f"({result['placement']}), {result['rounds']} rounds, {result['seconds']} s in all"
    )
    lines.append(
        f"{'good' if result['good'] else 'NOT GOOD'}: the median may grow by less than {LIMIT} times, and nothing "
        "may be served"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.invalidate", description=__doc__)
    parser.add_argument("--few", type=int, default=1_000, help="entries on the small server")
    parser.add_argument("--many", type=int, default=1_000_000, help="entries on the large server")
    parser.add_argument("--cycles", type=int, default=2, help="samples looked at, for each operation")
    parser.add_argument("--rounds", type=int, default=500, help="timed rounds for each operation")
    parser.add_argument("--sample", type=int, default=1_000, help="random entries that must hit, then miss")
    parser.add_argument("--really", type=int, default=2_000, help="entries that real calls make")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks/invalidate.json"))
    options = parser.parse_args(arguments)
    if min(options.few, options.many, options.sample, options.cycles) < 1 or options.rounds < 2:
        parser.error("give at least 1 entry, a sample of 1, 1 cycle and 2 rounds")
    result = run(
        few=options.few,
        many=options.many,
        cycles=options.cycles,
        rounds=options.rounds,
        sample=options.sample,
        really=options.really,
        seed=options.seed,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(_table(result))
    print(f"written: {options.json}")
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
