"""Deployments that are really broken, one way after the other: each fires its check, and only what it implies."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.doctor_breaks import BREAKS, IMPLIED
from tests.real.doctor_tools import NODE_SECRET, SENTINEL_SECRET, Hall, findings, fired, followed
from tests.servers import free_port, wait_for

from evercache.ops.doctor import Facts, examine, gather
from evercache.ops.doctor.registry import is_command
from evercache.ops.doctor.shell import with_host
from evercache.ops.doctor.snapshot import dump


@pytest.fixture(scope="module")
def halls() -> Iterator[list[Hall]]:
    """The deployment that the tests share, last; those before it are closed."""
    kept = [Hall.started()]
    yield kept
    kept[-1].close()


@pytest.fixture
def hall(halls: list[Hall]) -> Hall:
    """Sound before each test, its first node the master: a new one where the one before does not recover soon
    (TILT lasts 30 s), or where another node was promoted."""
    try:
        halls[-1].wait_sound(8)
        if halls[-1].nodes[0].cli("ROLE")[0] != "master":
            raise TimeoutError("its master was replaced")
    except TimeoutError as error:
        print(f"a new deployment, since {error}")
        halls[-1].close()
        halls.append(Hall.started())
    return halls[-1]


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found_alone_and_the_advice_mends_it(
    name: str, hall: Hall, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice is followed as a person does: the commands are run as they are printed."""
    way = BREAKS[name]
    allowed = {way.check} | IMPLIED.get(name, IMPLIED.get(way.check, set()))

    def look(url: str) -> Facts:
        return with_host(gather(url)) if way.host else gather(url)

    def found(facts: Facts) -> set[str]:
        return fired(facts) - ({"kernel"} if way.host else set())

    with way.broken(hall) as url:
        last: list[Facts] = []

        def only_that() -> bool:
            last[:] = [look(url)]
            return way.check in (seen := found(last[0])) and seen <= allowed

        try:
            wait_for(only_that, 20, f"{way.check} alone", 0.1)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {findings(last[0])}") from error
        for result in examine(last[0]):
            for one in result.findings:
                if one.state == "found":
                    assert one.seen, one
                    assert one.mend, one
                    assert "…" not in one.mend
        assert not [secret for secret in (NODE_SECRET, SENTINEL_SECRET) if secret in dump(last[0])]
        commands = followed(hall, last[0], way.check, by_hand=way.by_hand)
        assert commands or way.why, "neither a command nor a reason why there is none"
        url = way.url(url)
        last.clear()

        def mended() -> bool:
            last[:] = [look(url)]
            return way.check not in found(last[0]) and found(last[0]) <= allowed

        try:
            wait_for(mended, 30, f"{way.check} to be mended", 0.1)
        except TimeoutError as error:
            raise AssertionError(f"{error} by {commands}: {findings(last[0])}") from error
    for node in hall.nodes:
        node.cli("CONFIG", "REWRITE")  # the settings of before, which a restart would bring back


def test_nothing_listens_beyond_loopback_without_a_password(hall: Hall) -> None:
    """By the facts of a real server, as a test must not open a door."""
    with hall.without_password(hall.nodes[2]):
        facts = gather(hall.url())
    node = next(one for one in facts.nodes if one.address.port == hall.nodes[2].port)
    assert node.open
    wide = replace(node, config={**node.config, "bind": "* -::*", "protected-mode": "no"})
    others = tuple(one for one in facts.nodes if one is not node)
    assert "open-door" not in fired(facts)
    assert "open-door" in fired(replace(facts, nodes=(*others, wide)))


def test_dead_and_frozen_servers_hold_nobody_up() -> None:
    # Of its own: a sentinel that was frozen is in TILT for 30 s.
    with Hall.open() as hall, hall.nodes[2].frozen(), hall.sentinels[2].frozen():
        facts = gather(hall.url(*(hall.where(place) for place in range(3)), f"127.0.0.1:{free_port()}"))
    assert facts.seconds < 5
    assert {one.address.port for one in facts.servers if not one.error} == {
        server.port for server in (*hall.nodes[:2], *hall.sentinels[:2])
    }
    assert fired(facts) & {"reachable", "dead-remembered"}


def test_a_user_who_may_not_see_is_told_so(hall: Hall) -> None:
    """Hidden is hidden: never fine."""
    rules = "on >see-Secret resetchannels -@all +hello +info +role +time +client|setname +client|setinfo"
    for node in hall.nodes:
        node.cli("ACL", "SETUSER", "seer", *rules.split())
    try:
        url = hall.url().replace("sentinel://:", "sentinel://seer:").replace("node-Secret%2F1", "see-Secret")
        facts = gather(url)
    finally:
        for node in hall.nodes:
            node.cli("ACL", "DELUSER", "seer")
    assert all("NOPERM" in one.hidden["CONFIG"] for one in facts.up_nodes)
    assert len(facts.up_nodes) == 3
    states = {result.check.name: result.state for result in examine(facts)}
    hidden = {name for name, state in states.items() if state == "cannot see"}
    assert {"passwords", "promotable", "backlog", "stop-timeout", "sentinel-acl", "foreground"} <= hidden
    assert "found" not in states.values()


