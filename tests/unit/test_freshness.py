"""The one rule of freshness, and what a process keeps of the marks it heard (rules 1, 6, 8, 16, 18)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.steps import before_each_step, interrupted

from evercache.protocol.freshness import Marks
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

A, B = tag_hash("a"), tag_hash("b")
ONE = Subject("ns:1", "app.f", (A,))


def heard(*marks: tuple[Scope, int], limit: int = 100) -> Marks:
    known = Marks(limit=limit)
    for when, (scope, stamp) in enumerate(marks):
        known.hear(scope, stamp, float(when))
    return known


@pytest.mark.parametrize(
    "scope", [Scope.of_key("ns:1"), Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING], ids=str
)
def test_a_value_is_fresh_from_the_stamp_of_the_mark_on(scope: Scope) -> None:
    marks = heard((scope, 10), (Scope.of_key("ns:other"), 20))
    assert not marks.fresh(9, ONE)
    assert marks.fresh(10, ONE)
    assert marks.need(ONE) == 10


@pytest.mark.parametrize("scope", [Scope.of_key("ns:2"), Scope.of_function("app.g"), Scope.of_tag("b")], ids=str)
def test_marks_of_others_do_not_count(scope: Scope) -> None:
    marks = heard((scope, 10))
    assert marks.fresh(0, ONE)
    assert marks.need(ONE) == 0


def test_the_newest_of_the_covering_marks_is_needed() -> None:
    scopes = [EVERYTHING, Scope.of_key("ns:1"), Scope.of_function("app.f"), Scope.of_tag("a")]
    for last in range(4):
        order = scopes[last + 1 :] + scopes[: last + 1]
        marks = heard(*((scope, stamp) for stamp, scope in enumerate(order, 1)))
        assert marks.need(ONE) == 4
        assert not marks.fresh(3, ONE)


def test_a_key_without_a_function_is_not_covered_by_the_mark_of_no_function() -> None:
    marks = heard((Scope.of_function(""), 10))
    assert marks.need(Subject("ns:1")) == 0


def test_rule_16_tags_of_the_envelope_count_as_well() -> None:
    marks = heard((Scope.of_tag("b"), 10))
    assert marks.fresh(9, ONE)
    assert not marks.fresh(9, ONE, [B])
    assert marks.need(ONE, [B]) == 10
    assert not marks.joinable(9, ONE, [B])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Scope.of_key("ns:1"), Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING]),
            st.integers(1, 50),
        )
    ),
    st.randoms(),
)
def test_marks_merge_by_maximum_in_any_order_and_number(marks: list[tuple[Scope, int]], rng: object) -> None:
    once = heard(*marks)
    again = [*marks, *marks]
    rng.shuffle(again)  # type: ignore[attr-defined]
    other = heard(*again)
    newest = max((stamp for _, stamp in marks), default=0)
    assert once.need(ONE) == other.need(ONE) == once.newest == other.newest == newest


def test_an_unknown_kind_of_a_later_version_covers_everything() -> None:
    marks = heard((Scope("zone", "eu"), 10))
    assert marks.everything == 10
    assert not marks.fresh(9, Subject("ns:any"))


def test_an_older_mark_never_lowers() -> None:
    for scope in (Scope.of_key("ns:1"), Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING):
        marks = heard((scope, 10), (scope, 5))
        assert marks.need(ONE) == 10
        assert marks.newest == 10


# -- what is forgotten


def test_rule_18_folded_tag_marks_outdate_every_tagged_entry() -> None:
    marks = heard(*((Scope.of_tag(f"t{n}"), n) for n in range(1, 5)), limit=3)
    assert marks.tag_floor == 1
    assert len(marks.tags) == 3
    assert not marks.fresh(0, ONE)
    assert marks.need(ONE) == 1
    assert marks.fresh(0, Subject("ns:1", "app.f"))
    assert not marks.fresh(0, Subject("ns:1"), [B])
    assert not marks.joinable(0, Subject("ns:1"))


def test_rule_18_the_tag_mark_that_leaves_is_the_one_heard_longest_ago() -> None:
    marks = heard(
        (Scope.of_tag("a"), 1), (Scope.of_tag("b"), 2), (Scope.of_tag("a"), 3), (Scope.of_tag("c"), 4), limit=2
    )
    assert marks.tag_floor == 2
    assert set(marks.tags) == {A, tag_hash("c")}


def test_rule_18_folded_function_marks_outdate_everything() -> None:
    marks = heard(*((Scope.of_function(f"f{n}"), n) for n in (3, 1, 2)), limit=2)
    assert marks.everything == 1
    assert set(marks.functions) == {"f3", "f2"}


def test_rule_6_a_dropped_key_mark_raises_the_horizon() -> None:
    marks = heard((Scope.of_key("ns:1"), 10))
    marks.expire_keys(5.0, keep=5.0)
    assert marks.keys  # exactly as old as allowed
    marks.expire_keys(5.1, keep=5.0)
    assert not marks.keys
    assert marks.horizon == 10
    assert marks.holds(9, 10, ONE)  # for what a server says: no replica that serves is so far behind
    assert not marks.holds(9, 9, ONE)  # unless it was asked before (rule 7)
    assert marks.holds(10, 9, ONE)
    assert not marks.joinable(9, ONE)
    assert marks.joinable(10, ONE)
    assert marks.key_floor == 0


def test_key_marks_expire_in_the_order_of_hearing() -> None:
    marks = heard((Scope.of_key("ns:1"), 1), (Scope.of_key("ns:2"), 2), (Scope.of_key("ns:1"), 3))
    marks.expire_keys(6.5, keep=5.0)
    assert list(marks.keys) == ["ns:1"]
    assert marks.horizon == 2


def test_key_marks_dropped_for_want_of_room_raise_the_floor_of_replicas() -> None:
    marks = heard((Scope.of_key("ns:1"), 1), (Scope.of_key("ns:2"), 2), (Scope.of_key("ns:3"), 3), limit=2)
    assert list(marks.keys) == ["ns:2", "ns:3"]
    assert marks.key_floor == marks.horizon == 1
    assert not marks.joinable(0, Subject("ns:9"))


# -- readers take no lock


#: What is heard before, and what then takes away a mark of stamp 10 that covers `ONE`.
CHANGES: dict[str, tuple[Scope, Callable[[Marks], None]]] = {
    "a key is heard again": (Scope.of_key("ns:1"), lambda marks: marks.hear(Scope.of_key("ns:1"), 10, 0.0)),
    "a key has no room": (Scope.of_key("ns:1"), lambda marks: marks.hear(Scope.of_key("ns:2"), 20, 0.0)),
    "a key is forgotten": (Scope.of_key("ns:1"), lambda marks: marks.expire_keys(100.0, keep=5.0)),
    "a tag is heard again": (Scope.of_tag("a"), lambda marks: marks.hear(Scope.of_tag("a"), 11, 0.0)),
    "a tag has no room": (Scope.of_tag("a"), lambda marks: marks.hear(Scope.of_tag("c"), 20, 0.0)),
    "a function has no room": (
        Scope.of_function("app.f"),
        lambda marks: marks.hear(Scope.of_function("x"), 20, 0.0),
    ),
}


def _knows_ten(scope: Scope) -> Marks:
    return heard((scope, 10), limit=1)


@pytest.mark.parametrize("name", CHANGES)
def test_rule_7_a_mark_is_never_missing_while_marks_change(name: str) -> None:
    scope, change = CHANGES[name]
    marks = _knows_ten(scope)
    seen: list[bool] = []
    before_each_step(lambda: change(marks), lambda: seen.append(marks.holds(9, 0, ONE)))
    assert len(seen) > 5
    assert not any(seen)
    assert not marks.holds(9, 0, ONE)


@pytest.mark.parametrize("name", CHANGES)
def test_rule_7_a_mark_is_not_missed_by_a_reader_that_is_interrupted(name: str) -> None:
    scope, change = CHANGES[name]

    def make() -> tuple[Callable[[], bool], Callable[[], None]]:
        marks = _knows_ten(scope)
        return lambda: marks.holds(9, 0, ONE), lambda: change(marks)

    found = interrupted(make)
    assert len(found) > 5
    assert not any(found)


# -- what the master says of its own marks


def test_rule_2_marks_learnt_with_an_answer_count_like_heard_ones() -> None:
    marks = Marks()
    marks.learn(ONE, tip=9, everything=1, function=2, tag_floor=3, tags=[(A, 4), (B, 5)])
    assert (marks.newest, marks.everything, marks.tag_floor) == (9, 1, 3)
    assert marks.need(ONE) == 4
    assert marks.need(Subject("x", "app.f")) == 2
    assert marks.need(ONE, [B]) == 5
    marks.learn(ONE, tip=8, everything=0, function=1, tag_floor=0, tags=[(A, 1)])
    assert (marks.newest, marks.everything, marks.tag_floor) == (9, 1, 3)
    assert marks.need(ONE) == 4


@pytest.mark.parametrize("name", ["tip", "everything", "function", "tag_floor", "tags"])
def test_rule_2_the_newest_of_all_that_is_learnt_is_known(name: str) -> None:
    known = {"tip": 1, "everything": 1, "function": 1, "tag_floor": 1, "tags": [(A, 1)]}
    marks = Marks()
    marks.learn(ONE, **known | {name: [(A, 7)] if name == "tags" else 7})  # type: ignore[arg-type]
    assert marks.newest == 7


def test_rule_18_marks_are_given_back_with_their_stamps() -> None:
    marks = heard((Scope.of_function("f"), 1), (Scope.of_tag("a"), 2), (Scope.of_key("k"), 3), (EVERYTHING, 4))
    assert dict(marks.scopes()) == {Scope.of_function("f"): 1, Scope.of_tag("a"): 2, EVERYTHING: 4}
    assert "newest=4" in repr(marks)


# -- scopes


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (Scope.of_key("ns:1"), True),
        (Scope.of_key("ns:2"), False),
        (Scope.of_function("app.f"), True),
        (Scope.of_function("app.g"), False),
        (Scope.of_tag("a"), True),
        (Scope.of_tag("b"), False),
        (EVERYTHING, True),
        (Scope("zone", "eu"), True),  # a kind of a later version: too wide is safe
        (Scope.of_key("app.f"), False),
        (Scope.of_function("ns:1"), False),
    ],
    ids=str,
)
def test_what_a_scope_covers(scope: Scope, covered: bool) -> None:
    assert scope.covers(ONE) is covered


def test_the_hash_of_a_tag_is_the_same_in_every_process_and_version() -> None:
    assert tag_hash("a").hex() == "40f89e395b66422f"
    assert Scope.of_tag("a").name == "40f89e395b66422f"
