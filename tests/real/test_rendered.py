"""What `evercache render` makes, run: three hosts on loopback addresses, each under a Supervisor of its own."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.real.rendered import Rendered, described
from tests.servers import find_server, wait_for

from evercache import Cache
from evercache.errors import AccessDenied, AuthenticationFailed, UnavailableError
from evercache.net.types import ConnectionOptions, Credentials
from evercache.ops.doctor import examine, gather
from evercache.ops.doctor.shell import with_host
from evercache.ops.failover import Failover
from evercache.ops.remote import targets_of
from evercache.ops.replies import text, texts
from evercache.ops.survey import ask, survey
from evercache.protocol.types import Address

#: A host that is added later.
NEW = {"name": "cache-4", "address": "127.0.0.4", "sentinel": False}
#: What a machine of tests cannot be told to have.
OF_THE_MACHINE = {"kernel"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    folder = tmp_path_factory.mktemp("r")
    with Rendered.running(folder, described(folder, "valkey")) as made:
        yield made


def denied(made: Rendered) -> list[str]:
    """What users were refused since the start, but for `SENTINEL CONFIG`, which the doctor tries."""
    found = []
    for host in made.hosts:
        for sentinel in (False, True):
            for entry in made.command(host, "ACL", "LOG", sentinel=sentinel):
                line = {text(name): text(value) for name, value in entry.items()}
                if not line["object"].startswith("sentinel"):
                    found.append(f"{host}: {line}")
    return found


def bound(made: Rendered, host: str) -> str:
    """The memory of a node."""
    return texts(made.command(host, "CONFIG", "GET", "maxmemory"))["maxmemory"]


def test_the_doctor_finds_nothing_on_a_rendered_deployment(running: Rendered) -> None:
    running.wait_whole()
    facts = with_host(gather(running.url("monitoring")))
    results = examine(facts)
    found = [(r.check.name, one.seen) for r in results for one in r.findings if one.state == "found"]
    assert [one for one in found if one[0] not in OF_THE_MACHINE] == []
    assert survey(targets_of(running.url("monitoring"))).whole
    seen = {r.check.name for r in results if r.state == "fine"}
    assert {"restart-delay", "foreground", "config-writable", "stop-timeout", "open-door", "sentinel-acl"} <= seen


def test_strangers_and_roles_are_kept_out(running: Rendered) -> None:
    ports = running.description.ports
    for port, sentinel in ((ports.node, False), (ports.sentinel, True)):
        stranger = ConnectionOptions(Credentials(None, None), sentinel=sentinel)
        with pytest.raises(AuthenticationFailed):
            ask(Address("127.0.0.2", port), stranger, ("PING",))
    for role, words in (
        ("monitoring", ("GET", "shop:x")),
        ("monitoring", ("CONFIG", "SET", "maxmemory", "1")),
        ("application", ("GET", "other:x")),
        ("application", ("FLUSHALL",)),
        ("application", ("ACL", "LIST")),
    ):
        with pytest.raises(AccessDenied):
            running.command(running.hosts[0], *words, role=role)
    for role in ("application", "monitoring"):
        with pytest.raises(AccessDenied):
            running.command("cache-1", "SENTINEL", "FAILOVER", "shop", role=role, sentinel=True)
        with pytest.raises(AccessDenied):
            running.command(
                "cache-1", "SENTINEL", "CONFIG", "SET", "announce-ip", "1.2.3.4", role=role, sentinel=True
            )
    for host, sentinel in itertools.product(running.hosts, (False, True)):
        running.command(host, "ACL", "LOG", "RESET", sentinel=sentinel)  # it was meant, and others look there


def test_secrets_are_readable_by_their_owner_only(running: Rendered) -> None:
    secrets = [password.encode() for password in running.passwords.values()]
    for path in running.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and any(secret in path.read_bytes() for secret in secrets):
                assert not path.stat().st_mode & (stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH), path


def test_a_dead_master_is_replaced_and_comes_back_late_as_a_replica(running: Rendered) -> None:
    running.wait_whole()
    old = running.master()
    with Cache(running.url("application"), namespace="shop", budget=2.0) as cache:
        assert cache.set("kept", "x", ttl=600)
        running.kill(old)
        begun = time.monotonic()
        wait_for(lambda: running.master() != old, 30, "another master")
        running.wait_whole()
        delay = running.description.restart_delay
        assert time.monotonic() - begun >= delay
        # It came back after the sentinels had noticed, and has what the others have.
        assert running.command(old, "ROLE")[0] == b"slave"
        assert cache.get("kept") == "x"
        wait_for(lambda: cache.health().problems == (), 20, "the application to see nothing wrong")
    assert denied(running) == []


def test_what_is_set_by_hand_is_not_undone_in_silence(running: Rendered) -> None:
    """The next start dropped what the doctor had advised, and the server had rewritten."""
    running.wait_whole()
    host = next(one for one in running.hosts if one != running.master())
    supervisor = running.folder / "var" / host / "supervisor"
    running.command(host, "CONFIG", "SET", "maxmemory-policy", "volatile-lfu")
    running.command(host, "CONFIG", "SET", "maxmemory", str(48 << 20))
    running.command(host, "CONFIG", "REWRITE")
    running.command(host, "SENTINEL", "SET", "shop", "down-after-milliseconds", 4000, sentinel=True)
    results = examine(gather(running.url("monitoring")))
    mends = [one.mend for r in results for one in r.findings if r.check.name == "maxmemory" and one.mend]
    assert mends
    assert all("in the description, run `evercache render` and install.sh" in mend for mend in mends), mends
    assert any("server.memory" in mend for mend in mends)
    running.control(host, "restart", "all")
    running.wait_whole()
    logs = "".join(path.read_text(errors="replace") for path in supervisor.glob("*.log"))
    told = sorted(set(re.findall(r"not kept: (\S+) is (\S+) as rendered, and was set to (\S+);", logs)))
    assert told == [
        ("down-after-milliseconds", "3000", "4000"),
        ("maxmemory", str(64 << 20), str(48 << 20)),
        ("maxmemory-policy", "volatile-lru", "volatile-lfu"),
    ]
    assert bound(running, host) == str(64 << 20)


@pytest.mark.long
def test_a_failover_that_fails_is_followed_by_another_soon(running: Rendered) -> None:
    """There was none for 120 s: twice the failover-timeout that was rendered."""
    running.wait_whole()
    old = running.master()
    replicas = [host for host in running.hosts if host != old]
    logs = [running.folder / "var" / host / "supervisor" / "sentinel.log" for host in running.hosts]

    def priority(value: int) -> None:
        for host in replicas:
            running.command(host, "CONFIG", "SET", "replica-priority", value)

    def seen() -> set[str]:
        flat = [texts(one) for one in running.command(old, "SENTINEL", "REPLICAS", "shop", sentinel=True)]
        return {one["slave-priority"] for one in flat}

    priority(0)
    wait_for(lambda: seen() == {"0"}, 20, "the sentinels to see that nobody may be promoted")
    before = sum(log.read_text().count("-failover-abort-no-good-slave") for log in logs)
    running.control(old, "stop", "node")
    wait_for(
        lambda: sum(log.read_text().count("-failover-abort-no-good-slave") for log in logs) > before,
        30,
        "a failover that is given up",
    )
    begun = time.monotonic()
    priority(100)
    try:
        wait_for(lambda: running.master() != old, 45, "the next failover")
        assert time.monotonic() - begun < 2 * 12 + 15
    finally:
        running.control(old, "start", "node")
    running.wait_whole()


@pytest.mark.long
def test_another_rendering_changes_settings_and_no_role(running: Rendered) -> None:
    running.wait_whole()
    if running.master() == "cache-1":  # as the files say: have another one, as after an outage
        Failover(targets_of(running.url("operator")), lambda _: None).run()
    running.wait_whole()
    master = running.master()
    assert master != "cache-1"
    running.describe(server={"memory": "80mb"})
    running.render()
    for host in sorted(running.hosts, key=lambda host: host == master):
        before = running.epoch()
        running.install(host)
        running.control(host, "restart", "all")
        running.wait_whole()
        # Only the sentinels change roles, and every change has a new epoch.
        assert running.master() == master or running.epoch() > before
    assert [bound(running, host) for host in running.hosts] == [str(80 << 20)] * 3


@pytest.mark.long
def test_passwords_change_in_steps_while_everything_runs(running: Rendered) -> None:
    running.wait_whole()
    old, new = dict(running.passwords), {role: f"{role}-another-one-012" for role in running.passwords}

    def step(lines: Callable[[str], str], *hosts: str) -> None:
        for role in old:
            (running.folder / "passwords" / role).write_text(lines(role))
        running.render()
        for host in hosts:
            running.install(host)

    step(lambda role: f"{old[role]}\n{new[role]}\n", *running.hosts)
    for host in running.hosts:
        for sentinel in (False, True):
            assert running.command(host, "ACL", "LOAD", sentinel=sentinel) == b"OK"
    # One host has the new ones, and is understood by those that log in by the old.
    host = next(one for one in running.hosts if one != running.master())
    step(lambda role: f"{new[role]}\n{old[role]}\n", host)
    running.control(host, "restart", "all")
    # Would they not let it in, they would take it for dead by now.
    time.sleep(2 * running.description.sentinel.down_after_ms / 1000)
    running.wait_whole()
    assert new["operator"] in running.url("operator")
    assert running.command(host, "PING") == b"PONG"
    for one in running.hosts:
        if one != host:
            running.install(one)
            running.control(one, "restart", "all")
            running.wait_whole()
    assert running.fired() == []


@pytest.mark.long
def test_a_host_that_lost_its_disk_comes_back_as_a_replica(running: Rendered) -> None:
    running.wait_whole()
    host = "cache-1"
    if running.master() == host:
        Failover(targets_of(running.url("operator")), lambda _: None).run()
    running.wait_whole()
    ports, master = running.description.ports, running.address(running.master())
    running.control(host, "stop", "all")
    var = running.folder / "var" / host
    for name in ("node", "sentinel"):
        shutil.rmtree(var / name)
    running.install(host)
    # The lines of the README.
    (var / "node" / "valkey.conf").write_text(f"replicaof {master} {ports.node}\n")
    (var / "sentinel" / "sentinel.conf").write_text(f"sentinel monitor shop {master} {ports.node} 2\n")
    running.control(host, "start", "all")
    running.wait_whole()
    assert running.command(host, "ROLE")[0] == b"slave"
    assert running.fired() == []


def follows_from_its_start(made: Rendered, host: str) -> str:
    """The address that the node of a host follows since its start, by its log; empty if it was told later on."""
    log = (made.folder / "var" / host / "supervisor" / "node.log").read_text(errors="replace")
    since = log.rpartition("Server initialized")[2]
    found = re.search(r"Connecting to (?:MASTER|PRIMARY) (\S+):\d+", since)
    return found[1] if found and "user request" not in since else ""


def test_a_node_that_starts_follows_the_present_primary_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It followed the host that begins as master, or was a second master, until the sentinels noticed."""
    if not any(map(shutil.which, ("valkey-cli", "redis-cli"))):
        pytest.skip("no command line client on this machine, by which a start script asks the sentinels")
    folder = tmp_path_factory.mktemp("s")
    values = described(folder, "valkey")
    with Rendered.running(folder, values) as made:
        Failover(targets_of(made.url("operator")), lambda _: None).run()
        made.wait_whole()
        assert made.master() != "cache-1"
        primary = made.address(made.master())
        # One whose disk was lost, without the line that a person can write; and one that is new.
        lost = next(one for one in made.hosts if one not in {"cache-1", made.master()})
        made.control(lost, "stop", "node")
        shutil.rmtree(folder / "var" / lost / "node")
        larger = Rendered(folder, {**values, "hosts": [*values["hosts"], NEW]})
        larger.render()
        for host in (lost, "cache-4"):
            larger.install(host)
        made.control(lost, "start", "node")
        larger.start("cache-4")
        wait_for(lambda: larger.survey().whole and len(larger.survey().nodes) == 4, 60, "four nodes in sync", 0.1)
        assert follows_from_its_start(made, lost) == primary
        assert follows_from_its_start(larger, "cache-4") == primary
        # A master that was away is a replica of its successor from its first moment.
        old = larger.master()
        larger.control(old, "stop", "node")
        wait_for(lambda: larger.master() not in {old, ""}, 60, "another master")
        larger.control(old, "start", "node")
        larger.wait_whole()
        assert follows_from_its_start(made, old) == larger.address(larger.master())