def test_the_rights_that_are_documented_show_everything(hall: Hall) -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    rules = page.split("the user needs `")[1].split("`")[0].split()
    for node in hall.nodes:
        node.cli("ACL", "SETUSER", "seer", "on", ">see-Secret", "resetchannels", "-@all", *rules)
    try:
        facts = gather(
            hall.url().replace("sentinel://:", "sentinel://seer:").replace("node-Secret%2F1", "see-Secret")
        )
    finally:
        for node in hall.nodes:
            node.cli("ACL", "DELUSER", "seer")
    assert [one.hidden for one in facts.up_nodes] == [{}, {}, {}]
    assert fired(facts) == set()


@pytest.fixture
def passive(hall: Hall) -> Iterator[Hall]:
    """Its sentinels change nothing by themselves."""
    with contextlib.ExitStack() as stack:
        for place in range(3):
            stack.enter_context(hall.sentinel_set(place, "quorum", 5, 2))
        yield hall


def _roles(hall: Hall) -> list[str]:
    return [node.cli("ROLE")[0] for node in hall.nodes]


def _advised(hall: Hall, done: list[str], *checks: str) -> Facts:
    """Run each command that these checks print now, as long as they print any."""
    for _ in range(6):
        facts = gather(hall.url())
        mends = [
            one.mend
            for result in examine(facts)
            if result.check.name in checks
            for one in result.findings
            if one.state == "found"
        ]
        if not mends:
            break
        for mend in dict.fromkeys(mends):
            for line in filter(is_command, mend.splitlines()):
                _, _, _, _, port, *command = shlex.split(line)
                server = next(one for one in (*hall.nodes, *hall.sentinels) if one.port == int(port))
                done.append(line)
                assert server.cli(*command) is not None
                assert _roles(hall).count("master") <= 1, f"two masters after {done}"
        wait_for(lambda: _settled(hall), 15, f"the nodes to settle after {done}")
    return gather(hall.url())


def _settled(hall: Hall) -> bool:
    links = [node.info("replication") for node in hall.nodes]
    handing = [one for one in links if one.get("master_failover_state", "no-failover") != "no-failover"]
    return not handing and all(one["role"] == "master" or one["master_link_status"] == "up" for one in links)


@pytest.mark.parametrize("chained", [True, False], ids=["a replica of it", "a replica of a replica of it"])
def test_no_advice_makes_a_second_primary(passive: Hall, chained: bool) -> None:
    """The node that is named was made a replica by hand, and another one works: `REPLICAOF NO ONE` on the first was
    the advice, with which two took writes."""
    named, other, third = passive.nodes
    other.cli("REPLICAOF", "NO", "ONE")
    source = other if chained else third
    third.cli("REPLICAOF", "127.0.0.2", other.port)
    named.cli("REPLICAOF", "127.0.0.2" if chained else "127.0.0.3", source.port)
    try:
        wait_for(lambda: _settled(passive), 15)
        other.cli("SET", "written", "at the other")
        wait_for(lambda: named.cli("GET", "written"), 10)
        done: list[str] = []
        facts = _advised(passive, done, "one-master", "named-master", "replicas-follow")
        assert done
        assert fired(facts) <= {"ckquorum", "quorum"}, findings(facts)
        assert _roles(passive) == ["master", "slave", "slave"]
        assert named.cli("GET", "written") == "at the other"
    finally:
        named.cli("REPLICAOF", "NO", "ONE")
        for node in (other, third):
            node.cli("REPLICAOF", "127.0.0.1", named.port)


def test_of_replicas_only_the_one_that_is_named_becomes_master(passive: Hall) -> None:
    """Two checks advised `REPLICAOF NO ONE` on two nodes."""
    named, other, third = passive.nodes
    named.cli("REPLICAOF", "127.0.0.2", other.port)
    try:
        done: list[str] = []
        order = gather(passive.url(passive.where(2), passive.where(1)))
        facts = replace(order, nodes=(order.nodes[2], order.nodes[1], order.nodes[0]))
        one_master = next(result for result in examine(facts) if result.check.name == "one-master")
        assert [one.mend for one in one_master.findings] == [
            f"valkey-cli -h 127.0.0.1 -p {named.port} REPLICAOF NO ONE"
        ]
        _advised(passive, done, "one-master", "named-master")
        assert _roles(passive) == ["master", "slave", "slave"]
    finally:
        named.cli("REPLICAOF", "NO", "ONE")
        third.cli("REPLICAOF", "127.0.0.1", named.port)
