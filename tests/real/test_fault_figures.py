"""Figures under faults of replicas and of the master, for threads and for tasks; `-s` shows what was seen.

Each has a margin for messages and timers of a busy machine only where it says so; what the machine itself stood
still is measured and not counted (see `fault_tools`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.real.fault_tools import Caller, Job, Seen, callers
from tests.real.fault_watch import Answering, CountingProxy, promotion
from tests.servers import Deployment, Server, free_port, wait_for

from evercache.ops.stalls import Stalls

#: Seconds.
FROZEN_UNREAD, THAWED_READ, ADDED_READ = 0.5, 2.0, 1.0
WRITES_AGAIN, READ_GAP = 0.5, 0.25
MANY = 10


@pytest.fixture(params=[1, pytest.param(MANY, marks=pytest.mark.long)], ids=["once", "often"])
def rounds(request: pytest.FixtureRequest) -> int:
    """How often a figure is taken."""
    return int(request.param)


def ended(every: list[Caller]) -> list[Seen]:
    """What each process saw, threads first; none met an exception."""
    seen = [one.end() for one in every]
    for one in seen:
        assert one.errors == []
        assert len(one.calls) > 100
    return seen


# -- replicas


class Counted:
    """A deployment whose replicas are reached through proxies that count."""

    def __init__(self) -> None:
        self.deployment = Deployment("evercache", "valkey", None, None)
        self.proxies: dict[Server, CountingProxy] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Counted:
        whole = self.deployment
        self._stack.enter_context(whole)
        try:
            whole.nodes.append(Server.start())
            for _ in range(2):
                self.add()
            # The sentinels know the replicas by the addresses that these announce.
            announced = [SimpleNamespace(port=proxy.port) for proxy in self.proxies.values()]
            nodes, whole.nodes = whole.nodes, [whole.nodes[0], *cast(Any, announced)]
            whole._start_sentinels(3, 500, 2000)
            whole.nodes = nodes
            whole.wait_whole()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self) -> Server:
        """One more replica."""
        port = free_port()
        proxy = self._stack.enter_context(CountingProxy(port))
        announced = {"replica-announce-port": proxy.port}
        server = Server.start(port=port, replica_of=self.deployment.nodes[0], options=announced)
        self.deployment.nodes.append(server)
        self.proxies[server] = proxy
        return server

    def in_sync(self, replica: Server, timeout: float = 10.0) -> float:
        """When the replica has all that the master had when it was asked before."""

        def synced() -> bool:
            has = int(self.deployment.nodes[0].info("replication")["master_repl_offset"])
            said = replica.info("replication")
            return said["master_link_status"] == "up" and int(said["slave_repl_offset"]) >= has

        wait_for(synced, timeout, f"{replica!r} in sync", pause=0.01)
        return time.monotonic()


def first_read(proxy: CountingProxy, since: float) -> float:
    """When the first GET came."""
    wait_for(lambda: proxy.since(since), 10, "a read", pause=0.01)
    return proxy.since(since)[0]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("tasks", [False, pytest.param(True, marks=pytest.mark.long)], ids=["threads", "tasks"])
def test_a_frozen_replica_is_left_and_taken_back_and_a_new_one_is_taken(tasks: bool, rounds: int) -> None:
    with Counted() as counted, Stalls() as here:
        frozen = counted.deployment.nodes[1]
        proxy = counted.proxies[frozen]
        with callers(Job(counted.deployment.url, tasks, writes=True, write_pause=0.05)) as every:
            for _ in range(rounds):
                wait_for(lambda: len(proxy.since(time.monotonic() - 0.5)) > 20, 10, "the replica to be read")
                since = time.monotonic()
                with frozen.frozen():
                    time.sleep(1.5)
                    thaw = time.monotonic()
                read = proxy.since(since, thaw)
                last = max(read, default=since)
                left = last - since - here.within(since, last)
                synced = counted.in_sync(frozen)
                back = first_read(proxy, thaw)
                taken = back - synced - here.within(min(synced, back), back)
                print(
                    f"frozen: {len(read)} reads, the last after {left * 1e3:.0f} ms; read again "
                    f"{(back - thaw) * 1e3:.0f} ms after the thaw, {taken * 1e3:.0f} ms after it was in sync"
                )
                assert left < FROZEN_UNREAD
                assert taken < THAWED_READ
            for _ in range(min(rounds, 3)):
                new = counted.add()
                synced = counted.in_sync(new)
                first = first_read(counted.proxies[new], 0.0)
                took = first - synced - here.within(min(synced, first), first)
                print(f"a new replica: its first read {took * 1e3:.0f} ms after it was in sync")
                assert took < ADDED_READ
            (seen,) = ended(every)
            print(f"the slowest call: {seen.slowest() * 1e3:.0f} ms; runs of the function: {len(seen.runs)}")
            assert seen.runs == []


# -- the master


@contextlib.contextmanager
def both(deployment: Deployment, **job: Any) -> Iterator[list[Caller]]:
    """A process of threads and one of tasks."""
    with callers(*(Job(deployment.url, tasks=tasks, **job) for tasks in (False, True))) as every:
        yield every


def first_good_write(seen: Seen, since: float) -> float:
    """When the first acknowledged invalidation that ended after a moment ended."""
    return next(done for _, done, good in seen.writes if good and done > since)


@pytest.mark.timeout(300)
def test_writes_are_back_soon_after_a_promotion_and_reads_never_stop(rounds: int) -> None:
    for _ in range(rounds):
        with Deployment.start() as deployment, Stalls() as here:
            master = deployment.master()
            with both(deployment, writes=True) as every:
                time.sleep(0.5)
                with Answering([node for node in deployment.nodes if node is not master]) as servers:
                    killed = time.monotonic()
                    master.kill()
                    _, promoted = promotion(deployment.nodes, master)
                    time.sleep(2.0)
                    over = time.monotonic()
                for who, seen in zip(("threads", "tasks"), ended(every), strict=True):
                    good = first_good_write(seen, promoted)
                    wrote = good - promoted - max(seen.stalled(promoted, good), here.within(promoted, good))
                    gap = seen.longest_gap(killed, over)
                    runs = [at for _, at in seen.runs if at > killed]
                    print(
                        f"{who}: promoted {promoted - killed:.2f} s after the kill; a good write "
                        f"{(good - promoted) * 1e3:.0f} ms later ({wrote * 1e3:.0f} without stalls); "
                        f"longest gap between reads {gap * 1e3:.0f} ms; runs of the function: {len(runs)}; "
                        f"slow answers of servers: {len(servers.slow)}"
                    )
                    assert wrote < WRITES_AGAIN
                    assert gap < READ_GAP
                    unexplained = [at - promoted for at in runs if not servers.stalled(at)]
                    assert unexplained == [], "every read is answered by what was cached"
