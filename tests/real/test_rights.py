"""What each user of a rendered deployment could break with its rights, by trying it."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.rendered import Rendered, described
from tests.servers import wait_for

from evercache.errors import AccessDenied, AuthenticationFailed, FailoverRefused, ServerError, UnavailableError
from evercache.net.resp import encode
from evercache.net.types import ConnectionOptions, Credentials
from evercache.ops.failover import Failover
from evercache.ops.remote import targets_of
from evercache.ops.survey import ask
from evercache.protocol.types import Address

#: The highest epoch that a sentinel accepts. It cannot be elected with the next one: the others cannot read that.
HIGHEST = 2**63 - 1
QUEUES = {"application": {"keys": ["rq:*"], "commands": ["+publish", "+subscribe"], "channels": ["rq:*"]}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    folder = tmp_path_factory.mktemp("r")
    with Rendered.running(folder, described(folder, "valkey", **QUEUES)) as made:
        yield made


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    """For a test after which a node is gone."""
    folder = tmp_path_factory.mktemp("r")
    with Rendered.running(folder, described(folder, "valkey", **QUEUES)) as made:
        yield made


def state(made: Rendered) -> list[list[str]]:
    """What the sentinels have written down of epochs, votes and masters."""
    words = ("current-epoch", "leader-epoch", "config-epoch", "monitor")
    files = sorted(Path(made.folder).glob("var/*/sentinel/sentinel.conf"))
    assert len(files) == 3
    lines = [[line.split() for line in file.read_text().splitlines()] for file in files]
    return [[" ".join(line) for line in one if line[1:] and line[1] in words] for one in lines]


def tried(made: Rendered, host: str, role: str, *words: str | int, sentinel: bool = False) -> object:
    """A command in the name of a role; the user for replication has no URL."""
    if role != "replication":
        return made.command(host, *words, role=role, sentinel=sentinel)
    ports = made.description.ports
    options = ConnectionOptions(Credentials(role, made.passwords[role]), sentinel=sentinel)
    try:
        return ask(Address(made.address(host), ports.sentinel if sentinel else ports.node), options, words)[0]
    except AuthenticationFailed as error:
        assert sentinel
        raise AccessDenied(str(error)) from error


def hello(made: Rendered, host: str) -> str:
    """A greeting of a sentinel, with the highest epochs and a master of somebody's own."""
    myid = made.command(host, "SENTINEL", "MYID", sentinel=True).decode()
    port = made.description.ports
    return f"{made.address(host)},{port.sentinel},{myid},{HIGHEST},shop,127.0.0.66,{port.node},{HIGHEST}"


@pytest.mark.parametrize("role", ["application", "monitoring", "replication"])
def test_nobody_but_sentinels_and_people_votes(running: Rendered, role: str) -> None:
    """One vote with the highest epoch was written down by every sentinel, and none was ever elected again."""
    before, port = state(running), running.description.ports.node
    master = running.address(running.master())
    for host in running.hosts:
        words = ("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", master, port, HIGHEST, "x" * 40)
        with pytest.raises(AccessDenied):
            tried(running, host, role, *words, sentinel=True)
    assert state(running) == before


@pytest.mark.parametrize("role", ["application", "monitoring", "replication"])
@pytest.mark.parametrize("sentinel", [False, True], ids=["at nodes", "at sentinels"])
def test_nobody_but_sentinels_and_people_speaks_for_a_sentinel(
    running: Rendered, role: str, sentinel: bool
) -> None:
    """By a greeting with a higher epoch all sentinels followed to a master of anybody's choice."""
    before = state(running)
    for host in running.hosts:
        with pytest.raises(AccessDenied):
            tried(running, host, role, "PUBLISH", "__sentinel__:hello", hello(running, host), sentinel=sentinel)
    assert state(running) == before
    if role == "application" and not sentinel:
        assert running.command("cache-1", "PUBLISH", "rq:jobs", "x", role=role) == 0


