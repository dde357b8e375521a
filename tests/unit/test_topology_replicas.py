"""The hot path's choice: table, breaker and balance together, from many threads."""

from __future__ import annotations

import random
from math import inf

import pytest

from evercache.protocol.caught import NEVER, Standing
from evercache.protocol.types import Address
from evercache.topology import ReplicaSet

A, B = Address("a"), Address("b")


@pytest.fixture
def both() -> ReplicaSet:
    replicas = ReplicaSet(random.Random(5).random)
    replicas.keep([A, B])
    for replica in replicas.members:
        replica.standing = Standing(replica.address, caught=100.0, run_id="run", link_up=True, received=100.0)
    return replicas


def chosen(replicas: ReplicaSet, tau: float = 50.0, now: float = 101.0, lag: float = 10.0) -> set[Address]:
    found = (replicas.choose(tau, now, lag) for _ in range(60))
    return {r.address for r in found if r is not None}


def test_new_members_are_not_chosen_before_they_are_verified() -> None:
    replicas = ReplicaSet()
    assert replicas.choose(0.0, 1.0, 10.0) is None
    replicas.keep([A])
    assert replicas.choose(0.0, 1.0, 10.0) is None
    assert replicas.choose(-inf, 1.0, inf) is None, "it has never answered"


def test_without_a_link_only_where_no_master_is(both: ReplicaSet) -> None:
    for replica in both.members:
        replica.standing = Standing(replica.address, caught=100.0, run_id="run", received=100.0)
    assert both.choose(50.0, 101.0, 10.0) is None
    assert both.choose(50.0, 101.0, 10.0, unlinked=True) is not None
    assert both.choose(50.0, 111.0, 10.0, unlinked=True) is None


def test_tau_and_the_lag_bound_decide(both: ReplicaSet) -> None:
    assert chosen(both) == {A, B}
    assert chosen(both, tau=100.0) == {A, B}
    assert chosen(both, tau=100.1) == set()
    assert chosen(both, now=110.1) == set()
    both.members[0].standing = Standing(A, caught=NEVER, run_id="run")
    assert chosen(both) == {B}


def test_exclude_is_not_chosen(both: ReplicaSet) -> None:
    assert {both.choose(50.0, 101.0, 10.0, exclude=A).address for _ in range(20)} == {B}  # type: ignore[union-attr]


def test_a_failure_ejects_at_once_and_calls_the_monitor_once(both: ReplicaSet) -> None:
    calls: list[int] = []
    both.on_failure = lambda: calls.append(1)
    for _ in range(5):
        both.members[0].fail(101.0)
    assert calls == [1]
    assert chosen(both) == {B}
    assert not both.members[0].probe(101.01)
    assert both.members[0].probe(102.0)
    both.members[0].probed(102.0, 102.1, answered=True)
    assert chosen(both) == {A, B}


def test_another_master_unverifies_all_but_remembers_the_processes(both: ReplicaSet) -> None:
    both.unverify()
    assert chosen(both) == set()
    assert chosen(both, tau=-inf, lag=inf) == {A, B}, "for the time without a master"
    both.members[0].standing = Standing(A, run_id="run", loading=True)
    assert chosen(both, tau=-inf, lag=inf) == {B}


def test_members_that_stay_keep_their_scores(both: ReplicaSet) -> None:
    both.members[1].record(0.5, 101.0)
    kept = both.members[1]
    both.keep([B])
    assert both.members == (kept,)
    assert both.get(A) is None
    assert "500.000 ms" in repr(both)
