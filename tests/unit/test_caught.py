"""Rule 7: which replica serves, and rule 20: when the journal may forget."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.protocol.caught import MAX_TARGETS, NEVER, ReplicaTable
from evercache.protocol.types import Address

R, S = Address("r", 1), Address("s", 2)


def answer(table: ReplicaTable, offset: int, address: Address = R, **changes: object) -> None:
    fields: dict[str, object] = {
        "role": "slave",
        "link_up": True,
        "loading": False,
        "replid": "g1",
        "offset": offset,
        "run_id": "run",
        "received": 0.0,
    }
    table.replica_answer(address, **(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def table() -> ReplicaTable:
    table = ReplicaTable([R, S])
    table.master_answer(1.0, "g1", 100)
    return table


def test_caught_is_the_time_of_sending_the_masters_question(table: ReplicaTable) -> None:
    answer(table, 100, received=1.7)
    assert table.caught(R) == 1.0
    assert table.caught(S) == NEVER


def test_a_lagging_replica_reaches_pending_targets_one_by_one(table: ReplicaTable) -> None:
    table.master_answer(2.0, "g1", 200)
    table.master_answer(3.0, "g1", 300)
    answer(table, 99)
    assert table.caught(R) == NEVER
    answer(table, 150)
    assert table.caught(R) == 1.0
    answer(table, 299)
    assert table.caught(R) == 2.0
    answer(table, 301)
    assert table.caught(R) == 3.0


def test_an_idle_master_gives_ever_newer_targets(table: ReplicaTable) -> None:
    table.master_answer(5.0, "g1", 100)
    answer(table, 100)
    assert table.caught(R) == 5.0


def test_an_overtaken_answer_of_the_master_is_ignored(table: ReplicaTable) -> None:
    table.master_answer(2.0, "g1", 200)
    table.master_answer(1.5, "g1", 150)
    answer(table, 150)
    assert table.caught(R) == 1.0


@pytest.mark.parametrize("change", [{"role": "master"}, {"loading": True}, {"replid": "g2"}, {"replid": ""}])
def test_an_unsound_replica_is_unverified_until_it_is_sound(table: ReplicaTable, change: dict[str, object]) -> None:
    answer(table, 100)
    answer(table, 100, **change)
    assert table.caught(R) == NEVER
    answer(table, 100)
    assert table.caught(R) == 1.0


def test_a_broken_link_takes_nothing_away_but_keeps_reads_off(table: ReplicaTable) -> None:
    answer(table, 100)
    table.master_answer(2.0, "g1", 100)
    answer(table, 100, link_up=False)
    assert table.caught(R) == 1.0
    assert not table.admitted(R, 0.0, 2.0, 10.0)
    answer(table, 100)
    assert table.caught(R) == 2.0
    assert table.admitted(R, 0.0, 2.0, 10.0)


def test_a_replica_that_went_back_is_unverified(table: ReplicaTable) -> None:
    answer(table, 120)
    answer(table, 90)
    assert table.caught(R) == NEVER


def test_a_failed_replica_is_verified_again_by_its_own_words_only(table: ReplicaTable) -> None:
    answer(table, 100)
    table.failed(R)
    table.master_answer(2.0, "g1", 100)
    assert not table.admitted(R, -1e9, 2.0, 10.0)
    answer(table, 100)
    assert table.caught(R) == 2.0


def test_a_failed_replica_is_verified_again_without_its_link(table: ReplicaTable) -> None:
    """While the master is dead no replica has one; but a new process must follow the master first."""
    answer(table, 100)
    table.failed(R)
    answer(table, 100, link_up=False, run_id="another")
    assert table.caught(R) == NEVER
    table.failed(R)
    answer(table, 100)
    table.failed(R)
    answer(table, 99, link_up=False)
    assert table.caught(R) == NEVER
    table.failed(R)
    answer(table, 100, link_up=False)
    assert table.caught(R) == 1.0


def test_a_restarted_replica_does_not_inherit(table: ReplicaTable) -> None:
    answer(table, 100)
    answer(table, 40, run_id="another")
    assert table.caught(R) == NEVER
    assert table.run_id(R) == "another"


def test_another_generation_of_the_master_resets_all(table: ReplicaTable) -> None:
    answer(table, 100)
    table.master_answer(2.0, "g2", 50)
    assert table.caught(R) == NEVER
    answer(table, 1000)  # still of the old generation
    assert table.caught(R) == NEVER
    answer(table, 50, replid="g2")
    assert table.caught(R) == 2.0


def test_admitted_needs_tau_and_the_lag_bound(table: ReplicaTable) -> None:
    answer(table, 100)
    assert table.admitted(R, 1.0, 11.0, 10.0)
    assert not table.admitted(R, 1.001, 1.1, 10.0)
    assert not table.admitted(R, 0.5, 11.01, 10.0)


def test_lag_for_people(table: ReplicaTable) -> None:
    assert table.lag_seconds(R, 4.0) == inf
    answer(table, 100)
    assert table.lag_seconds(R, 4.0) == 0.0
    table.master_answer(3.0, "g1", 200)
    assert table.lag_seconds(R, 4.0) == 3.0


def test_the_targets_are_bounded(table: ReplicaTable) -> None:
    for i in range(3 * MAX_TARGETS):
        table.master_answer(2.0 + i, "g1", 200 + i)
    answer(table, 200 + 3 * MAX_TARGETS - 1)
    assert table.caught(R) == 2.0 + 3 * MAX_TARGETS - 1
    assert len(table._sent) <= MAX_TARGETS


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), st.booleans()), min_size=1, max_size=60),
)
def test_caught_never_promises_what_the_replica_lacks(steps: list[tuple[int, int, bool]]) -> None:
    """Against a plain model: all that the master had when the question was sent has reached the replica."""
    table = ReplicaTable([R])
    written, history, applied = 0, {0.0: 0}, 0
    for now, (grow, apply, ask_master) in enumerate(steps, start=1):
        history[float(now)] = written  # what the master has at the time of sending
        written += grow  # more is written before it answers
        if ask_master:
            table.master_answer(float(now), "g1", written)
        applied = min(written, applied + apply)
        answer(table, applied)
        caught = table.caught(R)
        if caught != NEVER:
            assert applied >= history[caught]
