"""A default user without rights, on a server that reads its append-only file as that user."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest
from tests.real.doctor_tools import run_as_printed
from tests.real.rendered import Rendered, described
from tests.servers import Server, find_server, wait_for

from evercache import Cache
from evercache.ops.doctor import Result, examine, gather
from evercache.ops.doctor.loading import QUESTIONS
from evercache.ops.doctor.snapshot import dump

pytestmark = pytest.mark.skipif(find_server("redis7") is None, reason="no redis7 server on this machine")

KEPT = 20


def persistence(made: Rendered, role: str) -> Result:
    """What this check says to somebody of this role."""
    return next(one for one in examine(gather(made.url(role))) if one.check.name == "persistence")


def mend(made: Rendered) -> None:
    """Run what is printed, as the operator: the commands, and what makes them last."""
    facts = gather(made.url("operator"))
    ran = run_as_printed(facts, "persistence", made.folder, lambda port: None, as_operator(made))
    assert any(line.endswith("ACL SAVE") for line in ran)


def as_operator(made: Rendered) -> Callable[[str], str]:
    """As a person who is logged in by name."""
    login = f"--user operator --pass {made.passwords['operator']}"
    return lambda line: line.replace("valkey-cli ", f"valkey-cli {login} ")


def take_the_rights(made: Rendered) -> None:
    for host in made.hosts:
        for command in (("ACL", "SETUSER", "default", "reset"), ("ACL", "SAVE")):
            assert made.command(host, *command) == b"OK"


def restart(made: Rendered) -> None:
    for host in made.hosts:
        made.control(host, "restart", "node")
    made.wait_whole()


def quiet(made: Rendered) -> None:
    """Nothing fires; what a restart makes fire for moments has ended."""
    wait_for(lambda: not made.fired(), 20, "the doctor to find nothing")


def test_what_a_restart_leaves_out_is_foreseen_and_comes_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("d")
    values = described(folder, "redis7")
    values["hosts"] = [{"name": "cache-1", "address": "127.0.0.1", "sentinel": False}]
    with Rendered.running(folder, values) as made:
        assert made.fired() == []
        with Cache(made.url("application"), namespace="shop", budget=2.0) as cache:
            assert all(cache.set(f"k{number}", number, ttl=600, tags=("t",)) for number in range(KEPT))
        # Counted by their names: a cache that has seen its marks gone believes no entry that comes back.
        keys = made.command("cache-1", "KEYS", "shop:*")
        assert len(keys) == KEPT
        take_the_rights(made)

        # Whoever monitors sees it; whoever may not look is told so; neither is told a password.
        (finding,) = persistence(made, "monitoring").findings
        assert (finding.state, "who may not write at all" in finding.seen) == ("found", True)
        (hidden,) = persistence(made, "application").findings
        assert (hidden.state, "ACL DRYRUN" in hidden.seen) == ("cannot see", True)
        saved = dump(gather(made.url("monitoring")))
        secrets = [text for one in made.passwords.values() for text in (one, sha256(one.encode()).hexdigest())]
        assert not [one for one in secrets if one in saved]

        restart(made)
        assert made.command("cache-1", "EXISTS", *keys) == 0
        assert [name for name, _ in made.fired()] == ["persistence"]
        mend(made)
        assert made.fired() == []
        restart(made)
        assert made.command("cache-1", "EXISTS", *keys) == KEPT
        assert made.fired() == []


@pytest.mark.long
def test_each_node_of_a_deployment_is_found_and_mended(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("d")
    with Rendered.running(folder, described(folder, "redis7")) as made:
        quiet(made)
        take_the_rights(made)
        wait_for(lambda: {name for name, _ in made.fired()} == {"persistence"}, 20, "that check alone")
        found = persistence(made, "monitoring").findings
        assert [one.state for one in found] == ["found"] * 3
        mend(made)
        quiet(made)
        restart(made)
        quiet(made)


def test_every_command_that_writes_is_asked_about() -> None:
    """But for those that wait, which stand in the file as what they did, and the dangerous ones."""
    with Server.start("redis7") as server:
        write, dangerous, blocking = (
            set(server.cli("COMMAND", "LIST", "FILTERBY", "ACLCAT", category))
            for category in ("write", "dangerous", "blocking")
        )
        assert set(QUESTIONS) == (write - dangerous - blocking) | {"select"}
        server.cli("ACL", "SETUSER", "all", "reset", "allkeys", "+@write", "+select")
        server.cli("ACL", "SETUSER", "own", "reset", "~shop:*", "+@all")
        for name, question in QUESTIONS.items():
            assert server.cli("ACL", "DRYRUN", "all", *question) == "OK", name
            keyless = name == "select" or name.startswith("function")
            assert (server.cli("ACL", "DRYRUN", "own", *question) == "OK") is keyless, name
