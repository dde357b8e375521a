"""The harness itself: what other tests rely on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.gate import close_server
from tests.servers import (
    CliError,
    DelayProxy,
    Deployment,
    Server,
    ServerFailed,
    find_server,
    free_port,
    wait_for,
)

from evercache.ops.local import LocalDeployment


def test_each_kind_answers(fresh_server: Server) -> None:
    assert fresh_server.cli("SET", "k", "v") == "OK"
    assert fresh_server.cli("GET", "k") == "v"
    assert fresh_server.cli("GET", "k", decode=False) == b"v"
    with pytest.raises(CliError, match="unknown command"):
        fresh_server.cli("NOSUCH")


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="use valkey"):
        find_server("memcached")


def test_a_failed_start_shows_the_log(valkey: Server) -> None:
    with pytest.raises(ServerFailed, match=r"(?i)in use"):
        Server.start(port=valkey.port)
    with pytest.raises(ServerFailed, match="nonsense"):
        Server.start(options={"nonsense": "yes"})


def test_kill_restart_and_wipe() -> None:
    options = {"appendonly": "yes", "appendfsync": "always"}
    with Server.start(password="s3cret", options=options) as server:
        server.cli("SET", "k", "v")
        server.kill()
        assert not server.alive
        with pytest.raises(OSError):
            server.cli("PING")
        server.restart()
        assert server.cli("GET", "k") == "v"
        server.wipe()
        assert server.cli("GET", "k") is None
        folder = server.dir
    assert not folder.exists()


def test_a_frozen_server_keeps_its_connections_and_says_nothing(module_valkey: Server) -> None:
    with module_valkey.frozen(), pytest.raises(TimeoutError):
        module_valkey.cli("PING", timeout=0.2)
    assert module_valkey.cli("PING") == "PONG"


def test_a_replica_behind_a_proxy_is_late_cut_and_silent(valkey: Server) -> None:
    with DelayProxy(valkey.port, 0.2) as proxy, Server.start(replica_of=proxy) as replica:
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
        begun = time.monotonic()
        valkey.cli("SET", "k", "1")
        wait_for(lambda: replica.cli("GET", "k") == "1")
        assert 0.19 <= time.monotonic() - begun < 1.0
        proxy.half_open()
        valkey.cli("SET", "k", "2")
        proxy.set_delay(0.0)
        with pytest.raises(TimeoutError):
            wait_for(lambda: replica.cli("GET", "k") == "2", 0.3)
        assert replica.info("replication")["master_link_status"] == "up"
        proxy.cut()
        wait_for(lambda: replica.info("replication")["master_link_status"] == "down")
        proxy.heal()
        wait_for(lambda: replica.cli("GET", "k") == "2")


def test_a_throttled_link_is_slow(valkey: Server) -> None:
    with DelayProxy(valkey.port) as proxy:
        proxy.throttle(100_000)
        thin = Server.__new__(Server)
        thin.__dict__ |= valkey.__dict__ | {"port": proxy.port}
        begun = time.monotonic()
        assert len(thin.cli("ECHO", "x" * 20_000)) == 20_000
        assert time.monotonic() - begun > 0.3


@pytest.mark.parametrize(
    "server_kind",
    ["valkey", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("redis6", "redis7"))],
    indirect=True,
)
def test_a_deployment_promotes_when_the_master_is_killed(server_kind: str) -> None:
    with Deployment.start(server_kind, password="p/w", sentinel_password="s?w") as deployment:
        assert deployment.url.endswith("/evercache?sentinel_password=s%3Fw")
        assert "p%2Fw" in deployment.url
        old = deployment.master()
        assert len(deployment.replicas) == 2
        old.cli_many([("SET", "k", "v"), ("WAIT", 2, 1000)])
        old.kill()
        new = deployment.wait_new_master(old)
        assert new.cli("GET", "k") == "v"
        deployment.wait_settled()
        # On a machine that stalls for longer than down-after there may have been another failover since.
        assert deployment.master() is not old
        assert deployment.master().cli("GET", "k") == "v"


@pytest.mark.long
def test_a_planned_failover_and_a_new_replica(deployment: Deployment) -> None:
    old = deployment.master()
    new = deployment.failover("COORDINATED")
    assert new is not old
    assert deployment.add_replica().info("replication")["role"] == "slave"


def test_a_deployment_with_a_late_replica() -> None:
    with Deployment.start(replicas=2, sentinels=1, replica_delays=(0.2,)) as deployment:
        late, prompt = deployment.nodes[1], deployment.nodes[2]
        deployment.master().cli("SET", "k", "v")
        wait_for(lambda: prompt.cli("GET", "k") == "v")
        assert late.cli("GET", "k") is None
        wait_for(lambda: late.cli("GET", "k") == "v")


def test_servers_of_a_killed_process_are_killed() -> None:
    code = (
        "import os, signal; from tests.servers import Server; server = Server.start();"
        "print(server.process.pid, server.dir, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, folder = done.stdout.split()

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return not os.path.exists(folder)
        return False

    wait_for(gone, 5)


def test_free_ports_stay_out_of_the_ephemeral_range() -> None:
    assert all(12000 <= free_port() < 32000 for _ in range(20))


def test_a_deployment_that_is_down_keeps_its_ports(tmp_path: Path) -> None:
    local = LocalDeployment.open("kept", tmp_path)
    try:
        local.up()
        ports = [node.port for node in local.config.nodes]
        local.down()
        for port in ports:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        local.up()
    finally:
        local.down(purge=True)


async def test_whoever_was_let_in_just_before_the_end_has_a_transport() -> None:
    made: list[asyncio.BaseTransport] = []

    class Peer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(5)]
    for _ in range(2):  # in the second turn asyncio accepts, and makes the transports in the one after it
        await asyncio.sleep(0)
    await close_server(server)
    await asyncio.sleep(0.01)
    assert len(made) == 5
    for transport in made:
        transport.close()
    for client in clients:
        client.close()
    await asyncio.sleep(0.01)
