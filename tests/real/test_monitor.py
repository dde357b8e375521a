"""The monitor on real servers: who is admitted, how fast, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from math import inf
from typing import Any

import pytest
from tests.proxy import DelayProxy
from tests.servers import Server

from evercache.clock import monotonic
from evercache.net.blocking import BlockingWire
from evercache.net.pipelined import PipelinedWire
from evercache.net.types import ConnectionOptions
from evercache.observe import EventHub
from evercache.observe.events import Resynced
from evercache.protocol.topology import View
from evercache.protocol.types import Address
from evercache.topology import Monitor, Replica, Round
from evercache.topology.facts import NodeFacts
from evercache.topology.memory import MemoryTopology

LAG = 10.0


class Fixed:
    """A topology whose view the test sets; replicas that the master lists are taken in."""

    local = False

    def __init__(self, master: Server, *replicas: Server) -> None:
        self.view = View(0, master.address, tuple(r.address for r in replicas))
        self.nudges = 0

    async def run(self, changed: Callable[[View], None]) -> None:
        changed(self.view)

    def nudge(self) -> None:
        self.nudges += 1

    def confirmed_since(self) -> float:
        return -inf

    def discovered(self, replicas: Iterable[Address]) -> None:
        both = dict.fromkeys((*self.view.replicas, *replicas))
        self.view = View(self.view.epoch, self.view.master, tuple(both))

    def describe(self) -> dict[str, Any]:
        return {}


@contextlib.asynccontextmanager
async def running(monitor: Monitor) -> AsyncIterator[None]:
    task = asyncio.ensure_future(monitor.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], timeout: float = 10.0) -> float:
    start = monotonic()
    while not condition():
        assert monotonic() - start < timeout, "waited too long"
        await asyncio.sleep(0.005)
    return monotonic() - start


def fit(monitor: Monitor, tau: float = -1e9) -> set[Address]:
    return {r.address for r in monitor.replicas.admitted(tau, monotonic(), LAG)}


def make(topology: Fixed, **more: Any) -> Monitor:
    """In a process that has reached a master: before that, troubles of nodes are no line of the log."""
    hub = EventHub()
    hub.emit(Resynced(str(topology.view.master), "start"))
    return Monitor(topology, PipelinedWire(), ConnectionOptions(), hub=hub, **more)


async def test_a_replica_that_joins_is_discovered_and_admitted(server_kind: str) -> None:
    with Server.start(server_kind) as master, Server.start(server_kind) as replica:
        rounds: list[Round] = []
        monitor = make(Fixed(master), on_round=rounds.append)
        async with running(monitor):
            await until(lambda: rounds)
            replica.cli("REPLICAOF", "127.0.0.1", master.port)
            in_sync = asyncio.ensure_future(
                until(lambda: replica.info("replication")["master_link_status"] == "up")
            )
            await in_sync
            assert await until(lambda: fit(monitor) == {replica.address}) < 1.0
            chosen = monitor.replicas.choose(-1e9, monotonic(), LAG)
            assert chosen is not None
            assert chosen.run_id == replica.info("server")["run_id"]
            await until(lambda: rounds[-1].replicas and rounds[-1].replicas[0].role == "slave")
            assert rounds[-1].master is not None
            assert rounds[-1].master.role == "master"
            # What is written now is caught up with soon: tau in the past of a later question.
            tau = monotonic()
            master.cli("SET", "k", "v")
            assert fit(monitor, tau) == set()
            assert await until(lambda: fit(monitor, tau)) < 1.0


async def test_rule_19_each_answer_of_the_master_brings_its_time() -> None:
    told: list[NodeFacts] = []
    with Server.start() as master:
        async with running(make(Fixed(master), on_master=told.append)):
            before = time.time_ns() // 1000
            await until(lambda: len(told) > 2)
            after = time.time_ns() // 1000
    times = [facts.time_us for facts in told]
    assert all(time_us is not None and before - 10_000 <= time_us <= after + 10_000 for time_us in times)
    assert times == sorted(times, key=lambda time_us: time_us or 0)


async def test_a_lagging_replica_waits_until_it_has_the_masters_offset() -> None:
    with Server.start() as master:
        proxy = DelayProxy(master.port, 0.5)
        try:
            with Server.start(replica_of=proxy) as replica:
                monitor = make(Fixed(master, replica))
                async with running(monitor):
                    await until(lambda: fit(monitor))
                    master.cli("SET", "k", "v" * 1000)
                    tau = monotonic()
                    await until(lambda: fit(monitor, tau))
                    assert replica.cli("GET", "k") is not None
                    assert monotonic() - tau > 0.3
        finally:
            proxy.close()


async def test_a_broken_link_is_seen_though_the_replica_answers() -> None:
    with Server.start() as master, Server.start(replica_of=master) as replica:
        monitor = make(Fixed(master, replica))
        async with running(monitor):
            await until(lambda: fit(monitor))
            replica.cli("REPLICAOF", "127.0.0.1", 1)
            assert await until(lambda: not fit(monitor)) < 1.0
            assert not monitor.replicas.members[0].open
            replica.cli("REPLICAOF", "127.0.0.1", master.port)
            await until(lambda: fit(monitor))


async def test_a_frozen_replica_takes_no_reads_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "evercache")
    with (
        Server.start() as master,
        Server.start(replica_of=master) as one,
        Server.start(replica_of=master) as two,
    ):
        monitor = make(Fixed(master, one, two))
        async with running(monitor):
            await until(lambda: len(fit(monitor)) == 2)
            caplog.clear()
            one.freeze()
            victim = monitor.replicas.get(one.address)
            assert victim is not None
            victim.fail(monotonic())  # a read timed out
            assert fit(monitor) == {two.address}, "at once"
            await asyncio.sleep(0.5)
            assert fit(monitor) == {two.address}
            one.thaw()
            assert await until(lambda: len(fit(monitor)) == 2) < 2.0
            one.freeze()  # and without any read
            assert await until(lambda: fit(monitor) == {two.address}) < 1.5
            one.thaw()
            await until(lambda: len(fit(monitor)) == 2)
        said = [r for r in caplog.records if str(one.address) in r.getMessage()]
        assert len(said) == 4, [r.getMessage() for r in said]


async def test_a_restarted_replica_is_another_process() -> None:
    with Server.start() as master, Server.start(replica_of=master) as replica:
        monitor = make(Fixed(master, replica))
        async with running(monitor):
            await until(lambda: fit(monitor))
            before = monitor.replicas.members[0].run_id
            replica.kill()
            await until(lambda: not fit(monitor))
            replica.restart()
            await until(lambda: fit(monitor))
            assert monitor.replicas.members[0].run_id not in {"", before}


async def test_another_generation_of_the_master_is_reported() -> None:
    with Server.start() as master, Server.start(replica_of=master) as replica:
        changes: list[float] = []
        # A master without replicas takes a new replication id when its first one attaches.
        linked = lambda: replica.info("replication").get("master_link_status") == "up"  # noqa: E731
        await until(linked)
        topology = Fixed(master, replica)
        monitor = make(topology, changed_generation=lambda: changes.append(monotonic()))
        async with running(monitor):
            await until(lambda: fit(monitor))
            assert not changes
            tau = monotonic()
            master.restart()
            await until(lambda: changes)
            assert topology.nudges > 0
            await until(lambda: fit(monitor, tau))
            # A planned failover: the replica is promoted, the master demoted.
            count = len(changes)
            replica.cli("REPLICAOF", "NO", "ONE")
            master.cli("REPLICAOF", "127.0.0.1", replica.port)
            await until(lambda: len(changes) > count)
            assert not fit(monitor)
            topology.view = View(1, replica.address, (master.address,))
            monitor.nudge()
            await until(lambda: fit(monitor) == {master.address})


async def test_without_a_master_replicas_that_answer_can_be_had() -> None:
    with Server.start() as master, Server.start(replica_of=master) as replica:
        monitor = make(Fixed(master, replica))
        async with running(monitor):
            await until(lambda: fit(monitor))
            master.kill()
            await until(lambda: not fit(monitor))
            assert monitor.replicas.choose(-1e9, monotonic(), LAG) is None
            # It has no link any more, but still what it had: good for the time without a master.
            last = monitor.replicas.choose(-1e9, monotonic(), LAG, unlinked=True)
            assert last is not None
            assert last.address == replica.address
            assert monitor.replicas.choose(-inf, monotonic(), inf, exclude=replica.address) is None


def read(replica: Replica, wire: BlockingWire, endpoints: dict[Address, Any]) -> None:
    endpoint = endpoints.get(replica.address)
    if endpoint is None:
        endpoint = endpoints[replica.address] = wire.endpoint(replica.address, ConnectionOptions())
    start = monotonic()
    endpoint.execute([("GET", "k")], start + 1.0, lambda g: g.run_id == replica.run_id)
    now = monotonic()
    replica.record(now - start, now)


async def share(served: list[tuple[float, Address]], servers: tuple[Server, ...], low: float, high: float) -> None:
    """Each takes its part of 3,000 reads; one that the machine lets run less for a moment is asked less."""
    found = []
    for _ in range(3):
        begin = len(served)
        await until(lambda begin=begin: len(served) >= begin + 3000, 30)
        counted = Counter(address for _, address in served[begin : begin + 3000])
        found.append([counted[server.address] / 3000 for server in servers])
        if all(low <= part <= high for part in found[-1]):
            return
    pytest.fail(f"the parts were {found}")


async def test_the_reads_of_one_thread_are_shared_and_a_third_replica_joins_in() -> None:
    with (
        Server.start() as master,
        Server.start(replica_of=master) as one,
        Server.start(replica_of=master) as two,
    ):
        monitor = make(Fixed(master, one, two))
        served: list[tuple[float, Address]] = []
        stop = threading.Event()

        def reader() -> None:
            wire, endpoints = BlockingWire(), dict[Address, Any]()
            while not stop.is_set():
                replica = monitor.replicas.choose(-1e9, monotonic(), LAG)
                if replica is not None:
                    read(replica, wire, endpoints)
                    served.append((monotonic(), replica.address))
            for endpoint in endpoints.values():
                endpoint.disconnect()

        async with running(monitor):
            await until(lambda: len(fit(monitor)) == 2)
            thread = threading.Thread(target=reader)
            thread.start()
            try:
                await share(served, (one, two), 0.4, 0.6)
                with Server.start(replica_of=master) as three:
                    await until(lambda: three.address in fit(monitor))
                    await share(served, (one, two, three), 0.25, 0.4)
                    stop.set()
                    thread.join(5)
            finally:
                stop.set()
                thread.join(5)


async def test_memory_needs_no_monitoring() -> None:
    monitor = Monitor(MemoryTopology(), PipelinedWire(), ConnectionOptions())
    async with running(monitor):
        await asyncio.sleep(0.1)
        assert monitor.replicas.members == ()
        assert monitor.last.master is None
