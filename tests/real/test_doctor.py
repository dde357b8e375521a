"""Deployments that are really broken, one way after the other: each fires its check, and only what it implies."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.doctor_tools import NAME, NODE_SECRET, SENTINEL_SECRET, Hall, findings, fired
from tests.servers import free_port, wait_for

from evercache.ops.doctor import Facts, examine, gather
from evercache.ops.doctor.snapshot import dump

#: What else is wrong, always or for moments, when this is wrong: by the check, or by the way.
IMPLIED: dict[str, set[str]] = {
    "ckquorum": {"quorum"},
    "own-myid": {"dead-remembered", "ckquorum", "sentinel-hosts", "three-sentinels", "quorum"},
    "same-master": {"promotable", "ckquorum", "sentinel-hosts", "three-sentinels"},
    "named-master": {"one-master"},
    "a_dead_master_and_no_quorum": {"one-master", "ckquorum", "quorum", "replicas-follow"},
    "passwords": {"promotable"},
    "three-sentinels": {"promotable"},
}

#: Of these ways the doctor prints one command that mends it.
MENDED = {
    "a_quorum_that_nobody_reaches",
    "a_quorum_of_one",
    "a_second_master",
    "nobody_is_master",
    "a_replica_of_another",
    "a_node_that_keeps_nothing",
    "a_user_of_before_valkey_9",
    "no_bound",
    "no_eviction",
    "a_small_backlog",
    "a_small_output_buffer",
    "nobody_may_be_promoted",
    "each_replica_is_needed",
    "all_replicas_copy_at_once",
}

Break = Callable[[Hall], contextlib.AbstractContextManager[str]]
BREAKS: dict[str, tuple[str, Break]] = {}


def breaks(check: str) -> Callable[[Callable[[Hall], Iterator[str]]], None]:
    """A way to break the hall so that `check` fires; it yields the URL to look at, and mends all at its end."""

    def register(function: Callable[[Hall], Iterator[str]]) -> None:
        BREAKS[function.__name__] = (check, contextlib.contextmanager(function))

    return register


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


# -- one way to break it after the other


@breaks("three-sentinels")
def one_sentinel_is_lost_and_forgotten(hall: Hall) -> Iterator[str]:
    hall.sentinels[2].kill()
    try:
        for sentinel in hall.sentinels[:2]:
            sentinel.cli("SENTINEL", "RESET", NAME)
        yield hall.url(hall.where(0), hall.where(1))
    finally:
        hall.sentinels[2].restart()


@breaks("sentinel-hosts")
def two_sentinels_on_one_host(hall: Hall) -> Iterator[str]:
    hall.sentinels[1].cli("SENTINEL", "CONFIG", "SET", "announce-ip", "127.0.0.1")
    try:
        yield hall.url(hall.where(0), f"127.0.0.1:{hall.sentinels[1].port}", hall.where(2))
    finally:
        hall.sentinels[1].cli("SENTINEL", "CONFIG", "SET", "announce-ip", "127.0.0.2")


@breaks("ckquorum")
def a_quorum_that_nobody_reaches(hall: Hall) -> Iterator[str]:
    with hall.sentinel_set(0, "quorum", 5, 2):
        yield hall.url()


@breaks("quorum")
def a_quorum_of_one(hall: Hall) -> Iterator[str]:
    with hall.sentinel_set(0, "quorum", 1, 2):
        yield hall.url()


@breaks("own-myid")
def a_copied_file(hall: Hall) -> Iterator[str]:
    copy = hall.sentinel([f"sentinel myid {hall.ids[2]}", "sentinel announce-ip 127.0.0.1"])
    with copy:
        yield hall.url(*(hall.where(place) for place in range(3)), f"127.0.0.1:{copy.port}")


@breaks("same-master")
def a_sentinel_that_was_set_up_apart(hall: Hall) -> Iterator[str]:
    odd = hall.sentinels[2]

    def watch(host: str, port: int) -> None:
        odd.cli("SENTINEL", "REMOVE", NAME)
        odd.cli("SENTINEL", "MONITOR", NAME, host, port, 2)
        for name, value in (
            ("auth-pass", NODE_SECRET),
            ("parallel-syncs", 1),
            ("down-after-milliseconds", 3000),
            ("failover-timeout", 60000),
        ):
            odd.cli("SENTINEL", "SET", NAME, name, value)

    watch("127.0.0.2", hall.nodes[1].port)
    try:
        yield hall.url()
    finally:
        watch("127.0.0.1", hall.nodes[0].port)


@breaks("one-master")
def a_second_master(hall: Hall) -> Iterator[str]:
    hall.nodes[2].cli("REPLICAOF", "NO", "ONE")
    try:
        yield hall.url()
    finally:
        hall.nodes[2].cli("REPLICAOF", "127.0.0.1", hall.nodes[0].port)


@breaks("named-master")
def nobody_is_master(hall: Hall) -> Iterator[str]:
    hall.nodes[0].cli("REPLICAOF", "127.0.0.2", hall.nodes[1].port)
    try:
        yield hall.url()
    finally:
        hall.nodes[0].cli("REPLICAOF", "NO", "ONE")


@breaks("named-master")
def a_dead_master_and_no_quorum(hall: Hall) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        for place in range(3):
            stack.enter_context(hall.sentinel_set(place, "quorum", 5, 2))
        hall.nodes[0].kill()
        try:
            yield hall.url()
        finally:
            hall.nodes[0].restart()
            # With the old quorum, before they see it, they would promote another.
            wait_for(
                lambda: {hall.seen(place)["flags"] for place in range(3)} == {"master"}, 20, "the master to be seen"
            )


@breaks("replicas-follow")
def a_replica_of_another(hall: Hall) -> Iterator[str]:
    hall.nodes[2].cli("REPLICAOF", "127.0.0.2", hall.nodes[1].port)
    try:
        yield hall.url()
    finally:
        hall.nodes[2].cli("REPLICAOF", "127.0.0.1", hall.nodes[0].port)


@breaks("replicas-follow")
def a_link_that_is_down(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[2], "masterauth", "wrong"):
        hall.nodes[0].cli("CLIENT", "KILL", "TYPE", "replica")
        wait_for(lambda: hall.nodes[2].info("replication")["master_link_status"] == "down")
        wait_for(lambda: hall.nodes[1].info("replication")["master_link_status"] == "up")
        yield hall.url()


@breaks("dead-remembered")
def a_sentinel_is_dead(hall: Hall) -> Iterator[str]:
    hall.sentinels[2].kill()
    try:
        yield hall.url(hall.where(0), hall.where(1))
    finally:
        hall.sentinels[2].restart()


@breaks("dead-remembered")
def a_replica_is_dead(hall: Hall) -> Iterator[str]:
    hall.nodes[2].kill()
    try:
        yield hall.url()
    finally:
        hall.nodes[2].restart()


@breaks("reachable")
def an_address_where_nobody_is(hall: Hall) -> Iterator[str]:
    yield hall.url(*(hall.where(place) for place in range(3)), f"127.0.0.3:{free_port()}")


@breaks("names-mixed")
def a_host_name_among_ips(hall: Hall) -> Iterator[str]:
    hall.nodes[2].cli("REPLICAOF", "localhost", hall.nodes[0].port)
    try:
        yield hall.url()
    finally:
        hall.nodes[2].cli("REPLICAOF", "127.0.0.1", hall.nodes[0].port)


@breaks("groups-apart")
def one_server_in_two_groups(hall: Hall) -> Iterator[str]:
    hall.sentinels[1].cli("SENTINEL", "MONITOR", "other", "127.0.0.1", hall.nodes[0].port, 2)
    try:
        yield hall.url()
    finally:
        hall.sentinels[1].cli("SENTINEL", "REMOVE", "other")


@breaks("persistence")
def a_node_that_keeps_nothing(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[0], "appendonly", "no"):
        yield hall.url()


@breaks("passwords")
def a_node_that_could_not_follow(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[0], "masterauth", ""):
        yield hall.url()


@breaks("passwords")
def a_node_without_a_password(hall: Hall) -> Iterator[str]:
    with hall.without_password(hall.nodes[2]):
        yield hall.url()


@breaks("passwords")
def a_sentinel_with_a_wrong_password(hall: Hall) -> Iterator[str]:
    with hall.sentinel_set(2, "auth-pass", "wrong", NODE_SECRET):
        yield hall.url()


@breaks("sentinel-acl")
def a_user_of_before_valkey_9(hall: Hall) -> Iterator[str]:
    rules = "on >sen-Secret allchannels +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info"
    rules += " +client|setname +client|kill +script|kill"
    for node in hall.nodes:
        node.cli("ACL", "SETUSER", "sen", *rules.split())
    sentinel = hall.sentinels[0]
    sentinel.cli("SENTINEL", "SET", NAME, "auth-user", "sen", "auth-pass", "sen-Secret")
    try:
        yield hall.url()
    finally:
        sentinel.cli("SENTINEL", "SET", NAME, "auth-user", "default", "auth-pass", NODE_SECRET)
        for node in hall.nodes:
            node.cli("ACL", "DELUSER", "sen")


@breaks("maxmemory")
def no_bound(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[0], "maxmemory", 0):
        yield hall.url()


@breaks("maxmemory")
def no_eviction(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[1], "maxmemory-policy", "noeviction"):
        yield hall.url()


@breaks("maxmemory")
def no_room_for_a_copy(hall: Hall) -> Iterator[str]:
    total = hall.nodes[0].info("memory")["total_system_memory"]
    with contextlib.ExitStack() as stack:
        for node in hall.nodes:
            stack.enter_context(hall.set(node, "maxmemory", total))
        yield hall.url()


@breaks("backlog")
def a_small_backlog(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[0], "repl-backlog-size", 16384):
        yield hall.url()


@breaks("backlog")
def a_small_output_buffer(hall: Hall) -> Iterator[str]:
    master = hall.nodes[0]
    master.cli("CONFIG", "SET", "client-output-buffer-limit", "replica 1048576 524288 1")
    try:
        yield hall.url()
    finally:
        master.cli("CONFIG", "SET", "client-output-buffer-limit", "replica 268435456 67108864 60")


@breaks("promotable")
def nobody_may_be_promoted(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[1], "replica-priority", 0), hall.set(hall.nodes[2], "replica-priority", 0):
        yield hall.url()


@breaks("promotable")
def each_replica_is_needed(hall: Hall) -> Iterator[str]:
    with hall.set(hall.nodes[0], "min-replicas-to-write", 2):
        yield hall.url()


@breaks("saves-and-clocks")
def all_replicas_copy_at_once(hall: Hall) -> Iterator[str]:
    with hall.sentinel_set(1, "parallel-syncs", 5, 1):
        yield hall.url()


@breaks("saves-and-clocks")
def a_save_that_fails(hall: Hall) -> Iterator[str]:
    node = hall.nodes[2]
    file = node.dir / "dump.rdb"
    file.unlink(missing_ok=True)
    (file / "in the way").mkdir(parents=True)  # a folder where the snapshot is to go

    def saved(status: str) -> Callable[[], bool]:
        def ended() -> bool:
            info = node.info("persistence")
            return info["rdb_bgsave_in_progress"] == "0" and info["rdb_last_bgsave_status"] == status

        return ended

    wait_for(lambda: node.cli("BGSAVE"))  # refused while the file of commands is written anew
    wait_for(saved("err"))
    try:
        yield hall.url()
    finally:
        (file / "in the way").rmdir()
        file.rmdir()
        wait_for(lambda: node.cli("BGSAVE"))
        wait_for(saved("ok"))


@breaks("timeouts")
def a_long_time_out(hall: Hall) -> Iterator[str]:
    yield hall.url(more="&connect_timeout=5")


@pytest.mark.parametrize("way", BREAKS)
def test_what_is_broken_is_found_and_nothing_else(way: str, hall: Hall) -> None:
    check, broken = BREAKS[way]
    allowed = {check} | IMPLIED.get(way, IMPLIED.get(check, set()))
    with broken(hall) as url:
        last: list[Facts] = []

        def only_that() -> bool:
            last[:] = [gather(url)]
            return check in (seen := fired(last[0])) and seen <= allowed

        try:
            wait_for(only_that, 20, f"{check} alone", 0.1)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {findings(last[0])}") from error
        for result in examine(last[0]):
            for one in result.findings:
                if one.state == "found":
                    assert one.seen, one
                    assert one.mend, one
                    assert "…" not in one.mend
        assert not [secret for secret in (NODE_SECRET, SENTINEL_SECRET) if secret in dump(last[0])]
        done: set[str] = set()
        assert _mended(hall, check, last[0], done) is (way in MENDED)

        def mended() -> bool:
            seen = gather(url)
            if check in fired(seen):  # by a node that did not answer the last time: no command is run twice
                _mended(hall, check, seen, done)
            return check not in fired(seen)

        if way in MENDED:
            wait_for(mended, 20, f"{check} to be mended")


def _mended(hall: Hall, check: str, facts: Facts, done: set[str]) -> bool:
    """Run the commands that mend it, as they are printed, but those that were; False when there is none that can be
    run as it stands."""
    result = next(one for one in examine(facts) if one.check.name == check)
    mends = {one.mend.partition(", then ")[0] for one in result.findings if one.state == "found"}
    commands = [match for mend in mends if (match := re.fullmatch(r"valkey-cli -h (\S+) -p (\d+) ([^<;]+)", mend))]
    for match in commands:
        if match[0] in done:
            continue
        done.add(match[0])
        server = next(one for one in (*hall.nodes, *hall.sentinels) if one.port == int(match[2]))
        server.cli(*shlex.split(match[3]))
    return bool(commands)


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
            for match in re.finditer(r"valkey-cli -h (\S+) -p (\d+) ([^<;]+?)(?=, then|;|$)", mend):
                server = next(one for one in (*hall.nodes, *hall.sentinels) if one.port == int(match[2]))
                done.append(match[0])
                assert server.cli(*shlex.split(match[3])) is not None
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
