"""What is kept for a moment while no server can be reached."""

from __future__ import annotations

import pytest

from evercache.near import Gutter
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

ONE = Subject("ns:1", "app.f", (tag_hash("a"),))


def test_an_outcome_is_there_for_the_gutters_time() -> None:
    gutter: Gutter[str] = Gutter(seconds=1.5)
    gutter.put(ONE, "value", now=10.0)
    assert gutter.get("ns:1", 11.49) == "value"
    assert gutter.get("ns:1", 11.5) is None
    assert repr(gutter) == "<Gutter entries=0 seconds=1.5>"


@pytest.mark.parametrize(
    ("scope", "drops"),
    [
        (Scope.of_key("ns:1"), True),
        (Scope.of_function("app.f"), True),
        (Scope.of_tag("a"), True),
        (EVERYTHING, True),
        (Scope.of_key("ns:2"), False),
        (Scope.of_function("app.g"), False),
        (Scope.of_tag("b"), False),
    ],
    ids=str,
)
def test_an_invalidation_drops_what_it_covers(scope: Scope, drops: bool) -> None:
    gutter: Gutter[str] = Gutter(seconds=1.5)
    gutter.put(ONE, "value", now=0.0)
    gutter.hear(scope)
    assert (gutter.get("ns:1", 0.0) is None) is drops


def test_no_more_than_its_limit_the_oldest_leaves() -> None:
    gutter: Gutter[int] = Gutter(seconds=1.5, limit=2)
    for n in (1, 2, 1, 3):
        gutter.put(Subject(f"ns:{n}"), n, now=0.0)
    assert [gutter.get(f"ns:{n}", 0.0) for n in (1, 2, 3)] == [1, None, 3]
    gutter.clear()
    assert gutter.get("ns:1", 0.0) is None


def test_a_gutter_of_no_time_keeps_nothing() -> None:
    gutter: Gutter[int] = Gutter(seconds=0.0)
    gutter.put(ONE, 1, now=0.0)
    assert gutter.get("ns:1", 0.0) is None