@pytest.mark.parametrize("kind", ["redis7", "redis6"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.long
def test_other_servers_fail_over_with_and_without_tls(kind: str, secure: bool, tmp_path: Path) -> None:
    if find_server(kind) is None:
        pytest.skip(f"no {kind} server on this machine")
    if secure and kind == "redis6":
        pytest.skip("the wheel of Redis 6.2 is built without TLS")
    values = described(tmp_path, kind)
    if secure:
        values["tls"] = {"enabled": True, "client_certificates": True, "client_folder": f"{tmp_path}/rendered/ca"}
    with Rendered.running(tmp_path, values, certificates=secure) as made:
        assert made.fired() == []
        old = made.master()
        made.kill(old)
        wait_for(lambda: made.master() not in {old, ""}, 30, "another master")
        made.wait_whole()
        assert made.fired() == []
        with Cache(made.url("application"), namespace="shop", budget=2.0) as cache:
            assert cache.set("k", "x", ttl=60)
        Failover(targets_of(made.url("operator")), lambda _: None).run()
        assert denied(made) == []


@pytest.mark.long
def test_tls_alone_is_spoken_where_it_is_asked_for(tmp_path: Path) -> None:
    if find_server("redis7") is None:
        pytest.skip("no redis7 server on this machine")
    values = described(tmp_path, "redis7", tls={"enabled": True, "client_folder": f"{tmp_path}/rendered/ca"})
    with Rendered.running(tmp_path, values, certificates=True) as made:
        assert made.fired() == []
        ports = made.description.ports
        for port in (ports.node, ports.sentinel):
            with pytest.raises(UnavailableError):
                ask(Address("127.0.0.1", port), ConnectionOptions(), ("PING",))
        with Cache(made.url("application"), namespace="shop", budget=2.0) as cache:
            assert cache.set("k", "x", ttl=60)
            assert cache.get("k") == "x"


@pytest.mark.long
def test_one_box_without_sentinels(tmp_path: Path) -> None:
    values = described(tmp_path, "valkey", hosts=[{"name": "cache-1", "address": "127.0.0.1", "sentinel": False}])
    with Rendered.running(tmp_path, values) as made:
        assert made.fired() == []
        with Cache(made.url("application"), namespace="shop", budget=2.0) as cache:
            assert cache.set("k", "x", ttl=60)
            made.control("cache-1", "restart", "node")
            wait_for(lambda: cache.get("k") == "x", 20, "the value after a restart")
