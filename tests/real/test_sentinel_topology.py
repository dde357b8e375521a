"""The topologies on real servers: failovers, deaths, lies, wrong passwords."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from math import inf
from typing import Any

import pytest
from tests.servers import CliError, Deployment, Server

from evercache.clock import monotonic
from evercache.errors import MasterUnknown, SentinelsUnreachable, ServiceUnknown
from evercache.net.pipelined import PipelinedWire
from evercache.net.types import ConnectionOptions, Credentials
from evercache.protocol.types import Address
from evercache.topology import (
    MemoryTopology,
    ReplicatedTopology,
    SentinelTopology,
    StandaloneTopology,
    Topology,
    View,
)

NODES = ConnectionOptions(credentials=Credentials(password="node-secret"))
SENTINELS = ConnectionOptions(credentials=Credentials(password="sentinel-secret"), sentinel=True)


def of(deployment: Deployment, **more: object) -> SentinelTopology:
    fields: dict[str, object] = {
        "service": deployment.name,
        "sentinels": [s.address for s in deployment.sentinels],
        "sentinel_options": SENTINELS,
        "node_options": NODES,
    }
    return SentinelTopology(PipelinedWire(), **(fields | more))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(topology: Topology) -> AsyncIterator[list[View]]:
    views: list[View] = []
    task = asyncio.ensure_future(topology.run(views.append))
    try:
        yield views
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], timeout: float = 10.0) -> float:
    """Wait for it; the seconds that it took."""
    start = monotonic()
    while not condition():
        assert monotonic() - start < timeout, "waited too long"
        await asyncio.sleep(0.01)
    return monotonic() - start


@pytest.fixture(scope="module")
def calm() -> Iterator[Deployment]:
    """One deployment for the tests that change nothing."""
    with Deployment.start(password="node-secret", sentinel_password="sentinel-secret") as whole:
        yield whole


async def test_finds_master_replicas_and_the_other_sentinels_from_one(calm: Deployment) -> None:
    topology = of(calm, sentinels=[calm.sentinels[0].address])
    assert topology.view.master is None
    async with running(topology) as views:
        await until(lambda: topology.view.master and len(topology.describe()["sentinels"]) == 3)
        assert topology.view.master == calm.nodes[0].address
        assert set(topology.view.replicas) == {n.address for n in calm.nodes[1:]}
        assert topology.view.problem is None
        start = monotonic()
        topology.nudge()
        await until(lambda: topology.confirmed_since() >= start)
        await until(lambda: len(topology.describe()["listening"]) == 3)
        assert topology.describe()["errors"] == {}
        assert views[-1] is topology.view
        new = Address("127.0.0.1", 1)
        topology.discovered([new])
        assert new in topology.view.replicas


async def test_an_unknown_service_is_said(calm: Deployment) -> None:
    topology = of(calm, service="nowhere")
    async with running(topology):
        await until(lambda: isinstance(topology.view.problem, ServiceUnknown))
        assert "nowhere" in str(topology.view.problem)


async def test_a_wrong_sentinel_password_is_said(calm: Deployment) -> None:
    wrong = ConnectionOptions(credentials=Credentials(password="no"), sentinel=True)
    topology = of(calm, sentinel_options=wrong)
    async with running(topology):
        await until(lambda: isinstance(topology.view.problem, SentinelsUnreachable))
        assert "sentinel_password" in str(topology.view.problem)


async def test_wrong_ports_are_said(calm: Deployment) -> None:
    node = calm.nodes[1].address  # a data node is no sentinel
    topology = of(calm, sentinels=[Address("127.0.0.1", 1), node], sentinel_options=NODES)
    async with running(topology):
        await until(lambda: isinstance(topology.view.problem, SentinelsUnreachable))
        assert str(node) in str(topology.view.problem)
        assert "127.0.0.1:1" in str(topology.view.problem)


async def test_the_address_map_makes_announced_addresses_reachable(calm: Deployment) -> None:
    topology = of(calm, address_map=lambda a: Address("localhost", a.port, a.path))
    async with running(topology):
        await until(lambda: topology.view.master)
        assert topology.view.master == Address("localhost", calm.nodes[0].port)
        assert {a.host for a in topology.view.replicas} == {"localhost"}
        await until(lambda: topology.confirmed_since() > -inf)


async def test_a_killed_master_is_replaced_and_a_dead_sentinel_does_no_harm(deployment: Deployment) -> None:
    topology = of(deployment)
    async with running(topology) as views:
        await until(lambda: topology.confirmed_since() > -inf)
        old = topology.view
        deployment.nodes[0].kill()
        await until(lambda: topology.view.master != old.master)
        assert topology.view.epoch > old.epoch
        assert topology.view.master in {n.address for n in deployment.nodes[1:]}
        # Confirmed again, now by those that agree; the dead master does not veto. With time-outs as short as
        # these, a first attempt may be given up half-way: then two nodes call themselves master, which rightly
        # vetoes until Sentinel demotes one of them, about ten seconds later.
        await until(lambda: topology.confirmed_since() > -inf, 40)
        # Two of three have confirmed it; without the first, the third must have heard of it too.
        await asyncio.to_thread(deployment.wait_settled, 40)
        deployment.sentinels[0].kill()
        start = monotonic()
        await until(lambda: topology.confirmed_since() > start)
        assert topology.view.problem is None
        await until(lambda: str(deployment.sentinels[0].address) in topology.describe()["errors"])
        epochs = [v.epoch for v in views]
        assert epochs == sorted(epochs)
        for sentinel in deployment.sentinels[1:]:
            sentinel.kill()
        topology.nudge()
        await until(lambda: isinstance(topology.view.problem, SentinelsUnreachable))
        assert topology.view.master is not None, "the last known master may well be alive"


async def test_a_planned_failover_is_followed_at_once_and_never_back(deployment: Deployment) -> None:
    """`SENTINEL FAILOVER` leaves the old master healthy for seconds: whoever stays there loses its writes."""
    topology = of(deployment)
    loop = asyncio.get_running_loop()
    async with running(topology) as views:
        await until(lambda: topology.confirmed_since() > -inf and len(topology.describe()["listening"]) == 3)
        old = topology.view.master
        await loop.run_in_executor(
            None, lambda: deployment.sentinels[0].cli("SENTINEL", "FAILOVER", deployment.name)
        )

        def promoted() -> bool:
            with contextlib.suppress(OSError, CliError):  # it may close connections when its role changes
                return any(n.address != old and n.cli("ROLE", timeout=2)[0] == "master" for n in deployment.nodes)
            return False

        while not await loop.run_in_executor(None, promoted):
            await asyncio.sleep(0.01)
        moment = monotonic()
        assert topology.confirmed_since() < moment
        # The leader knows by its next INFO only, 0.8 s later: the node itself was asked.
        took = await until(lambda: topology.view.master != old)
        assert took < 0.6
        new = topology.view.master
        # While two masters exist, nothing is confirmed.
        end = monotonic() + 1.5
        while monotonic() < end:
            assert topology.confirmed_since() == -inf
            await asyncio.sleep(0.01)
        assert new is not None
        assert deployment.nodes[0].cli("ROLE")[0] == "master", "so long"
        deployment.nodes[0].cli("REPLICAOF", new.host, new.port)
        await until(lambda: topology.confirmed_since() > -inf)
        assert topology.view.master == new
        masters = [v.master for v in views if v.master is not None]
        assert masters == sorted(masters, key=lambda m: m == new), "no way back"


async def test_a_frozen_sentinel_delays_nothing_for_long(deployment: Deployment) -> None:
    topology = of(deployment)
    async with running(topology):
        await until(lambda: len(topology.describe()["listening"]) == 3)
        followed = monotonic()
        await until(lambda: topology.confirmed_since() > followed)
        with deployment.sentinels[1].frozen():
            for _ in range(2):
                start = monotonic()
                topology.nudge()
                assert await until(lambda start=start: topology.confirmed_since() > start) < 2.0


async def test_who_begins_while_a_sentinel_is_lost_waits_for_votes_to_lapse(deployment: Deployment) -> None:
    """Rule 17: it may have been elected just before, and may be about to promote a replica."""
    with deployment.sentinels[1].frozen():
        topology = of(deployment)
        async with running(topology):
            assert await until(lambda: topology.view.master) < 1.0
            # Twice failover-timeout, 2 s here, since the two others are followed or since it greeted them last.
            assert 2.0 < await until(lambda: topology.confirmed_since() > 0, 20) < 15.0


async def test_voters_do_not_confirm_beside_a_leader_that_nobody_reaches(deployment: Deployment) -> None:
    """Rule 17: a sentinel publishes its vote, and tells it to no client that may not vote itself."""
    topology, master = of(deployment), deployment.master().address
    async with running(topology):
        await until(lambda: topology.confirmed_since() > 0 and len(topology.describe()["listening"]) == 3)
        vote = ("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", master.host, master.port, 99, "f" * 40)
        for voter in deployment.sentinels[:2]:
            assert voter.cli(*vote)[1:] == ["f" * 40, 99]
        voted = monotonic()
        assert await until(lambda: topology.confirmed_since() > voted, 20) > 2.0, "it lapses after 4 s"


async def test_standalone_counts_the_lives_of_its_server(fresh_server: Server) -> None:
    topology = StandaloneTopology(PipelinedWire(), fresh_server.address, ConnectionOptions(), interval=0.1)
    async with running(topology):
        await until(lambda: topology.confirmed_since() > -inf)
        assert topology.view == View(0, fresh_server.address)
        fresh_server.restart()
        topology.nudge()
        await until(lambda: topology.view.epoch == 1)
        assert topology.view.problem is None
        fresh_server.cli("REPLICAOF", "127.0.0.1", 1)
        topology.nudge()
        await until(lambda: isinstance(topology.view.problem, MasterUnknown))
        assert topology.view.master is None
        assert "127.0.0.1:1" in str(topology.view.problem)
        fresh_server.cli("REPLICAOF", "NO", "ONE")
        await until(lambda: topology.view.master == fresh_server.address)


async def test_a_fixed_list_follows_a_promotion(server_kind: str) -> None:
    with (
        Server.start(server_kind) as one,
        Server.start(server_kind, replica_of=one) as two,
        Server.start(server_kind, replica_of=one) as three,
    ):
        topology = ReplicatedTopology(
            PipelinedWire(),
            Address("localhost", one.port),
            [two.address, three.address, one.address],
            ConnectionOptions(),
            interval=0.1,
        )
        async with running(topology):
            await until(lambda: topology.confirmed_since() > -inf)
            assert topology.view.master == Address("localhost", one.port)
            assert topology.view.replicas == (two.address, three.address), "one server, two names"
            one.kill()
            two.cli("REPLICAOF", "NO", "ONE")
            three.cli("REPLICAOF", "127.0.0.1", two.port)
            await until(lambda: topology.view.master == two.address)
            assert topology.view.epoch == 1
            assert three.address in topology.view.replicas
            # The old one comes back as a master of nobody.
            one.restart()
            start = monotonic()
            await until(lambda: topology.confirmed_since() > start)
            await until(lambda: not topology.describe()["errors"])
            assert topology.view.master == two.address
            for server in (one, two, three):
                server.kill()
            await until(lambda: isinstance(topology.view.problem, MasterUnknown))
            assert topology.view.master == two.address


async def test_a_name_stands_for_all_its_records(fresh_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of a managed service may have a record for each node; those it has at the moment are asked."""
    real, found = socket.getaddrinfo, ["127.0.0.2", "127.0.0.3"]

    def records(host: object, *more: Any, **options: Any) -> Any:
        if host != "nodes.test":
            return real(host, *more, **options)  # type: ignore[arg-type]
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        return [record for each in found for record in real(each, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", records)
    with Server.start("valkey", replica_of=fresh_server) as replica:
        topology = ReplicatedTopology(
            PipelinedWire(),
            Address("nodes.test", 1),
            [],
            ConnectionOptions(),
            address_map={Address("127.0.0.2", 1): replica.address, Address("127.0.0.3", 1): fresh_server.address},
            interval=0.1,
        )
        async with running(topology):
            await until(lambda: topology.view.master == fresh_server.address)
            assert topology.view.replicas == (replica.address,)


async def test_memory_is_always_confirmed() -> None:
    topology = MemoryTopology()
    async with running(topology) as views:
        await until(lambda: views)
        assert topology.local
        assert topology.view.replicas == ()
        assert topology.confirmed_since() == inf
