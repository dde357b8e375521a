"""What a local deployment writes and reads, without any process."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from evercache.errors import ConfigurationError, DeploymentError, DeploymentUnknown, DiskFull, ServerMissing
from evercache.ops import deploy
from evercache.ops import files as files_module
from evercache.ops.binary import find_server, server_version
from evercache.ops.config import (
    DeploymentConfig,
    free_ports,
    home_folder,
    socket_path,
)
from evercache.ops.files import disk_errors, write_private
from evercache.ops.local import LocalDeployment
from evercache.url import parse_url


def made(tmp_path: Path) -> DeploymentConfig:
    return DeploymentConfig.create("shop", tmp_path / "shop", Path("/usr/bin/valkey-server"))


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_home_is_the_argument_the_variable_or_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("EVERCACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert home_folder() == tmp_path / ".local/state/evercache"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert home_folder() == Path("/state/evercache")
    monkeypatch.setenv("EVERCACHE_HOME", "~/mine")
    assert home_folder() == tmp_path / "mine"
    assert home_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["", "a b", "../up", "Ü", "x" * 41, "-x", "a/b"])
def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no name for a deployment"):
        LocalDeployment.open(name, tmp_path)


def test_a_folder_that_supervisor_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set EVERCACHE_HOME"):
        LocalDeployment.open("x", tmp_path / "a ;b")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    config = made(tmp_path).with_replica()
    config.folder.mkdir()
    config.save()
    assert DeploymentConfig.load(config.folder) == config
    assert stat.S_IMODE((config.folder / "deployment.json").stat().st_mode) == 0o600
    assert DeploymentConfig.load(tmp_path) is None


def test_names_ports_and_passwords(tmp_path: Path) -> None:
    config = made(tmp_path)
    assert [node.name for node in config.data_nodes] == ["node-1", "node-2", "node-3"]
    assert [node.name for node in config.sentinels] == ["sentinel-1", "sentinel-2", "sentinel-3"]
    assert len({node.port for node in config.nodes}) == 6
    assert config.password != config.sentinel_password
    assert config.with_replica().data_nodes[-1].name == "node-4"
    with pytest.raises(DeploymentUnknown, match="it has node-1, node-2"):
        config.node("master")
    with pytest.raises(ConfigurationError, match="like 256mb"):
        DeploymentConfig.create("x", tmp_path, Path("/s"), memory="much")


def test_the_url_is_one_that_the_library_understands(tmp_path: Path) -> None:
    config = made(tmp_path)
    place = parse_url(config.url)
    assert place.kind == "sentinel"
    assert place.service == "evercache"
    assert [address.port for address in place.sentinels] == [node.port for node in config.sentinels]
    assert place.node_options.credentials.password == config.password
    assert place.sentinel_options.credentials.password == config.sentinel_password


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"format": 1}', '{"format": 1, "nodes": [{"x": 1}]}'])
def test_a_damaged_state_file_is_said_to_be_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_text(text)
    with pytest.raises(DeploymentError, match="damaged"):
        DeploymentConfig.load(tmp_path)


def test_a_state_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_text('{"format": 2}')
    with pytest.raises(DeploymentError, match="another version"):
        DeploymentConfig.load(tmp_path)


def test_files_of_a_new_deployment(tmp_path: Path) -> None:
    config = made(tmp_path)
    config.write_files()
    master, replica = (
        (config.folder / name / "server.conf").read_text().splitlines() for name in ("node-1", "node-2")
    )
    assert not [line for line in master if line.startswith("replicaof")]
    assert f"replicaof 127.0.0.1 {config.nodes[0].port}" in replica
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy volatile-lru"} <= set(master)
    assert {f"requirepass {config.password}", f"masterauth {config.password}"} <= set(master)
    sentinel = (config.folder / "sentinel-1" / "server.conf").read_text()
    assert f"requirepass {config.sentinel_password}" in sentinel
    assert sentinel.count("known-sentinel") == 2
    assert sentinel.count("known-replica") == 2
    assert "sentinel down-after-milliseconds evercache 2000" in sentinel
    assert "sentinel parallel-syncs evercache 1" in sentinel
    assert config.password not in (config.folder / "supervisord.conf").read_text()
    assert config.password not in (config.folder / "run.sh").read_text()


#: In which settings the servers of `evercache up` differ from those of `evercache render`, and why.
EXCEPTIONS = {
    "bind": "a place: all are on loopback",
    "port": "a place: six ports of one address",
    "dir": "a place",
    "pidfile": "a place",
    "replicaof": "a place",
    "replica-announce-ip": "a place",
    "replica-announce-port": "a place",
    "sentinel announce-ip": "a place",
    "sentinel announce-port": "a place",
    "sentinel monitor": "a place",
    "sentinel known-replica": "a place",
    "sentinel known-sentinel": "a place",
    "sentinel myid": "drawn, as several deployments may have one name",
    "aclfile": "one password instead of five users with rights of their own",
    "requirepass": "the same",
    "masteruser": "the same",
    "masterauth": "the same",
    "sentinel auth-user": "the same",
    "sentinel auth-pass": "the same",
    "sentinel sentinel-user": "the same",
    "sentinel sentinel-pass": "the same",
    "sentinel down-after-milliseconds": "a developer does not wait for 5 s",
    "sentinel failover-timeout": "it follows from the one before",
}


def settings(text: str) -> dict[str, list[str]]:
    """The values of each setting, without the name of the service."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            words = line.split()
            size = 2 if words[0] in {"sentinel", "client-output-buffer-limit"} else 1
            value = " ".join(word for word in words[size:] if word != "evercache")
            found.setdefault(" ".join(words[:size]), []).append(value)
    return found


