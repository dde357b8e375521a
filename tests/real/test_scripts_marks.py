"""The scripts about the bookkeeping: invalidate, set, resync, tip."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from tests.real.script_servers import FAR, Client, Rig, envelope, fields, invalidate, log, members, server, wait_for

from evercache.protocol.commands import Bookkeeping, Limits
from evercache.protocol.replies import (
    LogLine,
    parse_lease,
    parse_marks,
    parse_resync,
    parse_set,
    parse_tip,
)
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

LEAP = 2**32  # by which a later life of the bookkeeping begins higher
KEY = "ns:k"
IT = Subject(KEY)
RED, BLUE = tag_hash("red"), tag_hash("blue")


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


def write(rig: Rig, subject: Subject = IT, **named: Any) -> Any:
    ask = {"id": rig.new_id(), "not_after_us": rig.late(), "soft_ms": 9000, "span_ms": 500}
    return parse_set(rig.set(subject, **{**ask, "envelope": envelope(), **named}))


def test_only_what_processes_agree_on_exists_before_the_first_invalidation(rig: Rig) -> None:
    subject = Subject(KEY, "m.f", (RED,))
    late = rig.late()
    rig.peek(subject, least=0)
    rig.lease(subject, least=0, token="aa" * 8, lease_ms=5000)
    rig.store(KEY, token="aa" * 8, stamp=0, soft_ms=5000, span_ms=0, envelope=envelope(id="aa" * 8))
    rig.lease(Subject("ns:other"), least=0, token="aa" * 8, lease_ms=5000)
    rig.touch(subject, least=0, not_after_us=late, soft_ms=100_000, span_ms=0)
    rig.incr("ns:n", id="aa" * 8, delta=1, not_after_us=late, soft_ms=9000, span_ms=0)
    rig.sweep("ns:none", least=0)
    rig.tip()
    rig.resync()
    assert set(rig.client("KEYS", "*")) == {b"ns:k", b"ns~lease:ns:other", b"ns:n", b"ns~state"}
    for key in (b"ns:k", b"ns~lease:ns:other", b"ns:n"):
        assert rig.client("PTTL", key) > 0
    kept = rig.client("HGETALL", "ns~state")
    assert set(kept if isinstance(kept, dict) else kept[::2]) == {b"lifetime", b"data"}
    rig.invalidate(EVERYTHING, id=rig.new_id())
    assert set(rig.client("KEYS", "ns~*")) == {b"ns~lease:ns:other", b"ns~state", b"ns~log", b"ns~ids"}


def test_rule_1_a_mark_is_above_the_clock_the_tip_and_what_the_caller_knows(rig: Rig) -> None:
    first = invalidate(rig, EVERYTHING)
    assert first.stamp == first.now_us
    second = invalidate(rig, EVERYTHING, newest=FAR)
    assert second.stamp == FAR + 1
    assert invalidate(rig, EVERYTHING).stamp == FAR + 2
    assert parse_tip(rig.tip()).tip == FAR + 2
    assert rig.client("HGET", rig.book.state, "*") == b"%d" % (FAR + 2), "%.0f writes all digits"


def test_stamps_are_exact_up_to_the_last_digit(rig: Rig) -> None:
    top = 2**53 - 10
    for n in range(1, 6):
        got = invalidate(rig, Scope.of_function("m.f"), newest=top if n == 1 else 0)
        assert got.stamp == top + n
        assert members(rig) == {Scope.of_function("m.f"): top + n}
        assert log(rig)[-1].stamp == top + n
        assert parse_lease(rig.peek(Subject(KEY, "m.f"), least=0)).marks.function == top + n
    assert parse_resync(rig.resync()).tip == top + 5
    write(rig)
    assert fields(rig.client("GET", KEY))[0] == top + 6


def test_an_invalidation_of_a_key_unlinks_entry_and_lease(rig: Rig) -> None:
    assert not invalidate(rig, Scope.of_key(KEY)).existed
    rig.put(KEY, 1)
    rig.lease(IT, least=0, seen="00" * 8, token="aa" * 8, lease_ms=5000)
    got = invalidate(rig, Scope.of_key(KEY))
    assert got.existed
    assert rig.client("EXISTS", KEY, rig.book.lease_key(KEY)) == 0
    line = log(rig)[-1]
    assert line == LogLine(got.log_id, 1, "k", KEY, got.stamp, line.id, got.replid, log(rig)[0].log_id)
    assert rig.client("ZCARD", rig.book.marks) == 0, "key marks are never on the server"


def test_existed_means_a_live_entry(rig: Rig) -> None:
    mark = invalidate(rig, Scope.of_function("m.f")).stamp
    red = invalidate(rig, Scope.of_tag("red")).stamp
    rig.put(KEY, mark - 1)
    assert not invalidate(rig, Scope.of_key(KEY), function="m.f").existed
    rig.put(KEY, red - 1, tags=(RED,))
    assert not invalidate(rig, Scope.of_key(KEY)).existed
    rig.put(KEY, red, tags=(RED,))
    assert invalidate(rig, Scope.of_key(KEY)).existed
    rig.client("SET", KEY, "foreign")
    assert invalidate(rig, Scope.of_key(KEY)).existed
    rig.client("RPUSH", KEY, "a list")  # no string: it goes, and does not count
    assert not invalidate(rig, Scope.of_key(KEY)).existed
    assert rig.client("EXISTS", KEY) == 0


def test_rule_3_an_id_is_obeyed_once(rig: Rig) -> None:
    id = rig.new_id()
    first = invalidate(rig, Scope.of_key(KEY), id=id)
    write(rig)
    again = invalidate(rig, Scope.of_key(KEY), id=id)
    assert again.status == "dup"
    assert again.stamp > first.stamp
    assert again.stamp == parse_tip(rig.tip()).tip
    assert rig.client("EXISTS", KEY) == 1
    assert len(log(rig)) == 2


def test_rule_11_an_invalidation_cancels_the_set_of_its_id_but_a_set_records_none(rig: Rig) -> None:
    id = rig.new_id()
    assert write(rig, id=id).status == "ok"
    assert write(rig, id=id).status == "ok"
    assert rig.client("ZCARD", rig.book.ids) == 0
    assert invalidate(rig, Scope.of_key(KEY), id=id).status == "ok"
    assert write(rig, id=id).status == "cancelled"
    assert write(rig, not_after_us=rig.client.now_us() - 1).status == "late"
    assert rig.client("EXISTS", KEY) == 0


def test_rule_10_a_set_logs_marks_and_drops_the_lease(rig: Rig) -> None:
    rig.lease(IT, least=0, token="aa" * 8, lease_ms=5000)
    first, second = write(rig), write(rig)
    assert (first.existed, second.existed) == (False, True)
    assert second.stamp > first.stamp
    assert fields(rig.client("GET", KEY)) == (second.stamp, second.soft_expiry_ms, 500)
    assert second.soft_expiry_ms == second.now_us // 1000 + 9000
    assert 9000 < rig.client("PTTL", KEY) <= 9500
    assert rig.client("EXISTS", rig.book.lease_key(KEY)) == 0
    assert [(line.kind, line.name, line.stamp) for line in log(rig)] == [
        ("k", KEY, first.stamp),
        ("k", KEY, second.stamp),
    ]


def test_rule_9_add_treats_a_dead_entry_as_absent(rig: Rig) -> None:
    subject = Subject(KEY, "m.f")
    assert write(rig, subject, mode="add").status == "ok"
    assert write(rig, subject, mode="add").status == "exists"
    assert write(rig, subject, mode="add", least=FAR).status == "ok"
    invalidate(rig, Scope.of_function("m.f"))
    got = write(rig, subject, mode="add")
    assert (got.status, got.existed) == ("ok", False)


class TestSince:
    """A set of a value that was read at a stamp."""

    def status(self, rig: Rig, since: int, subject: Subject = IT, **named: Any) -> str:
        return write(rig, subject, mode="since", since=since, **named).status

    def test_nothing_happened(self, rig: Rig) -> None:
        assert self.status(rig, 0) == "ok"
        assert self.status(rig, parse_tip(rig.tip()).tip) == "ok"

    def test_another_key_was_invalidated(self, rig: Rig) -> None:
        invalidate(rig, Scope.of_key("ns:other"))
        since = parse_tip(rig.tip()).tip
        invalidate(rig, Scope.of_key("ns:another"))
        assert self.status(rig, since) == "ok"
        assert self.status(rig, since) == "outdated", "the set itself was logged"

    @pytest.mark.parametrize(
        "scope", [Scope.of_key(KEY), Scope.of_function("m.f"), Scope.of_tag("red"), EVERYTHING]
    )
    def test_something_that_covers_it_was_invalidated(self, rig: Rig, scope: Scope) -> None:
        invalidate(rig, Scope.of_key("ns:other"))
        since = parse_tip(rig.tip()).tip
        stamp = invalidate(rig, scope).stamp
        subject = Subject(KEY, "m.f", (RED,))
        assert self.status(rig, since, subject) == "outdated"
        assert self.status(rig, stamp, subject) == "ok"

    def test_a_stamp_from_a_life_whose_state_was_lost_tells_nothing(self, rig: Rig) -> None:
        since = invalidate(rig, Scope.of_key("ns:other")).stamp
        invalidate(rig, Scope.of_key(KEY))
        rig.client("FLUSHALL")
        assert self.status(rig, since) == "outdated", "there is no state"
        assert self.status(rig, 0, newest=since) == "outdated", "the caller knows more than the server"
        invalidate(rig, Scope.of_key("ns:other"))
        assert self.status(rig, since) == "outdated", "by a caller that knew nothing"

    def test_the_tags_of_the_new_envelope_count(self, rig: Rig) -> None:
        invalidate(rig, Scope.of_key("ns:other"))
        stamp = invalidate(rig, Scope.of_tag("red")).stamp
        assert self.status(rig, stamp - 1, envelope=envelope(tags=(RED,))) == "outdated"
        assert self.status(rig, stamp - 1, envelope=envelope(tags=(BLUE,))) == "ok"

    def test_the_caller_knows_better(self, rig: Rig) -> None:
        assert self.status(rig, FAR, least=FAR + 1) == "outdated"

    def test_a_line_of_an_unknown_kind(self, rig: Rig) -> None:
        since = invalidate(rig, Scope.of_key("ns:other")).stamp
        rig.client("XADD", rig.book.log, "*", "v", 2, "k", "glob", "n", "x", "s", since + 5, "p", "1-1")
        rig.client("HSET", rig.book.state, "tip", since + 5)
        assert self.status(rig, since) == "outdated"

    def test_the_log_was_trimmed(self, rig: Rig) -> None:
        since = invalidate(rig, Scope.of_key("ns:other")).stamp
        for _ in range(3):
            invalidate(rig, Scope.of_key("ns:other"))
        rig.client("XTRIM", rig.book.log, "MAXLEN", 2)
        assert self.status(rig, since) == "outdated", "the key may be in a line that is gone"
        assert self.status(rig, log(rig)[0].stamp) == "ok"
        rig.client("XTRIM", rig.book.log, "MAXLEN", 0)
        assert self.status(rig, since) == "outdated"

    def test_more_lines_than_it_reads(self, rig: Rig) -> None:
        first = invalidate(rig, Scope.of_key("ns:other")).stamp
        previous = log(rig)[0].log_id
        for n in range(2000):
            previous = rig.client(
                "XADD", rig.book.log, "*", "v", 1, "k", "f", "n", "x", "s", first + 1 + n, "p", previous
            )
        rig.client("HSET", rig.book.state, "tip", first + 2000, "last", previous)
        assert self.status(rig, first) == "outdated"
        assert self.status(rig, first + 1) == "ok"


def test_rule_14_the_lines_are_chained_across_trims(rig: Rig) -> None:
    rig = Rig(rig.client, limits=Limits(log_lines=100))
    for n in range(1000):
        invalidate(rig, Scope.of_key(f"ns:{n}"))
    assert rig.client("XLEN", rig.book.log) <= 300, "MAXLEN ~ keeps whole blocks"
    lines = log(rig)
    assert lines[0].previous != "0-0"
    assert all(b.previous == a.log_id for a, b in pairwise(lines))
    rig.client("XTRIM", rig.book.log, "MAXLEN", 0)
    assert parse_resync(rig.resync()).last == lines[-1].log_id
    invalidate(rig, EVERYTHING)
    (line,) = log(rig)
    assert line.previous == lines[-1].log_id, "the chain does not need the line before"


def test_lines_ids_and_marks_leave_by_age(rig: Rig) -> None:
    rig.client("CONFIG", "SET", "stream-node-max-entries", 10)
    for n in range(250):
        invalidate(rig, Scope.of_function(f"f{n}"))
    limits = Limits(
        log_lines=1000, journal_ms=-1000, marks_ms=-1000
    )  # all of it is old, and each mark removes some
    rig = Rig(rig.client, limits=limits)
    rig.client("HSET", rig.book.state, "lifetime", -1000)  # else the longest that was told counts
    invalidate(rig, Scope.of_key(KEY))
    rig.client("CONFIG", "SET", "stream-node-max-entries", 100)
    assert rig.client("XLEN", rig.book.log) <= 10
    assert rig.client("ZCARD", rig.book.ids) == 51, "200 in each call"
    assert rig.client("ZCARD", rig.book.marks) == 50, "200 in each call"


def test_one_mark_in_64_removes_what_is_old(rig: Rig) -> None:
    """Which one, the stamp says: those that are one above the other pass each multiple of 64."""
    rig = Rig(rig.client, limits=Limits(marks_ms=1, journal_ms=-1000))
    first = invalidate(rig, Scope.of_tag("red"), newest=FAR).stamp
    stamps = [invalidate(rig, Scope.of_key(KEY)).stamp for _ in range(200)]
    assert stamps == list(range(first + 1, first + 201))
    assert 0 < rig.client("ZCARD", rig.book.ids) <= 64
    assert rig.client("ZCARD", rig.book.ids) == stamps[-1] % 64 + 1


def test_ids_are_bounded_in_number(rig: Rig) -> None:
    rig = Rig(rig.client, limits=Limits(log_lines=50))
    for _ in range(80):
        invalidate(rig, EVERYTHING)
    assert rig.client("ZCARD", rig.book.ids) == 51, "those before it, and it"


def test_rule_18_the_oldest_marks_fold_into_wider_ones(rig: Rig) -> None:
    rig = Rig(rig.client, limits=Limits(max_marks=3))
    red = invalidate(rig, Scope.of_tag("red")).stamp
    rig.put(KEY, red, tags=(BLUE,))
    for name in ("f1", "f2"):
        invalidate(rig, Scope.of_function(name))
    assert parse_resync(rig.resync()).tagfloor == 0
    invalidate(rig, Scope.of_function("f3"))
    got = parse_resync(rig.resync())
    assert (got.tagfloor, got.everything) == (red, 0)
    assert len(members(rig)) == 3
    assert parse_lease(rig.peek(IT, least=0)).status == "entry"
    rig.put(KEY, red - 1, tags=(BLUE,))
    assert parse_lease(rig.peek(IT, least=0)).status == "miss", "below the floor, whatever its tags"
    rig.put(KEY, red - 1)
    assert parse_lease(rig.peek(IT, least=0)).status == "entry", "without a tag it lives"
    assert parse_lease(rig.peek(Subject(KEY, "", (BLUE,)), least=0)).status == "miss"
    f1 = members(rig)[Scope.of_function("f1")]
    invalidate(rig, Scope.of_tag("blue"))
    assert parse_resync(rig.resync()).everything == f1, "a function folds into everything"


def test_rule_3_and_5_generations_and_life(rig: Rig) -> None:
    assert (
        parse_resync(rig.resync())
        == parse_resync(rig.resync()).__class__("ok", parse_resync(rig.resync()).now_us, rig.client.replid)
        or parse_resync(rig.resync()).life == ""
    )
    first = invalidate(rig, EVERYTHING)
    got = parse_resync(rig.resync())
    assert got.gens == ((first.replid, 0),)
    assert (got.tip, got.everything, got.last, got.life) == (
        first.stamp, first.stamp, first.log_id, "feedfeedfeedfeed",
    )  # fmt: skip
    # Another life of these data: the next write names it first, with the tip that it starts from.
    rig.client("HSET", rig.book.state, "gens", ",".join(f"{n:040x}:{n}" for n in range(1, 33)))
    rig.commands = type(rig.commands)(rig.book, Limits(), lambda: "0123456789abcdef")
    second = invalidate(rig, EVERYTHING)
    got = parse_resync(rig.resync())
    assert len(got.gens) == 32
    assert got.gens[0] == (f"{2:040x}", 2), "the newest 32"
    assert got.gens[-1] == (second.replid, first.stamp)
    assert got.life == "feedfeedfeedfeed", "life is written only when the hash is created"
    assert log(rig)[-1].generation == second.replid


def test_rule_5_resync_raises_the_tip_and_names_the_generation(rig: Rig) -> None:
    got = parse_resync(rig.resync(newest=FAR))
    first = got.tip
    assert FAR + LEAP / 4 <= first < FAR + LEAP / 2
    assert (got.everything, got.gens, got.last) == (first, ((got.replid, 0),), "0-0")
    rig.client("HSET", rig.book.state, "gens", "abc:7")
    got = parse_resync(rig.resync(newest=first + 9))
    assert (got.tip, got.gens) == (first + LEAP, (("abc", 7), (got.replid, first)))
    rig.client("HSET", rig.book.state, "gens", "abc:7")
    known = FAR + 4 * LEAP  # of a life that is not known here: that of this caller is outdated (rule 18)
    got = parse_resync(rig.resync(newest=known))
    assert (got.tip, got.everything, got.gens[-1]) == (known + 1, known + 1, (got.replid, first + LEAP))
    rig.client("HSET", rig.book.state, "gens", "abc:7")
    got = parse_resync(rig.resync())
    assert (got.tip, got.gens[-1]) == (known + 1 + LEAP, (got.replid, known + 1))


def test_rule_1_a_life_is_begun_above_the_leap_of_a_generation_that_the_caller_may_not_know(rig: Rig) -> None:
    invalidate(rig, Scope.of_key(KEY))
    rig.client("HSET", rig.book.state, "gens", "abc:7", "tip", str(FAR))
    lost = invalidate(rig, Scope.of_key(KEY)).stamp
    assert lost > FAR + LEAP
    rig.client("UNLINK", rig.book.state, rig.book.log, rig.book.ids)
    got = parse_resync(rig.resync(replid="", newest=FAR))
    assert FAR + 5 / 4 * LEAP <= got.tip < FAR + 11 / 8 * LEAP
    assert got.everything == got.tip > lost


@pytest.mark.parametrize("tip", [1, FAR])
def test_rule_1_what_a_former_master_goes_on_to_issue_stays_below_the_marks_of_the_present_one(
    rig: Rig, tip: int
) -> None:
    invalidate(rig, Scope.of_key(KEY))
    rig.client("HSET", rig.book.state, "tip", str(tip))  # below its clock, or far above it after a step back
    former = [invalidate(rig, Scope.of_key(KEY)).stamp for _ in range(100)]
    rig.client("HSET", rig.book.state, "tip", str(tip), "gens", f"{'ab' * 20}:0")
    assert invalidate(rig, Scope.of_key(KEY)).stamp > former[-1] + LEAP / 2


@pytest.mark.parametrize("kind", ["valkey", "redis62"])
def test_rule_1_nor_do_they_count_in_step_where_nothing_had_been_invalidated_before(kind: str) -> None:
    with server(kind) as former, server(kind) as promoted:
        one, other = Client(former), Client(promoted)
        other("REPLICAOF", "127.0.0.1", str(former))
        wait_for(lambda: other.info("replication", "master_link_status") == "up")
        other("REPLICAOF", "NO", "ONE")
        stamps = [invalidate(Rig(other), Scope.of_key(KEY)).stamp, invalidate(Rig(one), Scope.of_key(KEY)).stamp]
        assert stamps[0] > stamps[1] + LEAP / 2
        assert stamps[1] <= one.now_us(), "who never followed anybody begins by its clock"
        one.close()
        other.close()


def test_rule_1_a_mark_after_a_flush_is_above_those_that_the_caller_has_not_heard_of(rig: Rig) -> None:
    invalidate(rig, Scope.of_key(KEY))
    known = invalidate(rig, Scope.of_key(KEY), newest=FAR).stamp
    unheard = invalidate(rig, Scope.of_key("ns:other")).stamp
    for script in ("invalidate", "resync", "set"):
        rig.client("FLUSHALL")  # the clock is far below these stamps, as after a step back
        if script == "invalidate":
            stamp = invalidate(rig, Scope.of_key(KEY), newest=known).stamp
        elif script == "set":
            stamp = write(rig, newest=known).stamp
        else:
            parse_resync(rig.resync(newest=known))
            stamp = invalidate(rig, Scope.of_key(KEY), newest=known).stamp
        assert stamp > unheard, script
    rig.client("FLUSHALL")
    first = invalidate(rig, Scope.of_key(KEY))
    assert first.stamp == first.now_us, "whoever knows no mark begins by the clock"


def test_marks_are_read_in_pages(rig: Rig) -> None:
    rig.restore([(f"f:g{n}", n + 1) for n in range(25)], newest=0)
    found: dict[Scope, int] = {}
    after = 0
    while True:
        page = parse_marks(rig.client(*rig.commands.marks_page(after, count=10)))
        found.update(page)
        if len(page) < 10:
            break
        after = page[-1][1]
    assert found == {Scope.of_function(f"g{n}"): n + 1 for n in range(25)}


def test_many_tags_on_one_entry(rig: Rig) -> None:
    tags = tuple(tag_hash(str(n)) for n in range(255))
    more = tuple(tag_hash(f"m{n}") for n in range(255))
    rig.put(KEY, 0, tags=tags)
    got = parse_lease(rig.peek(Subject(KEY, "", more), least=0))
    assert got.status == "entry"
    assert len(got.marks.tags) == 510
    invalidate(rig, Scope.of_tag("254"))
    assert parse_lease(rig.peek(IT, least=0)).status == "miss"


def test_namespaces_do_not_meet(rig: Rig) -> None:
    other = Rig(rig.client, Bookkeeping("ns2"))
    rig.put(KEY)
    invalidate(other, EVERYTHING)
    assert parse_lease(rig.peek(IT, least=0)).status == "entry"
    assert rig.client("EXISTS", rig.book.state) == 0