#: What would change a role, a setting, the data of others, or end the server.
_HARM = (
    ("REPLICAOF", "NO", "ONE"), ("FAILOVER", "ABORT"), ("CLIENT", "PAUSE", "1"),
    ("CLIENT", "KILL", "TYPE", "pubsub"),
    ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "REWRITE"), ("ACL", "SETUSER", "x"), ("ACL", "LOAD"),
    ("SHUTDOWN", "NOW"), ("FLUSHALL",), ("FLUSHDB",), ("SWAPDB", "0", "1"), ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"),
    ("BGSAVE",), ("BGREWRITEAOF",), ("MODULE", "LIST"), ("DEL", "other:x"), ("SET", "other:x", "1"),
)  # fmt: skip
_HARM_AT_SENTINELS = (
    *(("SENTINEL", *words) for words in (
        ("FAILOVER", "shop"), ("RESET", "*"), ("REMOVE", "shop"), ("SET", "shop", "quorum", "9"), ("FLUSHCONFIG",),
        ("MONITOR", "x", "127.0.0.1", "1", "1"), ("CONFIG", "SET", "announce-ip", "127.0.0.1"), ("DEBUG",),
        ("SIMULATE-FAILURE", "HELP"),
    )),
    ("SHUTDOWN",), ("ACL", "SETUSER", "x"), ("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "PAUSE", "1"),
)  # fmt: skip


@pytest.mark.parametrize("role", ["application", "monitoring", "replication"])
def test_what_harms_others_is_refused(running: Rendered, role: str) -> None:
    for words in _HARM:
        with pytest.raises(AccessDenied):
            tried(running, "cache-1", role, *words)
    for words in _HARM_AT_SENTINELS:
        with pytest.raises(AccessDenied):
            tried(running, "cache-1", role, *words, sentinel=True)


#: What would read or write what is not the application's, or raise its rights.
_NOT_THE_APPLICATIONS = (
    ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("DBSIZE",), ("GET", "other:x"), ("MGET", "shop:x", "other:x"),
    ("EXISTS", "other:x"), ("XREAD", "STREAMS", "other:x", 0), ("SORT", "shop:x", "BY", "other:*"),
    ("SORT", "shop:x", "BY", "nosort", "GET", "other:*"), ("COPY", "other:x", "shop:x"), ("MOVE", "shop:x", 1),
    ("OBJECT", "ENCODING", "other:x"), ("DUMP", "other:x"), ("MIGRATE", "127.0.0.1", 1, "shop:x", 0, 1),
    ("ACL", "LIST"), ("ACL", "GETUSER", "operator"), ("ACL", "LOG"), ("CONFIG", "GET", "masterauth"),
    ("CLIENT", "LIST"), ("CLIENT", "NO-EVICT", "ON"), ("CLIENT", "TRACKING", "ON", "BCAST"),
    ("CLIENT", "REPLY", "SKIP"), ("MONITOR",), ("PSYNC", "?", -1), ("SYNC",), ("REPLCONF", "ACK", 1), ("MULTI",),
    ("SCRIPT", "LOAD", "return 1"), ("FUNCTION", "LIST"), ("FCALL", "x", 0), ("SLOWLOG", "GET"),
)  # fmt: skip
_SCRIPTS = (
    "return redis.call('GET', 'other:x')", "return redis.call('SET', 'other:x', 1)",
    "redis.call('SELECT', 3) return redis.call('GET', 'other:x')", "return redis.call('KEYS', '*')",
    "return redis.call('PUBLISH', '__sentinel__:hello', 'x')", "return redis.call('CONFIG', 'GET', '*')",
    "redis.call = nil", "string.rep = nil", "cjson.encode = nil", "getmetatable('').__index = nil",
)  # fmt: skip


def test_the_application_reaches_nothing_of_others(running: Rendered) -> None:
    for words in _NOT_THE_APPLICATIONS:
        with pytest.raises(AccessDenied):
            tried(running, "cache-1", "application", *words)
    for script in _SCRIPTS:
        with pytest.raises(ServerError, match=r"ermission|not allowed|readonly"):
            tried(running, "cache-1", "application", "EVAL", script, 0)


@pytest.mark.parametrize(
    ("sentinel", "words", "size"),
    [
        (False, ("EVAL", "return string.rep('x', 1000000)", 0), 1_000_000),
        (True, ("INFO",), 4000),
    ],
    ids=["at a node", "at a sentinel"],
)
def test_answers_that_nobody_reads_do_not_fill_the_memory(
    running: Rendered, sentinel: bool, words: tuple[str | int, ...], size: int
) -> None:
    """A node evicted every entry, and it and the sentinels grew until the kernel ended them."""
    ports = running.description.ports
    targets = targets_of(running.url("application"))
    login = (targets.sentinel_options if sentinel else targets.node_options).credentials
    with socket.create_connection((running.address("cache-1"), ports.sentinel if sentinel else ports.node)) as peer:
        peer.settimeout(20)
        peer.sendall(encode([("AUTH", login.username or "", login.password or "")]))
        assert peer.recv(100).startswith(b"+OK")
        count = 120_000_000 // size
        with contextlib.suppress(ConnectionError):  # it may be closed while we still ask
            peer.sendall(encode([words] * count))
        wait_for(lambda: _evicted_clients(running, sentinel) > 0, 30, "the server to close the connection")
    running.wait_whole()


def _evicted_clients(made: Rendered, sentinel: bool) -> int:
    try:
        info = made.command("cache-1", "INFO", "stats", sentinel=sentinel).decode()
    except UnavailableError:
        return 0  # it is busy with the answers
    return int(re.search(r"^evicted_clients:(\d+)", info, re.M)[1])


def test_after_all_that_a_failover_works(running: Rendered) -> None:
    running.wait_whole()
    old = running.master()
    Failover(targets_of(running.url("operator")), lambda _: None).run()
    assert running.master() != old


def test_epochs_that_were_used_up_are_found_and_repaired(own: Rendered) -> None:
    """By the commands of the runbook. Before that, the doctor, `failover --check` and `status` saw nothing."""
    own.wait_whole()
    master, port = own.master(), own.description.ports.node
    vote = ("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", own.address(master), port, HIGHEST, "x" * 40)
    own.command("cache-1", *vote, sentinel=True)  # a person may
    wait_for(lambda: "electable" in [name for name, _ in own.fired()], 20, "the doctor to see it")
    with pytest.raises(FailoverRefused, match="none is elected any more"):
        Failover(targets_of(own.url("operator"))).check()
    page = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```$", page.split("\n## Epochs\n")[1].split("\n## ")[0], re.M | re.S)
    for line in block.splitlines():
        for host in own.hosts:
            words = shlex.split(line.replace("/var/lib/evercache", f"{own.folder}/var/{host}"))
            if words[0] == "supervisorctl":
                own.control(host, *words[1:])
            else:
                subprocess.run(words, check=True)
    own.wait_whole()
    assert own.master() == master
    assert "electable" not in [name for name, _ in own.fired()]
    assert Failover(targets_of(own.url("operator"))).check().master is not None
    own.kill(master)
    wait_for(lambda: own.master() != master, 40, "another master")
