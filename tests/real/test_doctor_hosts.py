"""The doctor on a host: with a shell and a real Supervisor, and at servers that no harness of ours has set up."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.doctor_tools import SOUND, Hall, Loose, fired, run_as_printed
from tests.servers import Server, find_server, free_port

from evercache.errors import DeploymentUnknown
from evercache.ops.cli import main
from evercache.ops.doctor import Facts, examine, gather, load
from evercache.ops.doctor.shell import with_host
from evercache.ops.local import LocalDeployment
from evercache.ops.survey import ask
from evercache.protocol.types import Address

# -- under a real Supervisor, with a shell on the host


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    deployment = LocalDeployment.open("default", tmp_path_factory.mktemp("doctor"))
    try:
        deployment.up()
        yield deployment
    finally:
        with contextlib.suppress(DeploymentUnknown):
            deployment.down(purge=True)


def looked(deployment: LocalDeployment) -> Facts:
    facts = with_host(gather(deployment.url))
    # The kernel is that of whatever machine runs the tests.
    return replace(
        facts, hosts=tuple(replace(h, overcommit="1", huge_pages="never", swap_bytes=0) for h in facts.hosts)
    )


def test_our_own_deployment_is_sound_to_the_last_check(local: LocalDeployment) -> None:
    facts = looked(local)
    assert {r.check.name: (r.state, r.findings) for r in examine(facts) if r.state != "fine"} == {}


def test_what_a_shell_shows(local: LocalDeployment, tmp_path: Path) -> None:
    """Each check fires alone, and its advice mends it."""
    config = local.config
    options = {"timeout": 5.0}

    def tell(sentinel: bool, index: int, *command: str) -> None:
        node = (config.sentinels if sentinel else config.data_nodes)[index]
        ask(Address("127.0.0.1", node.port), local._options(config, sentinel), command, **options)

    def advice(check: str) -> str:
        facts = looked(local)
        assert fired(facts) == {check}
        (result,) = (one for one in examine(facts) if one.check.name == check)
        return next(one.mend for one in result.findings if one.mend)

    def run(check: str) -> list[str]:
        ports = {node.port for node in config.sentinels}
        return run_as_printed(
            looked(local),
            check,
            tmp_path,
            lambda port: config.sentinel_password if port in ports else config.password,
        )

    runner = local.folder / "run.sh"
    before = runner.read_text()
    runner.write_text(before.replace("sleep", "true"))
    # A script that sleeps for as long as is advised, before it starts the server.
    wanted = re.search(r"'(sleep \d+); exec", advice("restart-delay"))
    assert wanted is not None
    runner.write_text(re.sub(r"true \d+", wanted[1], before.replace("sleep", "true")))
    assert fired(looked(local)) == set()
    runner.write_text(before)

    # The lines of the advice in the file that it names, for the program of this node.
    tell(False, 1, "CONFIG", "SET", "save", "60 1")
    settings, _, file = advice("stop-timeout").partition(" in ")
    programs = Path(file)
    was = programs.read_text()
    head, mark, tail = was.partition(f"[program:{config.data_nodes[1].name}]\n")
    tail = re.sub(r"stopsignal=\w+\nstopwaitsecs=\d+", settings.replace(", ", "\n"), tail, count=1)
    programs.write_text(head + mark + tail)
    assert fired(looked(local)) == set()
    programs.write_text(was)
    tell(False, 1, "CONFIG", "SET", "save", "")

    tell(True, 0, "SENTINEL", "SET", config.service, "primary-reboot-down-after-period", "0")
    assert advice("reboot-period")
    assert run("reboot-period")
    assert fired(looked(local)) == set()

    conf = local.folder / "node-3" / "server.conf"
    conf.rename(conf.with_suffix(".away"))
    assert str(conf) in advice("config-writable")
    conf.with_suffix(".away").rename(conf)
    assert fired(looked(local)) == set()


def test_the_command_finds_the_local_deployment(
    local: LocalDeployment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERCACHE_HOME", str(local.folder.parent))
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    file = tmp_path / "facts.json"
    assert main(["doctor", "--save", str(file)]) == 0
    out = capsys.readouterr().out
    assert "sound, as far as can be seen" in out
    assert "a shell shows it" in out
    assert load(file).names
    for secret in (local.config.password, local.config.sentinel_password):
        assert secret not in file.read_text()
        assert secret not in out
    assert main(["doctor", "--from", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "sound"
    assert len(document["checks"]) == 34
    assert main(["doctor", "redis://127.0.0.1:" + str(free_port())]) == 2
    assert "critical: no server answers (Connection refused" in capsys.readouterr().out
    assert main(["doctor", local.url.replace(local.config.sentinel_password, "wrong")]) == 3
    assert "could not look: " in capsys.readouterr().out


# -- servers that no harness starts


def test_a_server_in_the_background(tmp_path: Path) -> None:
    lines = [
        "daemonize yes",
        "save 900 1",
        *(f"{k} {v}" for k, v in SOUND.items() if k not in ("bind", "appendonly")),
    ]
    with Loose(tmp_path, lines) as server:
        facts = gather(f"redis://127.0.0.1:{server.port}")
        assert fired(facts) == {"foreground"}
        (result,) = (one for one in examine(facts) if one.check.name == "foreground")
        advice = next(one.mend for one in result.findings if one.mend)
    # The line of the advice in the file that it names; then it is started in the foreground.
    line, _, rest = advice.partition(" in ")
    file = Path(rest.partition(";")[0])
    file.write_text(file.read_text().replace("daemonize yes", line))
    own = ("port ", "bind ", "dir ")  # of each loose server
    with Loose(
        tmp_path, [one for one in file.read_text().splitlines() if not one.startswith(own)], file=False
    ) as server:
        seen = gather(f"redis://127.0.0.1:{server.port}")
    assert "foreground" not in fired(seen)


def test_a_server_without_a_file(tmp_path: Path) -> None:
    lines = ["save 900 1", *(f"{k} {v}" for k, v in SOUND.items() if k not in ("bind", "appendonly"))]
    with Loose(tmp_path, lines, file=False) as server:
        assert fired(gather(f"redis://127.0.0.1:{server.port}")) == {"config-writable"}


def test_a_deployment_as_pybossa_ships_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentinel with quorum 2, a server in the background, no replica, no bound of memory, no time-outs."""
    with Loose(tmp_path, ["daemonize yes", "save 900 1", "save 300 10", "save 60 10000"]) as server:
        lines = [
            f"sentinel myid {secrets.token_hex(20)}",
            f"sentinel monitor mymaster 127.0.0.1 {server.port} 2",
            "sentinel down-after-milliseconds mymaster 60000",
            "sentinel failover-timeout mymaster 180000",
        ]
        with Server.start("valkey", sentinel_config="\n".join(lines) + "\n") as sentinel:
            settings = tmp_path / "settings_local.py"
            settings.write_text(f"REDIS_SENTINEL = [('localhost', {sentinel.port})]\nREDIS_MASTER = 'mymaster'\n")
            assert main(["doctor", "--settings", str(settings), "--json"]) == 2
            document = json.loads(capsys.readouterr().out)
            assert main(["doctor", "--settings", str(settings)]) == 2
    found = {check["name"] for check in document["checks"] if check["state"] == "found"}
    sentinels = {"three-sentinels", "ckquorum", "quorum", "promotion-time"}
    assert found == {*sentinels, "promotable", "foreground", "maxmemory", "timeouts"}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["redis6", "redis7"])
def test_older_servers_are_sound(kind: str) -> None:
    if find_server(kind) is None:
        pytest.skip(f"no {kind} server on this machine")
    with Hall.open(kind) as hall:
        facts = gather(hall.url())
        assert fired(facts) == set()
        assert facts.seconds < 5
