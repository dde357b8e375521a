"""`evercache up` and what belongs to it, with real servers under a real Supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import wait_for

from evercache.errors import DeploymentUnknown, PortTaken
from evercache.ops.cli import main
from evercache.ops.config import HOST, DeploymentConfig
from evercache.ops.local import LocalDeployment
from evercache.ops.supervision import process_command
from evercache.ops.survey import ask
from evercache.protocol.types import Address


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path with what paths may have."""
    return tmp_path_factory.mktemp("a home") / '100% "mine"'


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[LocalDeployment]:
    deployment = LocalDeployment.open("default", home)
    try:
        deployment.up()
        yield deployment
    finally:
        with contextlib.suppress(DeploymentUnknown):
            deployment.down(purge=True)


@pytest.fixture
def local(shared: LocalDeployment, home: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDeployment:
    """The module's deployment, made whole after what the test before did to it."""
    monkeypatch.setenv("EVERCACHE_HOME", str(home))
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    shared.bring_up()
    return shared


def command(deployment: LocalDeployment, node: str, *arguments: str) -> object:
    config = deployment.config
    target = config.node(node)
    options = deployment._options(config, target.sentinel)
    return ask(Address(HOST, target.port), options, arguments, timeout=5)[0]


def pids(deployment: LocalDeployment) -> dict[str, int]:
    return {name: one.pid for name, one in deployment._supervision.processes().items() if one.alive}


def test_up_again_starts_nothing_and_prints_the_url(
    local: LocalDeployment, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pids(local)
    assert main(["up"]) == 0
    out, err = capsys.readouterr()
    assert out == local.url + "\n"
    assert "already runs" in err
    assert pids(local) == before
    assert len(before) == len(local.config.nodes)


def test_secrets_are_in_private_files_only(local: LocalDeployment) -> None:
    config = local.config
    for path in local.folder.rglob("*.*"):
        if path.suffix in {".conf", ".json", ".sh"}:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    for pid in pids(local).values():
        assert config.password not in process_command(pid)
        assert config.sentinel_password not in process_command(pid)
    for node in config.nodes:
        with socket.create_connection((HOST, node.port), 1) as stranger:
            stranger.sendall(b"INFO\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")


def test_status_for_programs_and_for_people(
    local: LocalDeployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["status", "--json"]) == 0
    out = capsys.readouterr().out
    seen = json.loads(out)
    assert local.config.password not in out
    assert seen["whole"]
    assert [node["used_for"] for node in seen["nodes"]].count("writes") == 1
    assert [node["used_for"] for node in seen["nodes"]].count("reads") == len(seen["nodes"]) - 1
    assert main(["status"]) == 0
    assert "everything runs and is in sync" in capsys.readouterr().out
    # The same servers, found through the sentinels of a URL.
    monkeypatch.setenv("EVERCACHE_URL", local.url)

    def addresses() -> set[str]:
        assert main(["status", "--json"]) == 0
        return {node["address"] for node in json.loads(capsys.readouterr().out)["nodes"]}

    # A replica that another test has just added is listed once it has acknowledged, within a second.
    wait_for(lambda: addresses() == {n["address"] for n in seen["nodes"]}, 5, "all replicas to be listed")
    assert main(["status", "--json", "--url", local.url.replace("/evercache", "/nosuch")]) == 1
    assert "it does not know the service 'nosuch'" in capsys.readouterr().out


def test_a_former_master_is_a_replica_from_its_start(local: LocalDeployment) -> None:
    """It said that it was master, beside its successor, until the sentinels noticed."""
    old = local.master_node()
    local.kill(old)
    wait_for(lambda: local.master_node() != old, 30, "another master")
    local.start(old)
    local.bring_up()
    since = local.log_file(old).read_text(errors="replace").rpartition("Server initialized")[2]
    assert f":{local.config.node(local.master_node()).port}" in since
    assert "user request" not in since, "a sentinel had to tell it"


@pytest.mark.long
def test_a_killed_master_stays_dead_until_up_and_another_is_promoted(local: LocalDeployment) -> None:
    old = local.master_node()
    command(local, old, "SET", "kept", "1")
    command(local, old, "WAIT", "2", "1000")
    begun = time.monotonic()
    assert main(["kill", old]) == 0
    new = wait_for(lambda: name if (name := local.master_node()) != old else None, 20)
    print(f"promoted after {time.monotonic() - begun:.2f} s")
    assert command(local, new, "GET", "kept") == b"1"
    seen = local.status()
    dead = next(node for node in seen.survey.nodes if node.name == old)
    assert (dead.state, dead.use, dead.reason) == ("dead", "nothing", "it is dead")
    assert not seen.whole
    assert old not in local.replica_nodes()
    said: list[str] = []
    assert local.bring_up(said.append) == (old,)
    assert f"started {old}" in said
    assert old in local.replica_nodes()


def test_a_frozen_replica_is_said_to_be_so_and_thaws(local: LocalDeployment) -> None:
    replica = local.replica_nodes()[0]
    assert main(["freeze", replica]) == 0
    frozen = next(node for node in local.status().survey.nodes if node.name == replica)
    assert frozen.state == "frozen"
    assert main(["status"]) == 1
    assert main(["thaw", replica]) == 0
    assert replica in local.replica_nodes()


def test_data_survive_a_restart_of_everything(local: LocalDeployment) -> None:
    command(local, local.master_node(), "SET", "warm", "yes")
    before = pids(local)
    local.stop_all()
    assert pids(local) == {}
    local.start_all()
    assert not set(pids(local).values()) & set(before.values())
    assert command(local, local.master_node(), "GET", "warm") == b"yes"


def test_a_replica_is_added(local: LocalDeployment) -> None:
    names = [node.name for node in local.config.data_nodes]
    added = local.add_replica()
    assert added not in names
    assert added in local.replica_nodes()
    local.kill(added)
    assert added not in local.replica_nodes()
    local.start(added)
    wait_for(lambda: added in local.replica_nodes())


def test_a_crashed_node_comes_back_by_itself_but_not_at_once(local: LocalDeployment) -> None:
    replica = local.replica_nodes()[0]
    begun = time.monotonic()
    os.kill(pids(local)[replica], signal.SIGKILL)
    wait_for(lambda: replica not in local.replica_nodes())
    wait_for(lambda: replica in local.replica_nodes(), 15)
    assert time.monotonic() - begun > local.config.down_after_ms / 1000


@pytest.mark.long
def test_nodes_that_outlived_their_supervisor_are_replaced(local: LocalDeployment) -> None:
    command(local, local.master_node(), "SET", "orphan", "1")
    before = pids(local)
    local.freeze(local.replica_nodes()[0])
    os.kill(int(local._supervision._call("getPID")), signal.SIGKILL)
    wait_for(lambda: not local._supervision.running())
    assert (local.folder / "supervisord.pid").exists(), "stale"
    said: list[str] = []
    assert len(local.bring_up(said.append)) == len(before)
    assert any("Supervisor had died" in text for text in said)
    assert not any(process_command(pid) for pid in before.values())
    assert command(local, local.master_node(), "GET", "orphan") == b"1"


@pytest.mark.long
def test_a_supervisor_without_its_socket_is_replaced(local: LocalDeployment) -> None:
    before = pids(local)
    (local.folder / "supervisor.sock").unlink(missing_ok=True)
    for short in Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")).glob(f"evercache-{os.getuid()}/*.sock"):
        from evercache.ops.config import socket_path

        if short == socket_path(local.folder):
            short.unlink()
    assert not local._supervision.running()
    assert len(local.bring_up()) == len(before)
    assert not any(process_command(pid) for pid in before.values())


def test_a_taken_port_is_named(local: LocalDeployment, capsys: pytest.CaptureFixture[str]) -> None:
    node = local.config.node(local.replica_nodes()[0])
    assert main(["down"]) == 0
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind((HOST, node.port))
        thief.listen()
        assert main(["up"]) == 5
        assert f"port {node.port} of {node.name} is taken" in capsys.readouterr().err
        assert not local._supervision.running(), "nothing is left half started"
    assert main(["up"]) == 0

    with contextlib.suppress(OSError):
        local.kill(node.name)
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind((HOST, node.port))
            thief.listen()
            with pytest.raises(PortTaken):
                local.start(node.name)


def test_two_live_side_by_side_and_one_is_purged(local: LocalDeployment, home: Path) -> None:
    # A folder too deep for a unix socket in it.
    deep = home / ("d" * 60)
    other = LocalDeployment.open("second", deep)
    try:
        other.up()
        ports = {node.port for node in local.config.nodes} & {node.port for node in other.config.nodes}
        assert not ports
        assert other.status().whole
        assert local.status().whole
        command(other, other.master_node(), "SET", "only", "here")
        assert command(local, local.master_node(), "GET", "only") is None
        mine = pids(other)
    finally:
        other.down(purge=True)
    assert not any(process_command(pid) for pid in mine.values())
    assert not other.folder.exists()
    assert not other.exists
    assert local.status().whole


def test_ctrl_c_leaves_nothing_running(local: LocalDeployment, home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "evercache", "up", "--name", "cut"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "EVERCACHE_HOME": str(home)},
    )
    assert process.stderr is not None
    assert "created" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    cut = LocalDeployment.open("cut", home)
    try:
        assert process.returncode == 130, err
        assert "nothing runs" in err
        assert not cut._supervision.running()
        config = DeploymentConfig.load(cut.folder)
        assert config is not None
    finally:
        cut.down(purge=True)
