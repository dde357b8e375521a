"""The scripts on servers in trouble: replicas, full memory, another generation, two databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.real.script_servers import Client, Rig, envelope, server, wait_for

from evercache.errors import OutOfMemory, ReadOnly, ServerError
from evercache.protocol.commands import Bookkeeping, ScriptCall
from evercache.protocol.replies import (
    parse_invalidate,
    parse_lease,
    parse_log,
    parse_resync,
    parse_set,
    parse_store,
)
from evercache.protocol.scope import EVERYTHING, Scope, Subject

KEY = "ns:k"
IT = Subject(KEY, "m.f")
TOKEN = "aa" * 8


@pytest.fixture(scope="module", params=["valkey", "redis62"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(kind: str) -> Iterator[tuple[Client, Client]]:
    """A master and its replica, linked."""
    with (
        server(kind) as port,
        server(kind, "--replicaof", "127.0.0.1", str(port)) as replica_port,
    ):
        master, replica = Client(port), Client(replica_port)
        wait_for(lambda: replica.info("replication", "master_link_status") == "up")
        yield master, replica
        master.close()
        replica.close()


@pytest.fixture
def rig(pair: tuple[Client, Client]) -> Iterator[Rig]:
    master = pair[0]
    master("FLUSHALL")
    master("CONFIG", "SET", "maxmemory", "0")
    yield Rig(master)
    master("CONFIG", "SET", "maxmemory", "0")


def every_call(rig: Rig) -> dict[str, Callable[..., ScriptCall]]:
    c, late = rig.commands, rig.late()
    life = {"soft_ms": 60_000, "span_ms": 0}
    write = {**life, "not_after_us": late, "id": "bb" * 8}
    return {
        "lease": lambda **h: c.lease(IT, least=0, token=TOKEN, lease_ms=1000, **h),
        "peek": lambda **h: c.peek(IT, least=0, **h),
        "renew": lambda **h: c.renew(KEY, token=TOKEN, lease_ms=1000, **h),
        "release": lambda **h: c.release(KEY, token=TOKEN, **h),
        "store": lambda **h: c.store(KEY, token=TOKEN, stamp=0, envelope=envelope(), **life, **h),
        "invalidate": lambda **h: c.invalidate(EVERYTHING, id="bb" * 8, **h),
        "delete": lambda **h: c.invalidate(Scope.of_key(KEY), id="bb" * 8, **h),
        "set": lambda **h: c.set(IT, envelope=envelope(), **write, **h),
        "touch": lambda **h: c.touch(IT, least=0, not_after_us=late, **life, **h),
        "incr": lambda **h: c.incr("ns:n", delta=1, **write, **h),
        "resync": lambda **h: c.resync(**{**h, "newest": 9}),
        "restore": lambda **h: c.restore([("f:m.f", 5)], **h),
        "sweep": lambda **h: c.sweep(KEY, least=2**50, **h),
        "tip": lambda **h: c.tip(**h),
    }


def contents(client: Client) -> dict[bytes, Any]:
    return {key: client("DUMP", key) for key in client("KEYS", "*")}


def in_step(master: Client, replica: Client) -> None:
    master("SET", "ping", time.time_ns())
    wait_for(lambda: replica("GET", "ping") == master("GET", "ping"))
    master("DEL", "ping")
    wait_for(lambda: replica("EXISTS", "ping") == 0)


def test_a_replica_answers_readonly_and_does_nothing(rig: Rig, pair: tuple[Client, Client]) -> None:
    _, replica = pair
    rig.put(KEY)
    in_step(*pair)
    before = contents(replica)
    for name, build in every_call(rig).items():
        with pytest.raises(ReadOnly):
            replica.run(build(replid="", newest=0))
        assert contents(replica) == before, name


def test_rule_5_another_generation_gets_gen_and_nothing_is_done(rig: Rig) -> None:
    rig.put(KEY)
    rig.client("SET", rig.book.lease_key(KEY), f"{TOKEN} 0 1 0", "PX", 60_000)
    before = contents(rig.client)
    for name, build in every_call(rig).items():
        reply = rig.run(build(replid="f" * 40, newest=0))
        assert reply[0] == b"GEN", name
        assert reply[2].decode() == rig.client.replid
        assert abs(reply[1] - rig.client.now_us()) < 5_000_000
        assert contents(rig.client) == before, name
        assert rig.run(build(replid="", newest=0))[0] != b"GEN"
        rig.client("FLUSHALL")
        rig.client.raw_put("ns:unrelated", b"")
        rig.put(KEY)
        before = contents(rig.client)


def test_a_promotion_is_noticed_on_a_live_connection(kind: str) -> None:
    with server(kind) as port, server(kind, "--replicaof", "127.0.0.1", str(port)) as replica_port:
        master, replica = Client(port), Client(replica_port)
        wait_for(lambda: replica.info("replication", "master_link_status") == "up")
        first = Rig(master)
        mark = parse_invalidate(first.invalidate(EVERYTHING, id="aa" * 8)).stamp
        in_step(master, replica)
        replica("REPLICAOF", "NO", "ONE")
        second = Rig(replica)
        assert second.tip(replid=master.replid)[0] == b"GEN"
        lost = parse_invalidate(first.invalidate(EVERYTHING, id="bb" * 8)).stamp
        after = parse_invalidate(second.invalidate(EVERYTHING, id="cc" * 8))
        gens = parse_resync(second.resync()).gens
        assert gens == ((master.replid, 0), (replica.replid, mark))
        assert lost > gens[1][1], "which is how its issuer knows that it was lost"
        assert parse_log(replica("XREAD", "STREAMS", "ns~log", "0"))[-1].stamp == after.stamp
        master.close()
        replica.close()


def test_the_effects_replicate(rig: Rig, pair: tuple[Client, Client]) -> None:
    for build in every_call(rig).values():
        rig.run(build(replid="", newest=0))
    in_step(*pair)
    assert {b"ns~state", b"ns~log", b"ns~ids", b"ns~marks", b"ns:n"} <= set(contents(rig.client))
    assert contents(pair[1]) == contents(rig.client)


class TestFull:
    """A server at `maxmemory` with `noeviction`."""

    @pytest.fixture
    def full(self, rig: Rig) -> Rig:
        for call in every_call(rig).values():  # so that the server knows every script
            rig.run(call(replid="", newest=0))
        rig.client("FLUSHALL")
        return rig

    def fill(self, rig: Rig) -> None:
        rig.client("CONFIG", "SET", "maxmemory-policy", "noeviction")
        rig.client("CONFIG", "SET", "maxmemory", "1000000")
        with pytest.raises(OutOfMemory):
            rig.client("SET", "more", "x")

    @pytest.mark.parametrize(
        "scope", [Scope.of_key(KEY), Scope.of_function("m.f"), Scope.of_tag("red"), EVERYTHING]
    )
    def test_an_invalidation_passes_whole(self, full: Rig, scope: Scope) -> None:
        full.put(KEY)
        self.fill(full)
        got = parse_invalidate(full.invalidate(scope, id="bb" * 8))
        assert got.status == "ok"
        (line,) = parse_log(full.client("XREAD", "STREAMS", full.book.log, "0"))
        assert (line.kind, line.name, line.stamp) == (scope.kind, scope.name, got.stamp)
        assert full.client("EXISTS", KEY) == (0 if scope.kind == "k" else 1)
        assert parse_invalidate(full.invalidate(scope, id="bb" * 8)).status == "dup"
        if scope.kind != "t":
            assert parse_lease(full.peek(IT, least=0)).status == "miss"

    def test_reads_and_leases_go_on_and_stores_are_refused(self, full: Rig) -> None:
        full.put(KEY)
        self.fill(full)
        assert parse_lease(full.lease(IT, least=0, token=TOKEN, lease_ms=9000)).status == "entry"
        other = Subject("ns:other")
        assert parse_lease(full.lease(other, least=0, token=TOKEN, lease_ms=9000)).status == "lead"
        store = {"stamp": 0, "soft_ms": 1000, "span_ms": 0, "envelope": envelope(id=TOKEN)}
        got = parse_store(full.store("ns:other", token=TOKEN, **store))
        assert (got.status, got.reason) == ("refused", "full")
        assert full.client("EXISTS", "ns:other", full.book.lease_key("ns:other")) == 0

    def test_a_set_and_an_incr_are_denied_with_nothing_done(self, full: Rig) -> None:
        full.put(KEY)
        self.fill(full)
        before = contents(full.client)
        calls = every_call(full)
        for name in ("set", "incr"):
            with pytest.raises(OutOfMemory):
                full.run(calls[name](**full.head))
            assert contents(full.client) == before
        assert full.run(calls["touch"](**full.head))[0] == b"ok"
        assert full.run(calls["restore"](**full.head))[0] == b"ok"


class TestTwoDatabases:
    """Bookkeeping in a database number of its own."""

    @pytest.fixture
    def apart(self, rig: Rig) -> Rig:
        return Rig(rig.client, Bookkeeping("ns", data_db=0, book_db=3))

    def test_each_key_is_in_its_database(self, apart: Rig, pair: tuple[Client, Client]) -> None:
        for name, build in every_call(apart).items():
            apart.run(build(**apart.head))
            assert apart.client("DBSIZE") == len(apart.client("KEYS", "ns*")), name
            for key in apart.client("KEYS", "*"):
                assert key in (b"ns:k", b"ns:n", b"ns~lease:ns:k"), "the SELECT does not leak"
        in_step(*pair)
        _, replica = pair
        for client in pair:
            client("SELECT", 3)
        keys = set(apart.client("KEYS", "*"))
        same = contents(replica) == contents(apart.client)
        for client in pair:
            client("SELECT", 0)
        assert keys == {b"ns~state", b"ns~log", b"ns~ids", b"ns~marks"}
        assert same
        assert set(replica("KEYS", "*")) == set(apart.client("KEYS", "*"))

    def test_it_works_as_in_one(self, apart: Rig) -> None:
        write = {"id": TOKEN, "soft_ms": 9000, "span_ms": 0, "envelope": envelope()}
        first = parse_set(apart.set(IT, not_after_us=apart.late(), **write))
        again = parse_set(apart.set(IT, not_after_us=apart.late(), **write, mode="since", since=first.stamp))
        assert again.status == "ok"
        assert parse_lease(apart.peek(IT, least=0)).status == "entry"
        assert apart.invalidate(Scope.of_function("m.f"), id="cc" * 8)[0] == b"ok"
        assert parse_lease(apart.lease(IT, least=0, token=TOKEN, lease_ms=900)).status == "lead"
        assert parse_invalidate(apart.invalidate(Scope.of_key(KEY), id="dd" * 8, function="m.f")).existed is False
        assert apart.client("EXISTS", KEY) == 0

    def test_a_select_that_fails_leaves_the_entry(self, rig: Rig) -> None:
        beyond = Rig(rig.client, Bookkeeping("ns", data_db=0, book_db=999))
        rig.put(KEY)
        for name in ("delete", "set", "lease", "invalidate"):
            with pytest.raises(ServerError):
                beyond.run(every_call(beyond)[name](**beyond.head))
            assert rig.client("KEYS", "*") == [b"ns:k"], name

    def test_a_data_database_that_is_not_0(self, rig: Rig) -> None:
        moved = Rig(rig.client, Bookkeeping("ns", data_db=5, book_db=5))
        rig.client("SELECT", 5)
        try:
            assert moved.invalidate(EVERYTHING, id="cc" * 8)[0] == b"ok"
            assert rig.client("EXISTS", "ns~state") == 1
        finally:
            rig.client("SELECT", 0)


def test_arguments_of_another_version_are_refused_and_more_arguments_ignored(rig: Rig) -> None:
    call = rig.commands.tip(**rig.head)
    more = ScriptCall(call.script, call.keys, (*call.args, "more", "yet more"))
    assert rig.run(more)[0] == b"ok"
    with pytest.raises(ServerError, match="version 1"):
        rig.run(ScriptCall(call.script, call.keys, ("2", *call.args[1:])))


def test_a_foreign_type_under_the_entry_is_overwritten(rig: Rig) -> None:
    rig.client("RPUSH", KEY, "x")
    assert parse_lease(rig.lease(IT, least=0, token=TOKEN, lease_ms=900)).status == "lead"
    store = {"stamp": 0, "soft_ms": 1000, "span_ms": 0, "envelope": envelope(id=TOKEN)}
    assert parse_store(rig.store(KEY, token=TOKEN, **store)).status == "ok"


def test_a_script_does_its_work_in_microseconds(rig: Rig) -> None:
    """Not a benchmark: guards against a helper that goes over all entries."""
    for n in range(3000):
        rig.invalidate(Scope.of_function(f"f{n}"), id=f"{n:016x}")
    rig.client("CONFIG", "RESETSTAT")
    for n in range(200):
        rig.invalidate(Scope.of_function(f"f{n}"), id=f"{n:015x}a")
    usec = rig.client.info("commandstats", "cmdstat_evalsha").split("usec_per_call=")[1].split(",")[0]
    assert float(usec) < 1000
