"""The page on care, followed: backups, restores, and the way back from a new version, on real servers.

Each command of the page is run: here, or where the table at the end says.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from tests.real import test_doctor_certificates, test_rotation
from tests.real.trouble_tools import Site
from tests.servers import Server, ServerFailed, find_server, wait_for

from evercache import Cache
from evercache.net import greeting
from evercache.ops.doctor import Finding, Severity, examine, gather

PAGE = (Path(__file__).parents[2] / "docs" / "care.md").read_text(encoding="utf-8")
KINDS = ["valkey", "redis7", "redis6"]


def section(title: str) -> str:
    (text,) = re.findall(rf"^##+ {title}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    return text


def blocks(text: str) -> list[list[str]]:
    found = re.findall(r"^( *)```sh\n(.*?)^\1```$", text, re.M | re.S)
    return [dedent(block).splitlines() for _, block in found]


class Host:
    """A host with one server, where the commands of the page are run. Not for several threads."""

    def __init__(self, server: Server, backups: Path) -> None:
        self.server = server
        self.backups = backups
        #: What was said, by the command.
        self.said: dict[str, str] = {}

    def run(self, lines: list[str]) -> None:
        for line in lines:
            self.said[line] = self._run(line)

    def _run(self, line: str) -> str:
        words = shlex.split(line)
        if words[0] == "valkey-cli":
            assert words[1:5] == ["-h", "$HOST", "-p", "$PORT"]
            return str(self.server.cli(*words[5:]))
        if words[0] == "supervisorctl":
            for name in words[2:]:
                if name == "node":
                    self.server.stop() if words[1] == "stop" else self.server._spawn()
            return ""
        here = line.replace("/var/lib/evercache/node", str(self.server.dir)).replace(
            "/var/backups", str(self.backups)
        )
        here = here.replace("python -c", f"{shlex.quote(sys.executable)} -c")
        environment = {**os.environ, "EVERCACHE_URL": self.server.url}
        done = subprocess.run(
            here, shell=True, env=environment, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, f"{here}: {done.stdout}{done.stderr}"
        return done.stdout

    def backup(self) -> None:
        save, ask, copy = blocks(section("Backups"))[0]
        self.run([save])

        def saved() -> bool:
            self.run([ask])
            return "rdb_bgsave_in_progress:0" in self.said[ask]

        wait_for(saved, what="the save")
        assert "rdb_last_bgsave_status:ok" in self.said[ask]
        self.run([copy])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if find_server(request.param) is None:
        pytest.skip(f"no {request.param} server on this machine")
    name: str = request.param
    return name


@pytest.fixture
def host(kind: str, tmp_path: Path) -> Iterator[Host]:
    with Server.start(kind, options={"appendonly": "yes"}) as server:
        yield Host(server, tmp_path)


def test_a_restored_backup_has_the_data_and_serves_nothing_that_was_invalidated(host: Host) -> None:
    site, server = Site(), host.server
    stop, put, start, clear = blocks(section("Restore"))
    with Cache(server.url, namespace="shop", budget=2.0) as cache:
        page = site.on(cache)
        wait_for(lambda: cache.health().ok, what="the server to be followed")
        page(1)
        assert page.peek(1, default=None) == 0
        key = page.key(1)
        server.cli("SET", "rq:job", "of the queue")
        host.backup()
        site.change()
        assert page.invalidate(1)
        assert page(1) == 1
    host.run(stop)
    host.run(put)
    host.run(start)
    assert server.cli("GET", "rq:job") == "of the queue"
    assert server.cli("EXISTS", key) == 1
    with Cache(server.url, namespace="shop", budget=2.0) as early:
        # This is why the page says when to start the application.
        assert wait_for(lambda: site.on(early).peek(1, default=None) is not None, what="the old value") is not None
    host.run(clear)
    with Cache(server.url, namespace="shop", budget=2.0) as cache:
        page = site.on(cache)
        assert page.peek(1, default=None) is None
        assert page(1) == 1
    server.restart()
    assert server.cli("GET", "rq:job") == "of the queue", "it is in an append-only file again"


def test_an_older_replica_comes_back_after_an_upgrade(tmp_path: Path) -> None:
    """From Redis 7 to 6.2; the master has 6.2 all the time."""
    if find_server("redis7") is None or find_server("redis6") is None:
        pytest.skip("two versions of Redis are needed")
    (undo,) = blocks(section("The servers"))
    with Server.start("redis6") as master, Server.start("redis7", replica_of=master) as newer:
        assert master.cli("SET", "k", "v")
        wait_for(lambda: newer.cli("GET", "k") == "v", what="the replica to follow")
        (mixed,) = found(master.url, "versions")
        assert "the nodes run redis 6.2 and redis 7.0" in mixed.seen
        assert mixed.severity is Severity.note
        newer.cli("SAVE")
        data = (newer.dir / "dump.rdb").read_bytes()
        with Server.start("redis6", replica_of=master) as older:
            older.stop()
            (older.dir / "dump.rdb").write_bytes(data)
            with pytest.raises(ServerFailed):
                older._spawn()
            older.kill()
            Host(older, tmp_path).run(undo)
            wait_for(lambda: older.cli("GET", "k") == "v", what="the older replica to follow")


def test_no_older_replica_follows_a_newer_master() -> None:
    if find_server("redis7") is None or find_server("redis6") is None:
        pytest.skip("two versions of Redis are needed")
    with Server.start("redis7") as master, Server.start("redis6", replica_of=master) as older:
        assert master.cli("SET", "k", "v")
        wait_for(lambda: "Can't handle RDB format" in older.log_tail(50), 20, "the copy that cannot be read")
        assert older.info("replication")["master_link_status"] == "down"
        seen = [one.seen for one in found(f"{master.url}?replicas=127.0.0.1:{older.port}", "versions")]
        assert [
            f"127.0.0.1:{older.port} (redis 6.2) is older than its master (redis 7.0)",
        ] == seen


def test_the_doctor_shows_which_versions_of_the_library_are_connected(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    with Cache(valkey.url, namespace="rolled") as present:
        assert site.on(present)(1) == 0
        assert found(valkey.url, "libraries") == []
        monkeypatch.setattr(greeting, "__version__", "0.0.9")
        # Caches with equal URLs share their connections.
        with Cache(f"{valkey.url}?connect_timeout=0.21", namespace="rolled") as earlier:
            assert site.on(earlier)(1) == 0
            (several,) = found(valkey.url, "libraries")
            assert "0.0.9 (" in several.seen
            assert "finish the rollout, or roll back" in several.mend


def found(url: str, check: str) -> list[Finding]:
    (result,) = [one for one in examine(gather(url)) if one.check.name == check]
    return [one for one in result.findings if one.state == "found"]


#: Where the commands of other sections are run, and by which test.
ELSEWHERE = {
    'evercache doctor "$EVERCACHE_URL"': "test_docs_runbook.py",
    "sh reload.sh": test_rotation.__name__,
    "supervisorctl restart sentinel": test_rotation.__name__,
    "evercache render cache.toml --for supervisor": "test_docs_supervisor.py",
    'valkey-cli -h "$HOST" -p "$PORT" CONFIG SET tls-cert-file "$CERTIFICATE"': test_doctor_certificates.__name__,
}


def test_each_command_of_the_page_is_run_by_a_test() -> None:
    here = [
        block for title in ("Backups", "Restore", "The library", "The servers") for block in blocks(section(title))
    ]
    lines = {line for block in blocks(PAGE) for line in block}
    assert lines == {line for block in here for line in block} | set(ELSEWHERE)
    assert blocks(section("The library")) == [blocks(section("Restore"))[-1]]
