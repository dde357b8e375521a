"""The script that refuses fills for a time, and what lease, store and set make of it (rule 22)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.real.script_servers import Client, Memory, Rig, envelope, server

from evercache.protocol.commands import Bookkeeping, Limits
from evercache.protocol.replies import (
    parse_hold,
    parse_invalidate,
    parse_lease,
    parse_set,
    parse_store,
    parse_tip,
)
from evercache.protocol.scope import Scope, Subject, tag_hash

KEY = "ns:k"
RED = tag_hash("red")
IT = Subject(KEY, "shop.f", (RED,))
SCOPES = [Scope.of_key(KEY), Scope.of_function("shop.f"), Scope.of_tag("red")]
ME, YOU = "a" * 16, "b" * 16


@pytest.fixture(scope="module", params=["valkey", "redis62", "memory"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "memory":
        yield Memory()
        return
    with server(request.param) as port:
        client = Client(port)
        yield client
        client.close()


@pytest.fixture(params=["one", "apart"])
def rig(request: pytest.FixtureRequest, client: Any) -> Rig:
    if isinstance(client, Memory):
        client = Memory()
    else:
        client("FLUSHALL")
    book = Bookkeeping("ns", 0, 1) if request.param == "apart" and not isinstance(client, Memory) else None
    return Rig(client, book, Limits(max_holds=12))


def hold(rig: Rig, scopes: list[Scope], span_ms: int = 30_000, id: str = ME, **named: Any) -> str:
    return parse_hold(rig.hold(scopes, id=id, span_ms=span_ms, **named)).status


def lease(rig: Rig, subject: Subject = IT, **named: Any) -> Any:
    ask = {"least": 0, "token": rig.new_id(), "lease_ms": 1000}
    return parse_lease(rig.lease(subject, **{**ask, **named}))


def store(rig: Rig, token: str, stamp: int, tags: tuple[bytes, ...] = (), key: str = KEY) -> Any:
    raw = envelope(id=token, tags=tags)
    return parse_store(rig.store(key, token=token, stamp=stamp, soft_ms=9000, span_ms=0, envelope=raw))


def write(rig: Rig, mode: str = "since", subject: Subject = IT, **named: Any) -> Any:
    ask = {"id": rig.new_id(), "not_after_us": rig.late(), "soft_ms": 9000, "span_ms": 500}
    return parse_set(rig.set(subject, **{**ask, "envelope": envelope(), "mode": mode, **named}))


def tip(rig: Rig) -> int:
    return parse_tip(rig.tip()).tip


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_nobody_gets_a_lease_on_what_is_held(rig: Rig, scope: Scope) -> None:
    assert lease(rig, Subject("ns:other")).status == "lead"
    assert hold(rig, [scope]) == "ok"
    assert lease(rig).status == "held"
    assert lease(rig, Subject("ns:third", "shop.g")).status == "lead", "other entries go on"
    assert parse_lease(rig.peek(IT, least=0)).status == "miss"
    assert hold(rig, [scope], 0) == "ok"
    assert lease(rig).status == "lead"


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_a_value_that_was_read_before_is_refused_while_it_is_held(rig: Rig, scope: Scope) -> None:
    assert hold(rig, [scope]) == "ok"
    assert write(rig, since=tip(rig)).status == "outdated"
    assert write(rig, "set").status == "ok", "a plain set promises nothing"
    assert lease(rig).status == "entry"
    assert hold(rig, [scope], 0) == "ok"
    assert write(rig, since=tip(rig)).status == "ok"


def test_a_tag_that_only_the_value_carries_is_looked_at(rig: Rig) -> None:
    plain = Subject(KEY)
    assert hold(rig, [Scope.of_tag("red")]) == "ok"
    assert write(rig, subject=plain, envelope=envelope(tags=(RED,)), since=tip(rig)).status == "outdated"
    taken = lease(rig, plain)
    assert taken.status == "lead", "nobody knows yet that the result has this tag"
    assert store(rig, "c" * 16, taken.stamp, (RED,)).reason == "lease"
    token = "d" * 16
    parse_invalidate(rig.invalidate(Scope.of_key(KEY), id=rig.new_id()))
    taken = lease(rig, plain, token=token)
    assert store(rig, token, taken.stamp, (RED,)).reason == "held"
    taken = lease(rig, plain, token=token)
    assert store(rig, token, taken.stamp, (tag_hash("blue"),)).status == "ok"


def test_what_began_under_a_hold_is_not_stored_after_its_time(rig: Rig) -> None:
    """Who held it was killed: its last word, the mark, never came."""
    plain, token = Subject(KEY), "d" * 16
    assert hold(rig, [Scope.of_tag("red")], 500) == "ok"  # the lease is asked for within its time
    taken, since = lease(rig, plain, token=token, lease_ms=9000), tip(rig)
    time.sleep(0.52)
    assert lease(rig, Subject("ns:other", "", (RED,))).status == "lead", "its time is over"
    assert store(rig, token, taken.stamp, (RED,)).reason == "held"
    assert write(rig, subject=plain, envelope=envelope(tags=(RED,)), since=since).status == "outdated"
    taken = lease(rig, plain, token=token)
    assert store(rig, token, taken.stamp, (RED,)).status == "ok", "begun after it"


def test_a_lease_of_before_is_still_good_where_nothing_was_held_since(rig: Rig) -> None:
    token = "d" * 16
    assert hold(rig, [Scope.of_tag("red")]) == "ok"
    assert hold(rig, [Scope.of_tag("red")], 0) == "ok"
    taken = lease(rig, token=token)
    assert store(rig, token, taken.stamp, (RED,)).status == "ok"


def test_several_may_hold_the_same(rig: Rig) -> None:
    assert hold(rig, SCOPES) == hold(rig, SCOPES, id=YOU) == "ok"
    assert hold(rig, SCOPES, 0) == "ok"
    assert lease(rig).status == "held"
    assert hold(rig, SCOPES, 0, id=YOU) == "ok"
    assert lease(rig).status == "lead"
    assert hold(rig, SCOPES, 0, id=YOU) == "ok", "once more does nothing"


def test_the_same_hold_again_is_one(rig: Rig) -> None:
    assert hold(rig, SCOPES) == hold(rig, SCOPES) == "ok"
    assert hold(rig, SCOPES, 0) == "ok"
    assert lease(rig).status == "lead"


def test_a_hold_that_comes_too_late_is_refused(rig: Rig) -> None:
    assert hold(rig, SCOPES, not_after_us=rig.client.now_us() - 1000) == "late"
    assert lease(rig).status == "lead"
    assert hold(rig, SCOPES, not_after_us=rig.client.now_us() + 1_000_000) == "ok"
    assert hold(rig, SCOPES, 0, not_after_us=1) == "ok", "it is never too late to let go"


def test_their_number_is_bounded(rig: Rig) -> None:
    """Holds that nobody let go of are forgotten first."""
    gone = [Scope.of_key(f"ns:gone{i}") for i in range(4)]
    assert hold(rig, gone, 20) == "ok"
    time.sleep(0.04)
    many = [Scope.of_key(f"ns:many{i}") for i in range(4)]
    assert hold(rig, many) == "ok"
    more = [Scope.of_key(f"ns:more{i}") for i in range(4)]
    status = hold(rig, more)
    while status == "ok":
        more += [Scope.of_key(f"ns:more{len(more)}")]
        assert len(more) < 20
        status = hold(rig, more[-1:], id=YOU)
    assert status == "full"
    assert lease(rig, Subject("ns:gone0")).status == "lead"
    assert lease(rig, Subject("ns:many0")).status == lease(rig, Subject("ns:more0")).status == "held"


def test_nothing_is_left_of_it(rig: Rig) -> None:
    if isinstance(rig.client, Memory):
        pytest.skip("the twin has no hash")
    rig.invalidate(Scope.of_key(KEY), id=rig.new_id())
    rig.client("SELECT", rig.book.book_db)
    try:
        before = rig.client("HKEYS", rig.book.state)
        hold(rig, SCOPES)
        assert len(rig.client("HKEYS", rig.book.state)) == len(before) + 4
        hold(rig, SCOPES, 0)
        assert rig.client("HKEYS", rig.book.state) == before
        # Of later versions fields may be there; then only the note stays that there may be holds.
        rig.client("HSET", rig.book.state, "later", "x")
        hold(rig, SCOPES)
        hold(rig, SCOPES, 0)
        assert set(rig.client("HKEYS", rig.book.state)) - {b"held"} == {*before, b"later"}
    finally:
        rig.client("SELECT", 0)


def test_a_clock_that_was_set_back_ends_it(rig: Rig) -> None:
    """Else it would last for as long as the clock was set back by."""
    if isinstance(rig.client, Memory):
        pytest.skip("the twin has no hash")
    assert hold(rig, SCOPES) == "ok"
    later = rig.client.now_us() // 1000 + 3_600_000
    rig.client("SELECT", rig.book.book_db)
    try:
        rig.client("HSET", rig.book.state, "held", later, f"h:k:{KEY}", f"{ME}:{later} ")
    finally:
        rig.client("SELECT", 0)
    assert lease(rig, Subject(KEY)).status == "lead"
    assert hold(rig, SCOPES, id=YOU) == "ok"
    assert lease(rig, Subject(KEY)).status == "held"
