"""The scripts about entries: lease, peek, renew, release, store, touch, incr, sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.real.script_servers import FAR, Client, Memory, Rig, envelope, fields, server, wait_for

from evercache.errors import ServerError
from evercache.protocol.commands import Ask, Fill, Invalidation, Put
from evercache.protocol.replies import (
    parse_incr,
    parse_invalidate,
    parse_invalidates,
    parse_lease,
    parse_leases,
    parse_sets,
    parse_store,
    parse_stores,
    parse_sweep,
    parse_touch,
)
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

KEY = "ns:k"
IT = Subject(KEY)
TAG = tag_hash("red")
TOKEN, OTHER = "aa" * 8, "bb" * 8


@pytest.fixture(scope="module", params=["valkey", "redis62", "memory"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "memory":
        yield None
        return
    with server(request.param) as port:
        client = Client(port)
        yield client
        client.close()


@pytest.fixture
def rig(client: Any) -> Rig:
    if client is None:
        return Rig(Memory())
    client("FLUSHALL")
    return Rig(client)


def lead(rig: Rig, subject: Subject = IT, token: str = TOKEN, **named: Any) -> Any:
    return parse_lease(rig.lease(subject, **{"least": 0, "token": token, "lease_ms": 5000, **named}))


def fill(rig: Rig, key: str = KEY, token: str = TOKEN, **named: Any) -> int:
    """Compute an entry under a lease; returns its stamp."""
    tags = named.pop("tags", ())
    stamp = lead(rig, Subject(key), token).stamp
    ask = {"soft_ms": 10_000, "span_ms": 10_000, "envelope": envelope(id=token, tags=tags), **named}
    reply = parse_store(rig.store(key, token=token, stamp=stamp, **ask))
    assert reply.status == "ok"
    return stamp


def peek(rig: Rig, subject: Subject = IT, least: int = 0) -> Any:
    return parse_lease(rig.peek(subject, least=least))


def test_a_miss_leads_and_the_stored_value_comes_back(rig: Rig) -> None:
    assert peek(rig).status == "miss"
    got = lead(rig)
    assert (got.status, got.stamp, got.entry, got.replid) == ("lead", 0, None, rig.client.replid)
    stored = parse_store(
        rig.store(KEY, token=TOKEN, stamp=0, soft_ms=7000, span_ms=500, envelope=envelope(id=TOKEN))
    )
    assert stored.soft_expiry_ms == stored.now_us // 1000 + 7000
    again = lead(rig, token=OTHER)
    assert again.status == "entry"
    assert again.entry == rig.client("GET", KEY)
    assert fields(again.entry) == (0, stored.soft_expiry_ms, 500)
    assert again.entry[22:] == envelope(id=TOKEN)[22:], "only stamp and expiries are patched"


def test_rule_12_the_same_token_leads_again_with_the_same_stamp(rig: Rig) -> None:
    first = lead(rig)
    assert lead(rig).status == "lead"
    assert lead(rig).stamp == first.stamp


def test_rule_13_somebody_else_waits_and_hears_how_long(rig: Rig) -> None:
    lead(rig, expected_ms=700)
    got = lead(rig, token=OTHER)
    assert got.status == "wait"
    assert 0 < got.left_ms <= 5000
    assert 0 <= got.elapsed_ms < 5000
    assert got.expected_ms == 700
    assert got.entry is None


def test_rule_13_a_lease_ends_by_itself_and_is_taken_over(rig: Rig) -> None:
    lead(rig, lease_ms=30)
    wait_for(lambda: lead(rig, token=OTHER).status == "lead")
    assert rig.renew(KEY, token=TOKEN, lease_ms=1000)[0] == b"lost"
    assert rig.renew(KEY, token=OTHER, lease_ms=90_000)[0] == b"ok"
    assert lead(rig).left_ms > 80_000


def test_rule_11_a_clock_that_was_set_back_lets_no_late_write_in(rig: Rig) -> None:
    sent = rig.client.now_us() + 5_000_000  # by the clock as it was when these were sent
    window = {"not_before_us": sent, "not_after_us": sent + 250_000}
    life = {"soft_ms": 1000, "span_ms": 0}
    assert rig.set(IT, id=TOKEN, **window, **life, envelope=envelope())[0] == b"late"
    assert parse_incr(rig.incr("ns:n", id=TOKEN, delta=1, **window, **life)).status == "late"
    fill(rig)
    assert parse_touch(rig.touch(IT, least=0, **window, **life)).status == "late"


def test_rule_11_a_late_request_takes_no_lease_but_reads(rig: Rig) -> None:
    assert lead(rig, not_after_us=1).status == "late"
    assert lead(rig, token=OTHER, not_after_us=rig.late()).status == "lead", "nobody holds it"
    fill(rig, token=OTHER)
    assert lead(rig, not_after_us=1).status == "entry"


def test_rules_11_and_19_a_late_request_is_not_given_what_has_expired_as_fresh(rig: Rig) -> None:
    fill(rig, soft_ms=-1000, span_ms=20_000)
    assert lead(rig, token=OTHER, not_after_us=1).status == "late"
    assert peek(rig).status == "entry", "who only looks sees for himself how old it is"


def test_a_lease_granted_in_the_future_is_free_until_its_holder_renews_it(rig: Rig) -> None:
    lead(rig)
    lease = rig.commands.bookkeeping.lease_key(KEY)
    token, stamp, granted, expected, generation = rig.client("GET", lease).split()
    ahead = b"%b %b %d %b %b" % (token, stamp, int(granted) + 3_600_000, expected, generation)
    rig.client.raw_put(lease, ahead)
    assert rig.renew(KEY, token=TOKEN, lease_ms=5000)[0] == b"ok"
    got = lead(rig, token=OTHER)
    assert (got.status, got.elapsed_ms < 5000, got.left_ms <= 5000) == ("wait", True, True)
    rig.client.raw_put(lease, ahead)
    assert lead(rig, token=OTHER).status == "lead"


def test_a_lease_of_another_generation_is_free_until_its_holder_renews_it(rig: Rig) -> None:
    if isinstance(rig.client, Memory):
        pytest.skip("the server inside the process has one generation")
    lead(rig)
    lease = rig.commands.bookkeeping.lease_key(KEY)
    former = rig.client("GET", lease).rpartition(b" ")[0] + b" " + b"ab" * 20
    rig.client.raw_put(lease, former)
    assert rig.renew(KEY, token=TOKEN, lease_ms=5000)[0] == b"ok"
    assert lead(rig, token=OTHER).status == "wait"
    rig.client.raw_put(lease, former)
    assert lead(rig, token=OTHER).status == "lead"
    assert rig.renew(KEY, token=TOKEN, lease_ms=5000)[0] == b"lost"


def test_release_frees_only_ones_own_lease(rig: Rig) -> None:
    lead(rig)
    assert rig.release(KEY, token=OTHER)[0] == b"lost"
    assert lead(rig, token=OTHER).status == "wait"
    assert rig.release(KEY, token=TOKEN)[0] == b"ok"
    assert lead(rig, token=OTHER).status == "lead"


@pytest.mark.parametrize("scope", [Scope.of_key(KEY), Scope.of_function("m.f"), Scope.of_tag("red"), EVERYTHING])
def test_rule_13_an_invalidation_dooms_the_lease(rig: Rig, scope: Scope) -> None:
    subject = Subject(KEY, "m.f", (TAG,))
    old = lead(rig, subject)
    rig.invalidate(scope, id=rig.new_id())
    new = lead(rig, subject, OTHER)
    assert new.status == "lead"
    assert new.stamp > old.stamp
    store = {"soft_ms": 1000, "span_ms": 0, "envelope": envelope(id=TOKEN)}
    late = parse_store(rig.store(KEY, token=TOKEN, stamp=old.stamp, **store))
    assert (late.status, late.reason) == ("refused", "lease")
    assert rig.client("GET", KEY) is None


def test_rule_12_the_stamp_must_match_as_well(rig: Rig) -> None:
    old = lead(rig)
    rig.invalidate(Scope.of_function("m.f"), id=rig.new_id())
    again = lead(rig, Subject(KEY, "m.f"))  # the same token, a new grant
    assert again.stamp > old.stamp
    store = {"soft_ms": 1000, "span_ms": 0, "envelope": envelope(id=TOKEN)}
    assert parse_store(rig.store(KEY, token=TOKEN, stamp=old.stamp, **store)).status == "refused"
    assert parse_store(rig.store(KEY, token=TOKEN, stamp=again.stamp, **store)).status == "ok"


def test_a_repeated_store_is_still_ok_and_a_store_ends_the_lease(rig: Rig) -> None:
    fill(rig)
    store = {"soft_ms": 1000, "span_ms": 0, "envelope": envelope(id=TOKEN)}
    again = parse_store(rig.store(KEY, token=TOKEN, stamp=0, **store))
    assert again.status == "ok"
    assert again.soft_expiry_ms == fields(rig.client("GET", KEY))[1]
    assert rig.release(KEY, token=TOKEN)[0] == b"lost"


def test_rule_10_a_store_after_an_invalidation_of_its_key_is_refused(rig: Rig) -> None:
    stamp = lead(rig).stamp
    rig.invalidate(Scope.of_key(KEY), id=rig.new_id())
    got = parse_store(
        rig.store(KEY, token=TOKEN, stamp=stamp, soft_ms=1000, span_ms=0, envelope=envelope(id=TOKEN))
    )
    assert got.reason == "lease"
    assert rig.client("GET", KEY) is None


def test_a_value_without_a_life_is_refused_and_the_lease_freed(rig: Rig) -> None:
    lead(rig)
    got = parse_store(rig.store(KEY, token=TOKEN, stamp=0, soft_ms=-5, span_ms=5, envelope=envelope(id=TOKEN)))
    assert got.reason == "expired"
    assert lead(rig, token=OTHER).status == "lead"


@pytest.mark.parametrize("scope", [Scope.of_function("m.f"), Scope.of_tag("red"), EVERYTHING])
def test_rule_2_a_dead_entry_is_absent_also_as_a_stale_one(rig: Rig, scope: Scope) -> None:
    fill(rig, tags=(TAG,), soft_ms=-1, span_ms=20_000)
    subject = Subject(KEY, "m.f")  # the caller does not know the tag; the envelope tells it
    assert peek(rig, subject).status == "entry"
    rig.invalidate(scope, id=rig.new_id())
    assert peek(rig, subject).status == "miss"
    got = lead(rig, subject, OTHER)
    assert (got.status, got.entry) == ("lead", None)


def test_rule_2_the_marks_are_told(rig: Rig) -> None:
    marks = [
        parse_invalidate(rig.invalidate(scope, id=rig.new_id())).stamp
        for scope in (EVERYTHING, Scope.of_function("m.f"), Scope.of_tag("red"))
    ]
    rig.put(KEY, marks[-1], tags=(TAG,))
    known = peek(rig, Subject(KEY, "m.f", (tag_hash("blue"),))).marks
    assert (known.everything, known.function) == tuple(marks[:2])
    assert dict(known.tags) == {TAG: marks[2], tag_hash("blue"): 0}
    assert known.tip == marks[-1]


def test_each_entry_of_a_batch_has_its_own_answer(rig: Rig) -> None:
    three = [Subject(f"ns:{name}", "m.f") for name in "abc"]
    fill(rig, three[0].key)
    assert lead(rig, three[1], OTHER).status == "lead"
    asks = [Ask(subject, 0, TOKEN) for subject in three]
    replies = parse_leases(rig.lease_many(asks, lease_ms=5000), 3)
    assert [reply.status for reply in replies] == ["entry", "wait", "lead"]
    stamp = replies[2].stamp
    fills = [Fill(subject.key, TOKEN, stamp, 5000, 0, envelope(id=TOKEN)) for subject in three]
    stored = parse_stores(rig.store_many(fills), 3)
    assert [(reply.status, reply.reason) for reply in stored] == [("ok", ""), ("refused", "lease"), ("ok", "")]
    assert rig.release(three[1].key, token=OTHER)[0] == b"ok", "a lease that is refused stays"
    assert rig.release(three[2].key, token=TOKEN)[0] == b"lost"
    ids = [rig.new_id() for _ in three]
    obeyed = [Invalidation(Scope.of_key(three[0].key), ids[0]), Invalidation(Scope.of_tag("red"), ids[1])]
    assert [reply.existed for reply in parse_invalidates(rig.invalidate_many(obeyed), 2)] == [True, False]
    puts = [Put(subject, id, 5000, 0, envelope()) for subject, id in zip(three, ids, strict=True)]
    puts[1] = Put(three[1], rig.new_id(), 5000, 0, envelope())
    written = parse_sets(rig.set_many(puts, not_after_us=rig.late(), mode="add"), 3)
    assert [reply.status for reply in written] == ["cancelled", "ok", "exists"]
    again = [*obeyed, Invalidation(Scope.of_key(three[2].key), rig.new_id())]
    assert [reply.status for reply in parse_invalidates(rig.invalidate_many(again), 3)] == ["dup", "dup", "ok"]
    assert [peek(rig, subject).status for subject in three] == ["miss", "entry", "miss"]


def test_a_batch_that_fails_halfway_is_obeyed_when_it_is_sent_again(rig: Rig) -> None:
    if isinstance(rig.client, Memory):
        pytest.skip("nothing fails halfway there")
    rig.put(KEY)
    items = [Invalidation(Scope.of_key(KEY), TOKEN), Invalidation(Scope.of_function("m.f"), OTHER)]
    rig.client("SET", rig.book.marks, "no sorted set")
    with pytest.raises(ServerError):
        rig.invalidate_many(items)
    rig.client("DEL", rig.book.marks)
    assert [reply.status for reply in parse_invalidates(rig.invalidate_many(items), 2)] == ["ok", "ok"]
    assert peek(rig, IT).status == "miss"


def test_rule_1_a_newer_least_raises_the_tip_before_the_lease(rig: Rig) -> None:
    assert peek(rig, least=FAR).status == "miss"
    assert rig.tip()[3] == 0, "a peek writes nothing"
    fill(rig)
    got = lead(rig, least=FAR, token=OTHER)
    assert (got.status, got.stamp, got.marks.tip, got.entry) == ("lead", FAR, FAR, None)
    resync = rig.resync()
    assert resync[3] == FAR
    assert resync[6] == f"{rig.client.replid}:0".encode()


def test_a_soft_expired_entry_is_stale_beside_the_lease(rig: Rig) -> None:
    fill(rig, soft_ms=-1000, span_ms=20_000)
    assert peek(rig).status == "entry"
    first, second = lead(rig), lead(rig, token=OTHER)
    assert (first.status, second.status) == ("lead", "wait")
    assert first.entry == second.entry == rig.client("GET", KEY)


def test_a_hard_expired_envelope_is_absent_whatever_its_ttl(rig: Rig) -> None:
    rig.client.raw_put(KEY, envelope(soft=1000, span=1000))
    assert peek(rig).status == "miss"
    assert lead(rig).entry is None
    assert parse_sweep(rig.sweep(KEY, least=0)).removed
    assert rig.client("GET", KEY) is None


def test_early_refresh_leads_past_the_entry_that_was_seen(rig: Rig) -> None:
    fill(rig)
    got = lead(rig, token=OTHER, seen=TOKEN)
    assert got.status == "lead"
    assert got.entry == rig.client("GET", KEY)
    assert lead(rig, token="cc" * 8, seen="dd" * 8).status == "entry", "another refreshed it"


@pytest.mark.parametrize("raw", [b"", b"foreign", b"\xe7\xca" * 40, envelope()[:37], envelope(stamp=2**60)])
def test_foreign_values_are_absent_and_may_be_overwritten(rig: Rig, raw: bytes) -> None:
    rig.client.raw_put(KEY, raw if raw[:4] != b"\xe7\xca\xe7\xca" else raw[:2] + b"\0" + raw[3:])
    assert peek(rig).status == "miss"
    assert not parse_sweep(rig.sweep(KEY, least=FAR)).removed
    fill(rig)
    assert lead(rig).status == "entry"


def test_an_envelope_with_cut_tags_is_foreign(rig: Rig) -> None:
    rig.client.raw_put(KEY, envelope(b"", tags=(TAG,), soft=rig.client.now_us() // 1000 + 5000)[:-1])
    assert peek(rig).status == "miss"


def test_a_newer_version_is_handed_out_and_never_touched(rig: Rig) -> None:
    raw = rig.put(KEY, version=2, flags=255)
    assert lead(rig).entry == raw
    assert lead(rig, seen="00" * 8).status == "entry", "the place of the id may have moved"
    touch = {"not_after_us": rig.late(), "soft_ms": 1000, "span_ms": 0}
    assert parse_touch(rig.touch(IT, least=0, **touch)).status == "miss"
    assert not parse_sweep(rig.sweep(KEY, least=FAR)).removed
    assert parse_incr(rig.incr(KEY, id=TOKEN, delta=1, **touch)).status == "type"
    assert rig.client("GET", KEY) == raw


def test_a_store_does_not_overwrite_a_newer_version_but_frees_the_lease(rig: Rig) -> None:
    lead(rig)
    raw = rig.put(KEY, version=2)
    store = {"soft_ms": 1000, "span_ms": 0, "envelope": envelope(id=TOKEN)}
    assert parse_store(rig.store(KEY, token=TOKEN, stamp=0, **store)).reason == "newer"
    assert rig.client("GET", KEY) == raw
    rig.invalidate(EVERYTHING, id=rig.new_id())
    assert lead(rig, token=OTHER).status == "lead", "dead, and the first lease is gone"


def test_the_user_may_invalidate_and_set_over_a_newer_version(rig: Rig) -> None:
    rig.put(KEY, version=2)
    assert parse_invalidate(rig.invalidate(Scope.of_key(KEY), id=rig.new_id())).existed
    assert rig.client("GET", KEY) is None
    rig.put(KEY, version=2)
    write = {"not_after_us": rig.late(), "soft_ms": 1000, "span_ms": 0, "envelope": envelope()}
    assert rig.set(IT, id=TOKEN, **write)[0] == b"ok"
    assert rig.client("GET", KEY)[2] == 1


def test_rule_9_touch_changes_the_expiry_only(rig: Rig) -> None:
    fill(rig, tags=(TAG,))
    before, tip = rig.client("GET", KEY), rig.tip()[3]
    got = parse_touch(rig.touch(IT, least=0, not_after_us=rig.late(), soft_ms=3_000_000, span_ms=77))
    after = rig.client("GET", KEY)
    assert fields(after) == (fields(before)[0], got.now_us // 1000 + 3_000_000, 77)
    assert (after[:12], after[22:]) == (before[:12], before[22:])
    assert rig.tip()[3] == tip
    touch = {"soft_ms": 1000, "span_ms": 0}
    assert parse_touch(rig.touch(IT, least=FAR, not_after_us=rig.late(), **touch)).status == "miss"
    assert parse_touch(rig.touch(IT, least=0, not_after_us=1, **touch)).status == "late"
    rig.invalidate(Scope.of_tag("red"), id=rig.new_id())
    assert parse_touch(rig.touch(IT, least=0, not_after_us=rig.late(), **touch)).status == "miss"
    assert rig.client("GET", KEY) == after


def add(rig: Rig, delta: int, **named: Any) -> Any:
    ask = {"id": TOKEN, "not_after_us": rig.late(), "soft_ms": 9000, "span_ms": 1000, **named}
    return parse_incr(rig.incr(KEY, delta=delta, **ask))


def test_rule_9_a_counter_is_made_kept_and_bounded(rig: Rig) -> None:
    tip = parse_invalidate(rig.invalidate(Scope.of_function("m.f"), id=rig.new_id())).stamp
    assert add(rig, 5, initial=10).value == 15
    made = rig.client("GET", KEY)
    assert (made[:4], made[22:30].hex(), made[38:]) == (b"\xe7\xca\x01\x01", TOKEN, b"15")
    assert made[30:38] == bytes(8)
    assert fields(made)[0] == tip
    assert add(rig, -20, id=OTHER).value == -5
    assert rig.client("GET", KEY) == made[:38] + b"-5"
    assert add(rig, 2**53 - 1).value == 2**53 - 6
    assert add(rig, 6).status == "range"
    assert rig.client("GET", KEY)[38:] == b"%d" % (2**53 - 6), "%.0f writes all digits"
    assert add(rig, 0, not_after_us=1).status == "late"
    assert rig.tip()[3] == tip, "counters are not logged"


def test_rule_9_a_dead_counter_begins_anew(rig: Rig) -> None:
    now = rig.client.now_us() // 1000
    raw = envelope(b"41", tags=(TAG,), flags=1, soft=now + 9000)
    rig.client.raw_put(KEY, raw)
    assert add(rig, 1).value == 42
    assert rig.client("GET", KEY) == raw[:-2] + b"42", "tags, stamp and expiry stay"
    tip = parse_invalidate(rig.invalidate(Scope.of_tag("red"), id=rig.new_id())).stamp
    assert add(rig, 1).value == 1
    assert fields(rig.client("GET", KEY))[0] == tip
    assert add(rig, 1, least=FAR).value == 1
    assert fields(rig.client("GET", KEY))[0] == FAR


def test_what_is_no_counter_is_not_counted(rig: Rig) -> None:
    fill(rig)
    assert add(rig, 1).status == "type"
    rig.put(KEY, payload=b"4x", flags=1)
    assert add(rig, 1).status == "type"
    rig.client.raw_put(KEY, b"foreign")
    assert add(rig, 1).value == 1


def test_rule_21_sweep_compares_before_it_deletes(rig: Rig) -> None:
    fill(rig)
    assert not parse_sweep(rig.sweep(KEY, least=0)).removed
    assert not parse_sweep(rig.sweep("ns:none", least=1)).removed
    assert parse_sweep(rig.sweep(KEY, least=1)).removed
    assert rig.client("GET", KEY) is None
