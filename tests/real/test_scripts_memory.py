"""The server inside the process answers what Valkey and Redis answer, call by call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.real.script_servers import FAR, Client, Memory, Rig, envelope, fields, server

from evercache.protocol.commands import Ask, Fill, Invalidation, Limits, Put, ScriptCall
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

HOUR = 3_600_000
TAGS = [tag_hash(name) for name in ("red", "green", "blue")]
KEYS = ["ns:a", "ns:b"]

keys = st.sampled_from(KEYS)
functions = st.sampled_from(["", "m.f", "m.g"])
tag_sets = st.lists(st.sampled_from(TAGS), max_size=2, unique=True).map(tuple)
subjects = st.builds(Subject, keys, functions, tag_sets)
tokens = st.sampled_from(["aa" * 8, "bb" * 8, "cc" * 8])
ids = st.sampled_from([f"{n:016x}" for n in range(6)])
steps = st.integers(0, 25)
stamps = st.one_of(st.just(0), steps.map(lambda n: FAR + n))
scopes = st.one_of(
    keys.map(Scope.of_key),
    st.sampled_from(["m.f", "m.g", "m.h"]).map(Scope.of_function),
    st.sampled_from(TAGS).map(lambda tag: Scope("t", tag.hex())),
    st.just(EVERYTHING),
)
lives = st.fixed_dictionaries(
    # Whole hours, so that the time which the test itself takes rounds away; some are stale at once.
    {"soft_ms": st.sampled_from([-HOUR, HOUR, 2 * HOUR]), "span_ms": st.sampled_from([2 * HOUR, 3 * HOUR])}
)
envelopes = st.builds(
    lambda id, tags, flags: envelope(id=id, tags=tags, flags=flags), tokens, tag_sets, st.sampled_from([0, 8])
)
marks = st.tuples(st.sampled_from(["f:m.f", "f:m.h", *(f"t:{tag.hex()}" for tag in TAGS)]), stamps)
asks = st.lists(
    st.builds(Ask, st.builds(Subject, keys, st.just("m.f"), tag_sets), stamps, tokens),
    min_size=1,
    unique_by=lambda ask: ask.subject.key,
)
fills = st.lists(
    st.builds(Fill, keys, tokens, stamps, st.just(HOUR), st.just(HOUR), envelopes),
    min_size=1,
    unique_by=lambda fill: fill.key,
)
unique_ids = st.uuids().map(lambda u: u.hex[:16])
puts = st.lists(
    st.builds(Put, subjects, st.one_of(ids, unique_ids), st.just(HOUR), st.just(HOUR), envelopes, stamps, stamps),
    min_size=1,
    unique_by=(lambda put: put.id, lambda put: put.subject.key),
)
invalidations = st.lists(
    st.builds(Invalidation, scopes, st.one_of(ids, unique_ids), functions),
    min_size=1,
    max_size=4,
    unique_by=(lambda each: each.id, lambda each: each.scope),
)


def op(name: str, *args: Any, **named: Any) -> Any:
    return st.tuples(st.just(name), st.tuples(*args), st.fixed_dictionaries(named))


calls = st.one_of(
    op("lease", subjects, least=stamps, token=tokens, seen=st.one_of(st.just(""), tokens)),
    op("lease", subjects, least=st.just(0), token=tokens),
    op("peek", subjects, least=stamps),
    op("renew", keys, token=tokens),
    op("release", keys, token=tokens),
    op("store", keys, token=tokens, stamp=stamps, life=lives, envelope=envelopes),
    op("fill", keys, token=tokens, life=lives, envelope=envelopes),
    op("invalidate", scopes, id=ids, function=functions),
    op("invalidate", scopes, id=st.uuids().map(lambda u: u.hex[:16]), function=functions),
    op("set", subjects, id=ids, life=lives, envelope=envelopes, least=stamps,
       mode=st.sampled_from(["set", "add", "since"]), since=stamps, late=st.booleans()),
    op("lease_many", asks),
    op("store_many", fills),
    op("set_many", puts, mode=st.sampled_from(["set", "add", "since"]), late=st.booleans()),
    op("invalidate_many", invalidations),
    op("touch", subjects, least=stamps, life=lives, late=st.booleans(),
       renewed=st.sampled_from([False, True, "again"])),
    op("incr", keys, id=tokens, delta=st.integers(-9, 9), initial=st.just(2**53 - 5), life=lives,
       least=stamps, late=st.just(False)),
    op("incr", keys, id=tokens, delta=st.integers(-9, 9), life=lives, late=st.booleans()),
    op("resync"),
    op("restore", st.lists(marks, max_size=6), everything=stamps, tagfloor=stamps, knew_another=st.booleans()),
    op("sweep", keys, least=stamps),
    op("tip"),
    op("hold", st.lists(scopes, max_size=3, unique=True), id=ids, span_ms=st.sampled_from([0, 500_000])),
    op("raw", keys, value=st.sampled_from(["newer", "foreign", "expired", "counter", "tagged"])),
)  # fmt: skip
runs = st.lists(st.tuples(calls, st.sampled_from([0, 0, 0, FAR + 7]), st.integers(0, 9)), max_size=40)


class Side:
    """One of the servers that are compared."""

    def __init__(self, client: Any) -> None:
        self.rig = Rig(client, limits=Limits(max_marks=3))
        self.began = client.now_us() // 1000

    def hours(self, ms: int) -> int:
        return round((ms - self.began) / HOUR)

    def plain(self, raw: bytes) -> Any:
        """An envelope with its soft expiry in hours from the start."""
        if len(raw) < 38 or raw[:2] != b"\xe7\xca":
            return raw
        stamp, soft, span = fields(raw)
        return stamp, self.hours(soft), span, raw[:4], raw[22:]

    def apply(self, name: str, args: tuple[Any, ...], named: dict[str, Any], newest: int, odd: int) -> Any:
        client, named = self.rig.client, dict(named)
        if name == "raw":
            return client.raw_put(args[0], self.raw(named["value"]), None)
        if name == "fill":
            found = self.rig.lease(Subject(args[0]), least=0, token=named["token"], lease_ms=HOUR, newest=newest)
            if found[0] != b"ok" or found[7][0] != b"lead":
                return self.normal("lease", found)
            name, named = "store", {**named, "stamp": found[7][1]}
        named.update(named.pop("life", {}))
        if "late" in named:
            named["not_after_us"] = 1 if named.pop("late") and odd < 3 else self.rig.late()
        if name in ("lease", "lease_many", "renew"):
            named["lease_ms"] = HOUR
        # Now and then the caller takes the server for another generation.
        replid = "f" * 40 if odd == 9 else client.replid
        build = getattr(self.rig.commands, name)
        call: ScriptCall = build(*args, replid=replid, newest=newest, **named)
        return self.normal(name, client.run(call))

    def raw(self, kind: str) -> bytes:
        soft = self.began + HOUR
        return {
            "newer": envelope(version=2, flags=255, stamp=FAR + 3, soft=soft, span=HOUR),
            "foreign": b"\xe7\xca\x01 cut short",
            "expired": envelope(stamp=FAR + 3, soft=self.began - 3 * HOUR, span=HOUR),
            "counter": envelope(b"41", flags=1, tags=(TAGS[0],), stamp=FAR + 3, soft=soft, span=HOUR),
            "tagged": envelope(tags=(TAGS[1],), stamp=FAR + 3, soft=soft, span=HOUR, id="aa" * 8),
        }[kind]

    def normal(self, name: str, reply: list[Any]) -> list[Any]:
        """A reply without what must differ: times, the replication id, ids of lines."""
        status, now_us, replid, *rest = reply
        assert abs(now_us - time.time_ns() // 1000) < 5_000_000
        assert replid.decode() == self.rig.client.replid
        rest = [self.normal_item(name, item) for item in rest]
        if status == b"ok" and name == "touch":
            rest[-1] = self.hours(rest[-1])
        if status == b"ok" and name == "resync":
            rest[3] = rest[3].replace(replid, b"R")
            rest[4] = rest[4] == b"0-0"
        return [status, *(self.plain(part) if isinstance(part, bytes) else part for part in rest)]

    def normal_item(self, name: str, item: Any) -> Any:
        """What a script says of one entry."""
        name = name.removesuffix("_many")
        if name == "store" and isinstance(item, int):
            return self.hours(item)
        if not isinstance(item, list):
            return item
        if item[0] == b"wait":
            _, left, elapsed, *item = item
            assert 0 < left <= HOUR
            assert 0 <= elapsed < 60_000
        elif name == "set":
            item = [*item[:2], self.hours(item[2])]
        elif name == "invalidate":
            *item, line = item
            assert line.count(b"-") == 1
        return [self.plain(part) if isinstance(part, bytes) else part for part in item]

    def ending(self) -> Any:
        """What is left: the entries, the state, and what covers everything that there is."""
        head = {"replid": "", "newest": 0}
        commands, client = self.rig.commands, self.rig.client
        values = [client("GET", key) for key in KEYS]
        peeks = [
            client.run(commands.peek(Subject(key, function, tuple(TAGS)), least=0, **head))
            for key in KEYS
            for function in ("m.f", "m.g", "m.h")
        ]
        return (
            [value and self.plain(value) for value in values],
            self.normal("resync", client.run(commands.resync(**head))),
            [self.normal("peek", peek) for peek in peeks],
        )


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Client]]:
    with server("valkey") as first, server("redis62") as second:
        clients = [Client(first), Client(second)]
        yield clients
        for client in clients:
            client.close()


@settings(
    max_examples=120,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(run=runs)
def test_the_same_calls_get_the_same_replies(servers: list[Client], run: list[Any]) -> None:
    for client in servers:
        client("FLUSHALL")
    sides = [Side(client) for client in (*servers, Memory())]
    for side in sides:  # where the caller knows of none before, a life begins by the clock
        side.apply("invalidate", (Scope.of_key("ns:none"),), {"id": "ab"}, 0, 0)
    # From here on every mark is one above the last, on all of them.
    starts = [side.apply("resync", (), {}, FAR, 0) for side in sides]
    assert starts[0] == starts[1] == starts[2]
    for (name, args, named), newest, odd in run:
        replies = [side.apply(name, args, named, newest, odd) for side in sides]
        assert replies[0] == replies[1] == replies[2], name
    endings = [side.ending() for side in sides]
    assert endings[0] == endings[1] == endings[2]
