"""Ways to break a deployment of the tests, each of which fires one check; and where the other checks are tried.

The doctor's advice is followed: the commands as they are printed, and what `by_hand` does for the words.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.real.doctor_tools import NAME, NODE_SECRET, Hall
from tests.servers import CliError, free_port, wait_for

__all__ = ["BREAKS", "ELSEWHERE", "IMPLIED", "NOT_FOLLOWED", "Way"]

#: What else is wrong, always or for moments, when this is wrong: by the check, or by the way.
IMPLIED: dict[str, set[str]] = {
    "ckquorum": {"quorum"},
    "own-myid": {"dead-remembered", "ckquorum", "sentinel-hosts", "three-sentinels", "quorum"},
    "same-master": {"promotable", "ckquorum", "sentinel-hosts", "three-sentinels"},
    "named-master": {"one-master"},
    "a_dead_master_and_no_quorum": {"one-master", "ckquorum", "quorum", "replicas-follow"},
    "passwords": {"promotable"},
    # Once it is forgotten there are two.
    "a_sentinel_is_dead": {"three-sentinels"},
    "three-sentinels": {"promotable"},
}

#: Does what the words of the advice say: before the commands are run, and after them.
Hand = Callable[[Hall], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to break a hall; `broken` yields the URL to look at, and puts all back at its end."""

    check: str
    broken: Callable[[Hall], contextlib.AbstractContextManager[str]]
    by_hand: Hand | None = None
    #: Corrects the URL as the advice says.
    url: Callable[[str], str] = str
    #: Whether it shows on the host only.
    host: bool = False
    #: Why the advice is no command, or is not followed in the test.
    why: str = ""


BREAKS: dict[str, Way] = {}
#: Checks whose advice other tests follow.
ELSEWHERE = {
    "certificates": "test_doctor_certificates.py::test_what_is_advised_replaces_certificates_while_a_site_reads",
    "versions": "test_docs_care.py::test_an_older_replica_comes_back_after_an_upgrade",
    "electable": "test_rights.py::test_epochs_that_were_used_up_are_found_and_repaired",
    "persistence": "test_doctor_default_user.py::test_what_a_restart_leaves_out_is_foreseen_and_comes_back",
    "strain": "test_doctor_strain.py::test_a_cache_that_keeps_nothing_is_not_sound",
    "restart-delay": "test_doctor_hosts.py::test_what_a_shell_shows",
    "stop-timeout": "test_doctor_hosts.py::test_what_a_shell_shows",
    "config-writable": "test_doctor_hosts.py::test_what_a_shell_shows",
    "foreground": "test_doctor_hosts.py::test_a_server_in_the_background",
}
#: Checks whose advice no test follows, and why.
NOT_FOLLOWED = {
    "libraries": "it is a note, and its advice is a rollout of the application",
    "kernel": "its commands change the kernel of the machine that runs the tests",
    "open-door": "a test must not open a door; what is advised is what `passwords` advises",
}


def breaks(
    check: str, *, by_hand: Hand | None = None, url: Callable[[str], str] = str, host: bool = False, why: str = ""
) -> Callable[[Callable[[Hall], Iterator[str]]], None]:
    """Register a way to break the hall so that `check` fires."""

    def register(function: Callable[[Hall], Iterator[str]]) -> None:
        broken = contextlib.contextmanager(function)
        BREAKS[function.__name__] = Way(check, broken, by_hand, url, host, why)

    return register


# -- what the words of the advice say, done


def started_again(kind: str, place: int) -> Hand:
    """Start a server that was killed."""

    @contextlib.contextmanager
    def hand(hall: Hall) -> Iterator[None]:
        yield
        getattr(hall, kind)[place].restart()

    return hand


@contextlib.contextmanager
def moved(hall: Hall) -> Iterator[None]:
    """Move a sentinel to its own host."""
    yield
    hall.sentinels[1].cli("SENTINEL", "CONFIG", "SET", "announce-ip", "127.0.0.2")


@contextlib.contextmanager
def copy_stopped(hall: Hall) -> Iterator[None]:
    """Stop the copy, and start it afterwards."""
    assert hall.further is not None
    hall.further.stop()
    yield
    hall.further.restart()


@contextlib.contextmanager
def room_made(hall: Hall) -> Iterator[None]:
    """Remove what is in the way of the snapshot."""
    file = hall.nodes[2].dir / "dump.rdb"
    (file / "in the way").rmdir()
    file.rmdir()
    yield


@contextlib.contextmanager
def login_fixed(hall: Hall) -> Iterator[None]:
    """What the log of the replica says: its password is refused."""
    yield
    hall.nodes[2].cli("CONFIG", "SET", "masterauth", NODE_SECRET)


# -- one way to break it after the other


@breaks("three-sentinels", by_hand=started_again("sentinels", 2), why="a sentinel is started on another host")
def one_sentinel_is_lost_and_forgotten(hall: Hall) -> Iterator[str]:
    hall.sentinels[2].kill()
    try:
        for sentinel in hall.sentinels[:2]:
            sentinel.cli("SENTINEL", "RESET", NAME)
        yield hall.url(hall.where(0), hall.where(1))
    finally:
        hall.sentinels[2].restart()


@breaks("sentinel-hosts", by_hand=moved, why="a sentinel is moved to another host")
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


@breaks("own-myid", by_hand=copy_stopped)
def a_copied_file(hall: Hall) -> Iterator[str]:
    hall.further = hall.sentinel([f"sentinel myid {hall.ids[2]}", "sentinel announce-ip 127.0.0.1"])
    with hall.further:
        yield hall.url(*(hall.where(place) for place in range(3)), f"127.0.0.1:{hall.further.port}")


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


@breaks("named-master", by_hand=started_again("nodes", 0), why="the server that is down is started")
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


@breaks("replicas-follow", by_hand=login_fixed)
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


@breaks("reachable", url=lambda url: re.sub(r",[^,/]+/shop", "/shop", url), why="the URL has a wrong address")
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
        with contextlib.suppress(CliError):  # the advice was followed
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


@breaks("saves-and-clocks", by_hand=room_made)
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
        with contextlib.suppress(OSError):  # it was removed, and a snapshot is there
            (file / "in the way").rmdir()
            file.rmdir()
        wait_for(lambda: node.cli("BGSAVE"))
        wait_for(saved("ok"))


@breaks("promotion-time")
def a_sentinel_that_waits_for_a_minute(hall: Hall) -> Iterator[str]:
    with hall.sentinel_set(1, "down-after-milliseconds", 60000, 3000):
        yield hall.url()


@breaks("reboot-period", host=True)
def a_master_may_load_for_ever(hall: Hall) -> Iterator[str]:
    yield hall.url()
    for place in range(3):
        hall.sentinels[place].cli("SENTINEL", "SET", NAME, "primary-reboot-down-after-period", 0)


@breaks("timeouts", url=lambda url: url.replace("_timeout=5", "_timeout=0.2"), why="a setting of the URL")
def a_long_time_out(hall: Hall) -> Iterator[str]:
    yield hall.url(more="&connect_timeout=5")
