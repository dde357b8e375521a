"""Ways to name the servers, on live ones: a unix socket, IPv6, a fixed list of replicas, a database number."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.trouble_tools import MESSAGE, Site, reading
from tests.servers import Server, wait_for

from evercache import Cache


def use(url: str) -> None:
    """The main paths, for threads and for tasks, with two processes' worth of caches."""
    site = Site()
    with Cache(url, budget=10) as one, Cache(url, budget=10) as two:
        wait_for(lambda: one.stamp() is not None and two.stamp() is not None, 5, "both to follow the server")
        page, other = site.on(one), site.on(two, near=60)
        assert page(1) == other(1) == page(1) == 0
        assert site.runs == 1
        version = site.change()
        assert page.invalidate(1)
        assert page(1) == version
        wait_for(lambda: other(1) == version, 2 * MESSAGE, "the other to hear")
        assert one.set("k", ["v"])
        assert two.get("k") == ["v"]

        async def tasks() -> None:
            assert await site.aon(two)(1) == version
            assert (await two.adelete("k")).existed
            assert await one.aget("k") is None

        asyncio.run(tasks())
        wait_for(lambda: one.health().ok, 2, "all to be well")
        assert one.stats().counters.failures == 0


def test_a_unix_socket() -> None:
    # Short, as the path of a socket has to be.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ec") as folder:
        path = Path(folder, "s.sock")
        with Server.start("valkey", password="a@b/c:d", options={"unixsocket": str(path)}) as server:
            use(f"unix://:a%40b%2Fc%3Ad@{path}")
            use(f"unix://:a%40b%2Fc%3Ad@{path}?db=3")
            found = server.cli_many([("SELECT", 3), ("DBSIZE",)])[1]
            assert found > 0
            assert "name=evercache" not in str(server.cli("CLIENT", "LIST"))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 on loopback")
def test_ipv6() -> None:
    with Server.start("valkey", options={"bind": "127.0.0.1 ::1"}) as server:
        use(f"redis://[::1]:{server.port}/2")
        assert server.cli_many([("SELECT", 2), ("DBSIZE",)])[1] > 0
        with Cache(f"redis://[::1]:{server.port}") as cache:
            assert cache.set("k", 1)
            assert "addr=[::1]" in str(server.cli("CLIENT", "LIST"))


def test_a_name() -> None:
    """`localhost` may have two addresses, and the server listens at one."""
    with Server.start("valkey") as server:
        use(f"redis://localhost:{server.port}")


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary and a replica that nobody watches."""
    with Server.start("valkey") as primary, Server.start("valkey", replica_of=primary) as replica:
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up", 10, "the link")
        yield primary, replica


def test_a_primary_with_replicas(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    url = f"redis://127.0.0.1:{primary.port}?replicas=127.0.0.1:{replica.port}"
    use(url)
    with Cache(url) as cache:
        page = Site().on(cache)
        assert page(5) == 0
        wait_for(lambda: page(5) == 0 and cache.stats().counters.replica_hits > 20, 5, "hits at the replica")
        wait_for(lambda: [n.use for n in cache.health().nodes] == ["writes", "reads"], 5, "both to be used")


@pytest.mark.parametrize("tasks", [False, True], ids=["thread", "task"])
def test_a_primary_that_dies_and_a_replica_that_is_promoted_by_hand(
    pair: tuple[Server, Server], tasks: bool
) -> None:
    """What a managed service does: the roles change, the list stays."""
    primary, replica = pair
    site = Site()
    url = f"redis://127.0.0.1:{primary.port}?replicas=127.0.0.1:{replica.port}"
    with Cache(url) as one, Cache(url) as two:
        page = site.on(one)
        other = site.aon(two) if tasks else site.on(two)
        assert page(1) == 0
        assert page.invalidate(2)
        wait_for(lambda: page(1) == 0 and one.stats().counters.replica_hits > 0, 5, "a hit at the replica")
        with reading(other, 1) as answers:
            version = site.change()
            assert page.invalidate(1)
            acknowledged = [(time.monotonic(), version)]
            wait_for(lambda: answers.all[-1][2] == version, 1, "the other to hear")
            primary.kill()
            wait_for(lambda: page.invalidate(3).queued, 2, "the death to be seen")
            replica.cli("REPLICAOF", "NO", "ONE")
            wait_for(lambda: page.invalidate(3).done, 5, "the promoted one to be used")
            # Until a process knows who is master now, it may serve what it has: so both must know.
            wait_for(lambda: two.delete("x").done, 5, "the other to use it as well")
            version = site.change()
            assert page.invalidate(1)
            acknowledged.append((time.monotonic(), version))
            wait_for(lambda: answers.all[-1][2] == version, 2, "the other to hear at the new primary")
        assert answers.errors == []
        assert answers.stale(acknowledged) == []
        assert answers.slowest < 0.25 + MESSAGE
        assert one.health().master == str(replica.address)


def test_the_first_look_of_a_process_at_its_servers_is_no_false_alarm() -> None:
    """A process that has just begun has not looked at the replicas yet: `health()` waits for that."""
    with Server.start("valkey") as master, Server.start("valkey", replica_of=master) as replica:
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up", 10, "the replica to be in sync")
        url = f"{master.url}?replicas=127.0.0.1:{replica.port}&connect_timeout=5"
        for number in range(3):
            with Cache(url, namespace=f"first-{number}", budget=5) as cache:
                health = cache.health()
                assert health.ok, health.problems
                assert [node.use for node in health.nodes] == ["writes", "reads"]
