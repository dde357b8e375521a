"""Figures when every server is gone: for threads and for tasks; `-s` shows what was seen.

What the machine itself stood still is measured and not counted (see `fault_tools`).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.real.fault_tools import Caller, Job, Seen, callers
from tests.real.trouble_tools import MESSAGE
from tests.servers import CliError, Deployment, Server, wait_for

from evercache.ops.stalls import Stalls

ENTRIES, STILL_HIT = 1000, 0.99
#: Seconds.
FIRST_HIT, GUTTER, FUNCTION, EXTRA = 1.0, 1.5, 0.02, 0.25
MANY = 10


def all_at_once(servers: list[Server], act: Callable[[Server], object]) -> None:
    """In a thread for each; the first exception is raised."""
    errors: list[BaseException] = []

    def one(server: Server) -> None:
        try:
            act(server)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def first_answer(nodes: list[Server], found: list[float], over: threading.Event) -> None:
    """When the first node answers `PING` without `LOADING`."""
    while not over.is_set():
        for node in nodes:
            with contextlib.suppress(OSError, CliError):
                if node.cli("PING", timeout=0.2) == "PONG":
                    found.append(time.monotonic())
                    return
        time.sleep(0.005)


def all_warm(every: list[Caller]) -> list[int]:
    """How many entries each process still hits; empty when they are too few."""
    swept = [one.sweep() for one in every]
    return swept if min(swept) >= STILL_HIT * ENTRIES else []


@contextlib.contextmanager
def answering(nodes: list[Server]) -> Iterator[list[float]]:
    """Within it the nodes are started; afterwards the list has the moment of the first answer."""
    found: list[float] = []
    over = threading.Event()
    thread = threading.Thread(target=first_answer, args=(nodes, found, over))
    thread.start()
    try:
        yield found
    finally:
        if not found:
            over.wait(1.0)
        over.set()
        thread.join()


def pair(deployment: Deployment, **job: Any) -> tuple[Job, Job]:
    """A process of threads and one of tasks."""
    return Job(deployment.url, tasks=False, **job), Job(deployment.url, tasks=True, **job)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("rounds", [1, pytest.param(MANY, marks=pytest.mark.long)], ids=["once", "often"])
@pytest.mark.parametrize("how", [pytest.param("SIGTERM", marks=pytest.mark.long), "SIGKILL"])
def test_everything_restarted_is_warm_at_once(how: str, rounds: int) -> None:
    kept = {"save": "3600 1000000"} if how == "SIGTERM" else {"appendonly": "yes", "appendfsync": "everysec"}
    # Sentinels that are patient: on a slow machine a start may take long enough to set off a failover.
    with Deployment.start(options=kept, down_after_ms=5000) as deployment, Stalls() as here:
        servers = [*deployment.nodes, *deployment.sentinels]
        with callers(*pair(deployment, keys=ENTRIES, readers=2, pause=0.01)) as every:
            if how == "SIGKILL":
                time.sleep(1.2)  # so often the file is flushed
            firsts: list[float] = []
            for _ in range(rounds):
                for one in every:
                    one.mark()
                all_at_once(servers, Server.stop if how == "SIGTERM" else Server.kill)
                time.sleep(1.0)
                with answering(deployment.nodes) as found:
                    all_at_once(servers, Server.restart)
                firsts += found
                time.sleep(2.0)
                deployment.wait_whole()
                # What was computed again and stored is new: it stays a miss.
                swept = wait_for(lambda: all_warm(every), 5, "the entries to be hit")
                sizes = [node.cli("DBSIZE") for node in deployment.nodes]
                print(f"{how}: of {ENTRIES} still hit: {swept}; keys on the nodes {sizes}")
            for who, seen in zip(("threads", "tasks"), ended(every), strict=True):
                for number, first in enumerate(firsts):
                    hit = next(call.ended for call in seen.calls if call.version <= number and call.ended > first)
                    took = hit - first - max(seen.stalled(first, hit), here.within(first, hit))
                    again = {key for key, at in seen.runs if hit + MESSAGE < at < first + 2.0}
                    print(
                        f"{who}: the first hit {(hit - first) * 1e3:.0f} ms after the first server answered "
                        f"({took * 1e3:.0f} without stalls); then {len(again)} keys computed again; "
                        f"the slowest call {seen.slowest(first, first + 2) * 1e3:.0f} ms"
                    )
                    assert took < FIRST_HIT
                    assert len(again) <= (1 - STILL_HIT) * ENTRIES


def ended(every: list[Caller]) -> list[Seen]:
    """What each process saw, threads first; none met an exception."""
    seen = [one.end() for one in every]
    for one in seen:
        assert one.errors == []
    return seen


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("rounds", "outage"), [(1, 4.0), pytest.param(MANY, 10.0, marks=pytest.mark.long)], ids=["once", "often"]
)
@pytest.mark.parametrize("tasks", [pytest.param(False, marks=pytest.mark.long), True], ids=["threads", "tasks"])
def test_without_any_server_the_function_runs_once_per_key_process_and_gutter_time(
    tasks: bool, rounds: int, outage: float
) -> None:
    for _ in range(rounds):
        with Deployment.start() as deployment:
            job = Job(deployment.url, tasks, readers=50, keys=20, seconds=FUNCTION, pause=0.05)
            with callers(job, job) as every:
                time.sleep(0.3)
                for one in every:
                    one.mark()
                gone = time.monotonic()
                all_at_once([*deployment.nodes, *deployment.sentinels], Server.kill)
                time.sleep(outage)
                over = time.monotonic()
                for number, seen in enumerate(ended(every)):
                    between = gutter_times(seen, gone)
                    slowest = seen.slowest(gone - 1)
                    calls = [call for call in seen.calls if call.began > gone]
                    print(
                        f"process {number}: {len(calls)} calls in {over - gone:.1f} s, "
                        f"runs {len([run for run in seen.runs if run[1] > gone])}, the shortest time between "
                        f"two of a key {min(between):.2f} s, the slowest call {slowest * 1e3:.0f} ms without stalls"
                    )
                    assert len(calls) > 1000
                    assert min(between) >= GUTTER
                    assert slowest < FUNCTION + EXTRA


def gutter_times(seen: Seen, since: float) -> list[float]:
    """The times between two runs of one key."""
    starts: dict[int, list[float]] = {}
    for key, at in seen.runs:
        if at > since:
            starts.setdefault(key, []).append(at)
    return [two - one for all_of in starts.values() for one, two in itertools.pairwise(sorted(all_of))]
