"""The tier inside the process: bounded, timed, and emptied by what it hears."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from evercache.near import Near
from evercache.protocol.envelope import Envelope, pack, unpack
from evercache.protocol.scope import EVERYTHING, Scope


def envelope(payload: bytes = b"x") -> Envelope:
    return unpack(pack(payload=payload))


def test_an_entry_is_there_until_its_time_is_over() -> None:
    near = Near(1 << 20)
    entry = envelope()
    near.put("k", entry, until=10.0)
    assert near.get("k", 9.99) is entry
    assert near.get("k", 10.0) is None
    assert len(near) == 0
    assert near.size == 0
    assert near.get("other", 0.0) is None


def test_rule_8_a_heard_mark_of_the_key_drops_it() -> None:
    near = Near(1 << 20)
    near.put("a", envelope(), 10.0)
    near.put("b", envelope(), 10.0)
    near.hear(Scope.of_key("a"))
    assert near.get("a", 0.0) is None
    assert near.get("b", 0.0) is not None
    near.hear(Scope.of_key("none"))
    near.hear(EVERYTHING)
    assert len(near) == near.size == 0


def test_the_bytes_held_are_counted_and_bounded() -> None:
    near = Near(10_000)
    for n in range(50):
        near.put(str(n), envelope(b"x" * 400), 10.0)
    assert len(near) == 10
    assert near.size == 10_000
    assert near.get("39", 0.0) is None
    assert near.get("40", 0.0) is not None
    for n in range(40, 50):
        near.drop(str(n))
    assert near.size == 0


def test_putting_a_key_anew_counts_it_once() -> None:
    near = Near(10_000)
    near.put("k", envelope(b"x" * 400), 10.0)
    near.put("k", envelope(b"x" * 100), 20.0)
    assert near.size == 700
    assert near.get("k", 15.0) is not None


def test_the_least_recently_used_leaves_first() -> None:
    near = Near(8_000)
    for name in "abcdefghij":
        near.put(name, envelope(b"x" * 200), 10.0)
    near.get("a", 0.0)
    near.put("k", envelope(b"x" * 200), 10.0)
    assert near.get("a", 0.0) is not None
    assert near.get("b", 0.0) is None


def test_what_would_push_out_much_is_not_kept_and_ends_its_predecessor() -> None:
    near = Near(8_000)
    near.put("k", envelope(b"x"), 10.0)
    near.put("k", envelope(b"x" * 401), 10.0)
    assert len(near) == 0
    near.put("k", envelope(b"x" * 400), 10.0)
    assert len(near) == 1


def test_the_estimate_is_no_less_than_what_python_takes() -> None:
    near = Near(100 << 20)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(2000):
        near.put(f"evercache:f:app.views.function({n})", envelope(b"%d" % n * 50), 10.0)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.5 * near.size <= taken <= 1.1 * near.size


def test_a_value_that_is_kept_ready_is_counted_and_found_by_its_arguments() -> None:
    near = Near(100_000)
    near.put("k", envelope(b"x" * 400), 10.0)
    entry = near.look("k")
    assert entry is not None
    assert near.keep_copy(entry, dict, 2_000, "f")
    assert near.keep_copy(entry, list, 2_000, "f")
    assert entry.copy is dict, "made once"
    assert near.by_arguments(("f", 7)) is None
    near.name(entry, ("f", 7))
    assert near.by_arguments(("f", 7)) is entry
    assert near.size == 1000 + 2000 + 300
    near.hear(Scope.of_key("k"))
    assert near.by_arguments(("f", 7)) is near.look("k") is None
    assert entry.version == -1, "who still holds it finds it outdated"
    assert near.size == 0
    near.name(entry, ("f", 7))
    near.keep_copy(entry, dict, 1, "f")
    assert near.by_arguments(("f", 7)) is None
    assert near.size == 0


def test_a_copy_that_would_take_too_much_is_not_kept() -> None:
    near = Near(16_000)
    for name in "abc":
        near.put(name, envelope(b"x" * 400), 10.0)
    entry = near.look("b")
    assert entry is not None
    assert not near.keep_copy(entry, dict, 1_500, "f")
    assert near.look("b") is entry
    assert near.size == 3_000
    assert near.keep_copy(entry, dict, 0, "f")


def test_long_arguments_are_counted() -> None:
    near = Near(100_000)
    for number in range(20):
        near.put(str(number), envelope(b"x" * 400), 10.0)
        entry = near.look(str(number))
        assert entry is not None
        near.name(entry, ("f", str(number) * 20_000))
    assert 20_000 < near.size <= 100_000
    assert len(near) < 5


def test_sieve_spares_what_was_visited_once() -> None:
    near = Near(8_000)
    for name in "abcdefghij":
        near.put(name, envelope(b"x" * 200), 10.0)
    for name in "ace":
        near.get(name, 0.0)
    for name in "klm":  # b, d and f leave
        near.put(name, envelope(b"x" * 200), 10.0)
    assert [name for name in "abcdefghijklm" if near.look(name)] == list("aceghijklm")
    for name in "nopqrstu":
        near.put(name, envelope(b"x" * 200), 10.0)
    assert near.size == 8_000
    assert len(near) == 10


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "drop", "name", "copy", "clear"]), st.integers(0, 9))))
def test_the_chain_and_the_count_hold_whatever_comes(steps: list[tuple[str, int]]) -> None:
    near = Near(5_000)
    for step, number in steps:
        key = str(number)
        entry = near.look(key)
        match step:
            case "put":
                near.put(key, envelope(b"x" * 10 * number), 10.0)
            case "get":
                near.get(key, float(number))
            case "drop":
                near.drop(key)
            case "name" if entry is not None:
                near.name(entry, (number,))
            case "copy" if entry is not None:
                near.keep_copy(entry, dict, 100 * number, "f")
            case "clear" if number == 0:
                near.clear()
        chain, entry = [], near._oldest
        while entry is not None:
            chain.append(entry)
            entry = entry.newer
        assert [e.key for e in chain] == list(near._entries)
        assert sum(e.cost for e in chain) == near.size <= 5_000
        assert sum(e.arguments is not None for e in chain) == len(near._by_arguments)
        assert near._hand is None or near._hand in chain


def test_repr() -> None:
    near = Near(1000)
    assert repr(near) == "<Near entries=0 bytes=0 of 1000>"
