"""What the scripts and the log answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.errors import ProtocolError, ReadOnly
from evercache.protocol import replies as r
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

RED = tag_hash("red")
HEAD = [123, b"ab12"]
MARKS = [9, 1, 2, 3]
TAGS = [RED.hex().encode(), 4]
KNOWN = r.KnownMarks(9, 1, 2, 3, ((RED, 4),))


def second(parse: Callable[[Any, int], list[Any]]) -> Callable[[Any], Any]:
    return lambda reply: parse(reply, 2)[1]


MANY = ("parse_leases", "parse_stores", "parse_sets", "parse_invalidates")
PARSERS: dict[str, Callable[[Any], Any]] = {
    name: getattr(r, name) for name in r.__all__ if name.startswith("parse_") and name not in MANY
}
PARSERS |= {name: second(getattr(r, name)) for name in MANY}
SCRIPT_PARSERS = {n: p for n, p in PARSERS.items() if n not in ("parse_log", "parse_marks")}


def test_lease() -> None:
    first, wait, miss, entry = r.parse_leases(
        [
            b"ok", *HEAD, *MARKS, [b"lead", 7, b"", *TAGS], [b"wait", 900, 100, 50, b"stale"], [b"miss"],
            [b"entry", b"raw"], b"and a later version says more",
        ],
        4,
    )  # fmt: skip
    assert first == r.LeaseReply("lead", 123, "ab12", KNOWN, stamp=7)
    known = r.KnownMarks(9, 1, 2, 3)
    assert wait == r.LeaseReply("wait", 123, "ab12", known, 0, b"stale", 900, 100, 50)
    assert miss == r.LeaseReply("miss", 123, "ab12", known)
    assert entry == r.LeaseReply("entry", 123, "ab12", known, entry=b"raw")
    assert r.parse_lease([b"ok", *HEAD, *MARKS, [b"held", b"", *TAGS]]) == r.LeaseReply("held", 123, "ab12", KNOWN)


def test_the_others() -> None:
    assert r.parse_renew([b"lost", *HEAD]).status == "lost"
    assert r.parse_store([b"ok", *HEAD, 5]) == r.StoreReply("ok", 123, "ab12", 5)
    assert r.parse_stores([b"ok", *HEAD, 5, b"lease"], 2)[1].reason == "lease"
    obeyed, before = r.parse_invalidates([b"ok", *HEAD, [5, 1, b"1-0"], 9], 2)
    assert obeyed == r.InvalidateReply("ok", 123, "ab12", 5, True, "1-0")
    assert (before.status, before.stamp) == ("dup", 9)
    written, cancelled = r.parse_sets([b"ok", *HEAD, [5, 0, 6], b"cancelled"], 2)
    assert written == r.SetReply("ok", 123, "ab12", 5, False, 6)
    assert cancelled == r.SetReply("cancelled", 123, "ab12")
    assert [reply.status for reply in r.parse_sets([b"late", *HEAD], 2)] == ["late", "late"]
    assert r.parse_touch([b"ok", *HEAD, 5]).soft_expiry_ms == 5
    assert r.parse_incr([b"ok", *HEAD, b"-9007199254740991"]).value == -(2**53) + 1
    assert r.parse_tip([b"ok", *HEAD, 5]) == r.parse_restore([b"ok", *HEAD, 5])
    assert r.parse_sweep([b"ok", *HEAD, 1]).removed
    resync = r.parse_resync([b"ok", *HEAD, 9, 1, 2, b"aa:0,bb:7", b"5-1", b"11fe"])
    assert resync == r.ResyncReply("ok", 123, "ab12", 9, 1, 2, (("aa", 0), ("bb", 7)), "5-1", "11fe")
    assert r.parse_resync([b"ok", *HEAD, 0, 0, 0, b"", b"0-0", b""]).gens == ()


@pytest.mark.parametrize("name", SCRIPT_PARSERS)
def test_another_generation_is_understood_by_all(name: str) -> None:
    got = SCRIPT_PARSERS[name]([b"GEN", *HEAD])
    assert (got.status, got.now_us, got.replid) == ("GEN", 123, "ab12")


@pytest.mark.parametrize("name", PARSERS)
def test_an_error_reply_is_raised(name: str) -> None:
    with pytest.raises(ReadOnly):
        PARSERS[name](ReadOnly("READONLY You can't write against a read only replica."))


@pytest.mark.parametrize("name", SCRIPT_PARSERS)
@pytest.mark.parametrize("reply", [None, [], b"OK", 5, [b"ok"], [b"hm", *HEAD], [b"ok", b"x", b"ab"], {}])
def test_an_impossible_reply_is_a_protocol_error(name: str, reply: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        SCRIPT_PARSERS[name](reply)
    assert caught.value.maybe_run


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("parse_lease", [b"ok", *HEAD, *MARKS]),
        ("parse_lease", [b"ok", *HEAD, *MARKS, [b"lead", 7]]),
        ("parse_lease", [b"ok", *HEAD, *MARKS, [b"entry", 7]]),
        ("parse_lease", [b"ok", *HEAD, *MARKS, [b"hm"]]),
        ("parse_lease", [b"ok", *HEAD, *MARKS, [b"miss", b"aa"]]),
        ("parse_lease", [b"ok", *HEAD, *MARKS, [b"miss", b"xx", 1]]),
        ("parse_lease", [b"ok", *HEAD, 1, None, 3, 4, [b"miss"]]),
        ("parse_store", [b"ok", *HEAD]),
        ("parse_store", [b"ok", *HEAD, None]),
        ("parse_set", [b"ok", *HEAD, b"hm"]),
        ("parse_set", [b"ok", *HEAD, [5, 0]]),
        ("parse_invalidate", [b"ok", *HEAD, [5, 1, None]]),
        ("parse_invalidate", [b"ok", *HEAD, b"dup"]),
        ("parse_resync", [b"ok", *HEAD, 9, 1, 2, b"aa:x", b"5-1", b"11fe"]),
    ],
)
def test_a_reply_that_is_cut_or_odd(name: str, reply: Any) -> None:
    with pytest.raises(ProtocolError):
        PARSERS[name](reply)


shapes = st.recursive(
    st.one_of(st.none(), st.integers(), st.binary(max_size=6), st.sampled_from([b"ok", b"entry", b"lead"])),
    lambda inner: st.one_of(st.lists(inner, max_size=7), st.dictionaries(st.binary(max_size=3), inner, max_size=3)),
    max_leaves=20,
)


@pytest.mark.parametrize("name", PARSERS)
@given(reply=shapes)
def test_no_shape_raises_anything_else(name: str, reply: Any) -> None:
    try:
        PARSERS[name](reply)
    except ProtocolError:
        pass


LINE = [b"v", b"1", b"k", b"k", b"n", b"ns:k", b"s", b"77", b"i", b"ab", b"g", b"ff", b"p", b"0-0"]
PARSED = r.LogLine("5-0", 1, "k", "ns:k", 77, "ab", "ff", "0-0")


def test_the_log_in_both_versions_of_the_wire() -> None:
    assert r.parse_log([[b"ns~log", [[b"5-0", LINE]]]]) == (PARSED,)
    assert r.parse_log({b"ns~log": [[b"5-0", LINE]]}) == (PARSED,)
    pairs = dict(zip(LINE[::2], LINE[1::2], strict=True))
    assert r.parse_log({b"ns~log": [[b"5-0", pairs]]}) == (PARSED,)
    assert r.parse_log(None) == r.parse_log([]) == r.parse_log({}) == ()
    assert PARSED.scope == Scope.of_key("ns:k")


def line(**fields: Any) -> r.LogLine:
    merged = {**dict(zip(LINE[::2], LINE[1::2], strict=True)), **{k.encode(): v for k, v in fields.items()}}
    flat = [word for pair in merged.items() if pair[1] is not None for word in pair]
    return r.parse_log([[b"ns~log", [[b"5-0", flat]]]])[0]


def test_lines_from_the_future() -> None:
    assert line(v=b"2", z=b"what is this") == r.LogLine("5-0", 2, "k", "ns:k", 77, "ab", "ff", "0-0")
    glob = line(k=b"glob", n=b"ns:*")
    assert glob.kind == "glob"
    assert glob.scope.covers(Subject("other:key", "m.f")), "too wide is safe"
    assert line(k=None).scope.covers(Subject("other:key"))


def test_a_tag_that_is_no_hash_covers_everything() -> None:
    assert line(k=b"t", n=RED.hex().encode()).scope == Scope.of_tag("red")
    for name in (b"red", b"", RED.hex().upper().encode()):
        assert line(k=b"t", n=name).scope.covers(Subject("any"))


@pytest.mark.parametrize("fields", [{"s": None}, {"s": b"x"}, {"s": b"-1"}, {"v": b"x"}, {"n": 5}])
def test_a_line_that_cannot_be_read_calls_for_a_resync(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        line(**fields)


@pytest.mark.parametrize("reply", [5, [[b"log"]], [[b"log", [[b"5-0"]]]], [[b"log", [[b"5", LINE]]]], {1: 2}])
def test_a_log_of_another_shape(reply: Any) -> None:
    with pytest.raises(ProtocolError):
        r.parse_log(reply)


def test_a_page_of_marks() -> None:
    tag = f"t:{RED.hex()}".encode()
    want = ((Scope.of_function("m.f"), 2**53 - 1), (Scope.of_tag("red"), 5), (EVERYTHING, 6))
    assert r.parse_marks([b"f:m.f", b"9007199254740991", tag, b"5", b"g:x", b"6"]) == want
    assert r.parse_marks([[b"f:m.f", float(2**53 - 1)], [tag, 5.0], [b"t:x", 6.0]]) == want
    assert r.parse_marks([]) == ()