def test_what_is_brought_up_is_what_is_rendered(tmp_path: Path) -> None:
    """But for places, logins, and the time after which a server counts as down."""
    server = program(tmp_path / "valkey-server", 'echo "Valkey server v=8.1.0 sha=0"')
    config = DeploymentConfig.create("shop", tmp_path / "shop", server, memory="512mb")
    config.write_files()
    description = deploy.parse(
        {
            "name": "evercache",
            "server": {"kind": "valkey", "version": "8.1", "memory": "512mb"},
            "passwords": {role: f"env:{role}" for role in deploy.ROLES},
            "application": {"networks": ["10.0.1.0/24"]},
            "hosts": [{"name": f"cache-{n}", "address": f"10.0.0.{n}"} for n in (1, 2, 3)],
        }
    )
    passwords = {role: f"{role}-password-of-a-test" for role in deploy.ROLES}
    rendered = deploy.render(description, passwords, "supervisor")
    seen = set()
    for number in (1, 2, 3):
        for mine, theirs in (("node", "valkey.conf"), ("sentinel", "sentinel.conf")):
            one = settings((config.folder / f"{mine}-{number}" / "server.conf").read_text())
            other = settings(rendered[f"cache-{number}/{theirs}"])
            differ = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
            assert differ <= EXCEPTIONS.keys()
            seen |= differ
    assert seen == EXCEPTIONS.keys(), "an exception that is none any more"
    assert f"sleep {config.description().restart_delay:g} &" in (config.folder / "run.sh").read_text()
    later = replace(config.description(), sentinel=description.sentinel)
    assert later.restart_delay == description.restart_delay


@pytest.mark.parametrize("memory", ["256MB", "1gb", "100000kb", "300000", "1023"])
def test_memory_is_never_rounded_down_to_no_bound(memory: str, tmp_path: Path) -> None:
    config = DeploymentConfig.create("shop", tmp_path / "shop", Path("/usr/bin/valkey-server"), memory=memory)
    config.write_files()
    (bound,) = settings((config.folder / "node-1" / "server.conf").read_text())["maxmemory"]
    assert re.fullmatch(r"[1-9]\d*(kb|mb|gb)", bound)


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("9.1.2", "sentinel primary-reboot-down-after-period evercache 30000"),
        ("7.0.15", "sentinel master-reboot-down-after-period evercache 30000"),
        ("6.2.14", None),
    ],
)
def test_a_master_that_loads_for_long_is_given_up_where_the_server_knows_how(
    version: str, line: str | None, tmp_path: Path
) -> None:
    server = program(tmp_path / "server", f'echo "Redis server v={version} sha=0"')
    DeploymentConfig.create("shop", tmp_path / "shop", server).write_files()
    lines = (tmp_path / "shop" / "sentinel-1" / "server.conf").read_text().splitlines()
    assert [one for one in lines if "reboot" in one] == ([line] if line else [])


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(DiskFull, match="make room"):
        made(tmp_path).write_files()
    assert not (tmp_path / "shop" / "deployment.json").exists()


def test_a_disk_that_fills_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    write_private(path, "before")
    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(DiskFull, match="EVERCACHE_HOME"), disk_errors(tmp_path):
        write_private(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_forbidden_folder_is_named_and_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="correct its rights"), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")
    with pytest.raises(InterruptedError), disk_errors(tmp_path):
        raise InterruptedError(errno.EINTR, "x")


def test_the_socket_of_a_deep_folder_is_elsewhere_and_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert socket_path(Path("/short")) == Path("/short/supervisor.sock")
    one, other = socket_path(Path("/" + "d" * 100)), socket_path(Path("/" + "e" * 100))
    assert one != other
    assert one.parent.parent == tmp_path
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700


def test_ports_are_free_distinct_and_not_ephemeral() -> None:
    ports = free_ports(30, avoid=range(12_000, 20_000))
    assert len(set(ports)) == 30
    assert all(20_000 <= port < 32_000 for port in ports)


def test_a_port_that_somebody_has_for_a_server_to_come_is_not_free() -> None:
    ports = set(free_ports(100))
    elsewhere = set(range(12_000, 32_000)) - ports
    with contextlib.ExitStack() as others:
        for port in ports:
            other = others.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
        with pytest.raises(DeploymentError, match="no free ports"):
            free_ports(1, avoid=elsewhere)
    assert set(free_ports(1, avoid=elsewhere)) < ports


def test_a_deployment_that_was_never_brought_up(tmp_path: Path) -> None:
    deployment = LocalDeployment.open("shop", tmp_path)
    assert not deployment.exists
    for use in (lambda: deployment.url, deployment.status, deployment.down, deployment.stop_all):
        with pytest.raises(DeploymentUnknown, match="run `evercache up --name shop`"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_the_server_of_the_wheel_is_found() -> None:
    assert server_version(find_server()) >= (7, 2)


def test_a_server_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ServerMissing, match="check --server"):
        find_server(tmp_path / "none")
    (tmp_path / "plain").write_text("text")
    with pytest.raises(ServerMissing, match="check --server"):
        find_server(tmp_path / "plain")
    with pytest.raises(ServerMissing, match="is no Valkey or Redis server"):
        find_server(program(tmp_path / "other", "echo hello"))
    with pytest.raises(ServerMissing, match=r"6\.2"):
        find_server(program(tmp_path / "old", "echo Redis server v=5.0.7 sha=0"))
    found = program(tmp_path / "fine", "echo Redis server v=7.0.15 sha=0")
    assert find_server(found) == found


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("evercache.ops.binary._from_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissing, match=r"evercache\[server\]"):
        find_server()
    found = program(tmp_path / "redis-server", "echo Redis server v=6.2.0 sha=0")
    assert find_server() == found
