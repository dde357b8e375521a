"""The commands of the runbook run, each against a deployment of real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nursery import evercache
from tests.servers import Deployment, Server

from evercache.ops.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def servers() -> Iterator[Deployment]:
    with Deployment.start() as whole:
        yield whole


def words_of(line: str, servers: Deployment) -> list[str]:
    master, sentinel = servers.master(), servers.sentinels[0]
    names = {
        "$EVERCACHE_URL": servers.url,
        "$HOST": "127.0.0.1",
        "$PORT": str(master.port),
        "$SENTINEL_PORT": str(sentinel.port),
        "mymaster": servers.name,
    }
    return [names.get(word, word) for word in shlex.split(line)]


def test_they_are_of_two_programs() -> None:
    assert len(LINES) >= 15
    assert {line.split()[0] for line in LINES} == {"evercache", "valkey-cli"}


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("valkey-cli")])
def test_what_is_sent_to_a_server(line: str, servers: Deployment) -> None:
    _, host_option, host, port_option, port, *command = words_of(line, servers)
    assert (host_option, host, port_option) == ("-h", "127.0.0.1", "-p")
    (server,) = [one for one in everyone(servers) if one.port == int(port)]
    reply = server.cli(*command)
    assert reply or command[0] == "SLOWLOG"
    if "CKQUORUM" in command:
        assert str(reply).startswith("OK")


def everyone(servers: Deployment) -> list[Server]:
    return [*servers.nodes, *servers.sentinels]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("evercache") and " warm " not in line])
def test_what_is_asked_of_evercache(
    line: str, servers: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, *arguments = words_of(line, servers)
    code = main(arguments)
    # The doctor is right in saying that three sentinels on one host are none too many.
    assert code in ((0, 1, 2) if arguments[0] == "doctor" else (0,))


def test_the_warming(servers: Deployment, tmp_path: Path) -> None:
    (line,) = [line for line in LINES if " warm " in line]
    page = (ROOT / "docs" / "warm.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "shop.py").write_text(source)
    program, *arguments = shlex.split(line)
    assert program == "evercache"
    command = evercache(*arguments, cwd=tmp_path, environ={"EVERCACHE_URL": servers.url})
    _, messages = command.communicate(timeout=50)
    assert (command.returncode, "is hot_samples= of the cache set" in messages) == (1, True), messages
