"""The scripts where bookkeeping was lost (rule 18): evicted, wiped, or begun by somebody who did not know of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.real.script_servers import FAR, Client, Rig, envelope, invalidate, log, members, server

from evercache.protocol.commands import Limits
from evercache.protocol.replies import parse_lease, parse_resync, parse_tip
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

LEAP = 2**32  # by which a later life of the bookkeeping begins higher
KEY = "ns:k"
IT = Subject(KEY)
RED = tag_hash("red")


@pytest.fixture(scope="module", params=["valkey", "redis62"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with server(request.param) as port:
        client = Client(port)
        yield client
        client.close()


@pytest.fixture
def rig(client: Client) -> Rig:
    client("FLUSHALL")
    return Rig(client)


def evict(rig: Rig) -> None:
    """All of the bookkeeping goes; the entries stay."""
    rig.client("UNLINK", rig.book.state, rig.book.marks, rig.book.log, rig.book.ids)


def test_rule_18_restore_writes_the_maximum(rig: Rig) -> None:
    newer = invalidate(rig, Scope.of_function("newer")).stamp
    marks = [("f:newer", 5), ("f:older", FAR), (f"t:{RED.hex()}", 77)]
    got = parse_tip(rig.restore(marks, newest=3, everything=9, tagfloor=11))
    assert got.tip == FAR
    assert members(rig) == {
        Scope.of_function("newer"): newer,
        Scope.of_function("older"): FAR,
        Scope.of_tag("red"): 77,
    }
    rig.restore([("f:older", 1)], newest=0, everything=8, tagfloor=10)
    state = parse_resync(rig.resync())
    assert (state.everything, state.tagfloor, state.tip) == (9, 11, FAR)
    assert members(rig)[Scope.of_function("older")] == FAR


def test_rule_18_restore_into_nothing_folds_what_is_too_much(rig: Rig) -> None:
    rig = Rig(rig.client, limits=Limits(max_marks=10))
    marks = [(f"t:{n:016x}", n + 1) for n in range(500)]
    assert FAR + LEAP / 4 <= parse_tip(rig.restore(marks, newest=FAR)).tip < FAR + LEAP / 2
    got = parse_resync(rig.resync())
    assert (got.tagfloor, got.gens, got.life) == (490, ((got.replid, 0),), "feedfeedfeedfeed")
    assert len(members(rig)) == 10


@pytest.mark.parametrize("by", ["invalidation", "restore"])
def test_rule_18_lost_marks_are_replaced_by_one_of_everything(rig: Rig, by: str) -> None:
    rig.put(KEY, 0, tags=(RED,))
    invalidate(rig, Scope.of_tag("red"))
    rig.client("UNLINK", rig.book.marks)  # as an eviction does; the state, the log and the entry stay
    tip = parse_resync(rig.resync()).tip
    known = log(rig)[-1].log_id
    if by == "restore":
        rig.restore([("f:other", 5)], newest=0)
    else:
        invalidate(rig, Scope.of_function("other"))
    everything = parse_resync(rig.resync()).everything
    assert everything > tip
    first = log(rig, known)[0]
    assert (first.scope, first.stamp) == (EVERYTHING, everything)
    assert parse_lease(rig.peek(IT, least=0)).status == "miss"
    for _ in range(2):  # and only once
        invalidate(rig, Scope.of_function("other"))
    assert parse_resync(rig.resync()).everything == everything


@pytest.mark.parametrize("by", ["invalidation", "resync", "restore", "lease"])
def test_rule_18_no_entry_outlives_the_bookkeeping(rig: Rig, by: str) -> None:
    """It may have been outdated by a mark that only the lost bookkeeping and its issuer knew."""
    rig.put(KEY, 0, tags=(RED,))
    known = invalidate(rig, Scope.of_key("ns:other")).stamp
    unheard = invalidate(rig, Scope.of_tag("red")).stamp
    evict(rig)
    if by == "invalidation":
        invalidate(rig, Scope.of_key("ns:other"), newest=known)
    elif by == "resync":
        rig.resync(newest=known)
    elif by == "restore":
        rig.restore([], newest=known)
    else:
        led = parse_lease(rig.lease(IT, least=known, newest=known, token="a1", lease_ms=9000))
        assert led.status == "lead", "nobody is given the entry"
        assert led.stamp > unheard
        assert led.marks.everything == led.stamp
    everything = parse_resync(rig.resync()).everything
    assert everything > unheard
    assert parse_lease(rig.peek(IT, least=0)).status == "miss"
    if by != "lease":
        led = parse_lease(rig.lease(IT, least=0, token="a1", lease_ms=9000))
    assert led.stamp >= everything, "what is computed now is fresh"
    # The same again, by somebody who has heard of nothing since: other entries, another mark above them.
    rig.put(KEY, led.stamp, tags=(RED,))
    evict(rig)
    assert parse_resync(rig.resync(newest=known)).everything > everything
    assert parse_lease(rig.peek(IT, least=0)).status == "miss"


def test_rule_18_nor_bookkeeping_that_somebody_began_who_knew_of_none(rig: Rig) -> None:
    rig.put(KEY, 0, tags=(RED,))
    known = invalidate(rig, Scope.of_tag("red")).stamp
    evict(rig)
    invalidate(rig, Scope.of_function("f"))
    assert parse_resync(rig.resync()).everything == 0
    rig.restore([], newest=known, knew_another=False)
    assert parse_resync(rig.resync()).everything == 0
    for _ in range(2):  # only once
        rig.restore([], newest=known, knew_another=True)
        everything = parse_resync(rig.resync()).everything
        assert [line.scope for line in log(rig)] == [Scope.of_function("f"), EVERYTHING]
        assert log(rig)[-1].stamp == everything > known
    assert parse_lease(rig.peek(IT, least=0)).status == "miss"


def test_marks_that_had_their_time_are_not_lost_ones(rig: Rig) -> None:
    rig = Rig(rig.client, limits=Limits(log_lines=1000, marks_ms=1))
    invalidate(rig, Scope.of_tag("red"))
    for _ in range(4):
        time.sleep(0.003)
        invalidate(rig, Scope.of_key(KEY))
    assert not rig.client("EXISTS", rig.book.marks)
    assert parse_resync(rig.resync()).everything == 0


def test_rule_18_nor_bookkeeping_that_somebody_began_who_did_not_know_the_newest(rig: Rig) -> None:
    """A life begun by a resync is above one that is begun by a call: of two evictions, who slept knows of none."""
    asleep = invalidate(rig, Scope.of_key("ns:other")).stamp
    evict(rig)
    known = parse_resync(rig.resync(replid="", newest=asleep)).tip
    rig.put(KEY, known, tags=(RED,))
    assert parse_lease(rig.peek(IT, least=0)).status == "entry"
    evict(rig)
    begun = invalidate(rig, Scope.of_tag("red"), newest=asleep).stamp
    assert begun < known
    assert parse_lease(rig.peek(IT, least=0)).status == "miss", "above the tip: of a life that was evicted"
    for _ in range(2):  # only once
        rig.restore([], newest=known, knew_another=True)
        assert [line.scope for line in log(rig)] == [Scope.of_tag("red"), EVERYTHING]
    assert parse_lease(rig.peek(IT, least=0)).status == "miss", "nor where the tip has gone beyond it"


def begun_below(rig: Rig) -> tuple[int, int]:
    """An entry of a life that was evicted, above the life that a sleeper began after it: (its stamp, a mark that
    covers it)."""
    asleep = invalidate(rig, Scope.of_key("ns:other")).stamp
    evict(rig)
    known = parse_resync(rig.resync(replid="", newest=asleep)).tip
    rig.put(KEY, known, tags=(RED,))
    evict(rig)
    mark = invalidate(rig, Scope.of_tag("red"), newest=asleep).stamp
    assert mark < known
    return known, mark


def promote(rig: Rig) -> None:
    """What the next script finds is the state of another generation."""
    gens = parse_resync(rig.resync()).gens
    rig.client("HSET", rig.book.state, "gens", ",".join(f"{'ab' * 20}:{tip}" for _, tip in gens))


@pytest.mark.parametrize("by", ["invalidation", "resync"])
def test_rule_18_nor_does_the_leap_of_a_failover_revive_entries_above_the_tip(rig: Rig, by: str) -> None:
    known, mark = begun_below(rig)
    promote(rig)
    if by == "invalidation":
        invalidate(rig, Scope.of_key("ns:other"), newest=mark)
    else:
        rig.resync(replid="", newest=mark)
    state = parse_resync(rig.resync())
    assert state.tip > known
    assert state.everything > known, "and replicas are not believed either"
    assert parse_lease(rig.peek(IT, least=mark)).status == "miss"
    rig.put(KEY, state.tip, tags=(RED,))
    promote(rig)  # only once
    invalidate(rig, Scope.of_key("ns:other"), newest=state.tip)
    assert parse_lease(rig.peek(IT, least=mark)).status == "entry"


@pytest.mark.parametrize("by", ["invalidation", "resync", "lease"])
def test_rule_18_nor_does_a_caller_who_knows_of_their_life(rig: Rig, by: str) -> None:
    """It raises the tip to what it knows before its own resync has restored the marks of that life."""
    known, mark = begun_below(rig)
    if by == "invalidation":
        invalidate(rig, Scope.of_key("ns:other"), newest=known)
        assert [line.scope.kind for line in log(rig)] == ["t", "*", "k"], "others are told"
    elif by == "resync":
        rig.resync(newest=known)
    else:
        rig.lease(Subject("ns:other"), least=known, newest=known, token="a1", lease_ms=9000)
    assert parse_lease(rig.peek(IT, least=mark)).status == "miss"


def test_rule_18_after_a_flush_a_failover_invalidates_nothing(rig: Rig) -> None:
    """No entry was left of the life before."""
    known = invalidate(rig, Scope.of_key("ns:other")).stamp
    rig.client("FLUSHALL")
    tip = parse_resync(rig.resync(newest=known)).tip
    rig.put(KEY, tip, tags=(RED,))
    promote(rig)
    invalidate(rig, Scope.of_key("ns:other"))
    assert parse_lease(rig.peek(IT, least=0)).status == "entry"


def test_an_entry_above_the_tip_is_replaced_by_what_is_computed(rig: Rig) -> None:
    rig.put(KEY, FAR)
    led = parse_lease(rig.lease(IT, least=0, token="a1" * 8, lease_ms=9000))
    assert led.status == "lead"
    stored = rig.store(
        KEY, token="a1" * 8, stamp=led.stamp, soft_ms=9000, span_ms=500, envelope=envelope(id="a1" * 8)
    )
    assert stored[0] == b"ok"
    assert parse_lease(rig.peek(IT, least=0)).status == "entry"


def test_a_lease_is_not_below_a_mark_whose_state_was_evicted(rig: Rig) -> None:
    """Else what is computed under it is dead on arrival, for everybody, until somebody raises the tip."""
    mark = invalidate(rig, Scope.of_tag("red")).stamp
    rig.client("UNLINK", rig.book.state)
    led = parse_lease(rig.lease(Subject(KEY, "", (RED,)), least=0, token="a1" * 8, lease_ms=9000))
    assert (led.status, led.stamp) == ("lead", mark)
