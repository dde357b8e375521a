"""When a late read is sent twice, when a call is sent again, and when a dead server is tried again."""

from __future__ import annotations

import random
from math import inf

import pytest

from evercache import Cache
from evercache.errors import ConfigurationError, ConnectionFailed, DeadlineExceeded
from evercache.net.backoff import FIRST, LONGEST, Backoff
from evercache.protocol.balance import (
    ENOUGH,
    HEDGES_SAVED,
    RETRIES_A_SECOND,
    RETRIES_SAVED,
    RETRY_SHARE,
    SOONEST,
    WINDOW,
    Hedges,
    Retries,
)


def test_nothing_is_late_before_enough_reads_are_known() -> None:
    hedges = Hedges(0.05)
    for _ in range(ENOUGH - 1):
        hedges.record(0.01)
        assert hedges.delay == inf
    hedges.record(0.01)
    assert hedges.delay == 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_delay_is_the_95th_percentile(seed: int) -> None:
    rng = random.Random(seed)
    hedges = Hedges(0.05)
    latencies = [0.01 * rng.lognormvariate(0, 1) for _ in range(10 * WINDOW)]
    for latency in latencies:
        hedges.record(latency)
    late = sum(latency > hedges.delay for latency in latencies)
    assert 0.02 <= late / len(latencies) <= 0.10


def test_old_reads_are_forgotten() -> None:
    hedges = Hedges(0.05)
    for _ in range(WINDOW):
        hedges.record(0.1)
    for _ in range(WINDOW):
        hedges.record(0.02)
    assert hedges.delay == 0.02


def test_no_read_is_late_at_once() -> None:
    hedges = Hedges(0.05)
    for _ in range(WINDOW):
        hedges.record(0.00005)
    assert hedges.delay == SOONEST


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_hedges_stay_within_their_share(share: float) -> None:
    hedges = Hedges(share)
    sent = 0
    for read in range(1, 5001):
        hedges.record(0.01)
        sent += hedges.take()
        assert sent <= read * share
    assert sent >= 5000 * share - 1


def test_few_hedges_are_saved_up() -> None:
    hedges = Hedges(0.05)
    for _ in range(10_000):
        hedges.record(0.01)
    assert hedges.saved == HEDGES_SAVED
    assert sum(hedges.take() for _ in range(1000)) == HEDGES_SAVED
    for _ in range(20):
        hedges.record(0.01)
    assert hedges.take()
    assert not hedges.take()


def test_without_a_share_nothing_is_hedged() -> None:
    hedges = Hedges(0)
    for _ in range(1000):
        hedges.record(0.01)
    assert hedges.delay == inf
    assert not hedges.take()


@pytest.mark.parametrize("wrong", [-0.01, 1.5, float("nan"), True, "0.05", None])
def test_a_wrong_share_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="hedge"):
        Cache("memory://", hedge=wrong)  # type: ignore[arg-type]


def test_retries_are_a_share_of_the_calls() -> None:
    retries = Retries(0.0)
    assert sum(retries.take(0.0) for _ in range(1000)) == RETRIES_SAVED
    retries.calls += 100
    assert sum(retries.take(0.0) for _ in range(1000)) == 100 * RETRY_SHARE


def test_a_few_retries_come_back_each_second() -> None:
    retries = Retries(5.0)
    while retries.take(5.0):
        pass
    assert sum(retries.take(7.0) for _ in range(1000)) == 2 * RETRIES_A_SECOND
    assert sum(retries.take(1e6) for _ in range(1000)) == RETRIES_SAVED
    assert not retries.take(1e6 - 5.0), "a clock that goes back gives nothing"


def _backoff() -> Backoff:
    return Backoff(lambda: 1.0)


def test_one_failure_stops_nobody() -> None:
    backoff = _backoff()
    backoff.failed(ConnectionFailed("refused"), 10.0)
    assert backoff.check(10.0, 10.1) == 0.0


def test_the_second_failure_stops_the_rest_and_one_tries_later() -> None:
    backoff = _backoff()
    backoff.failed(ConnectionFailed("refused"), 10.0)
    backoff.failed(ConnectionFailed("refused again"), 10.0)
    with pytest.raises(ConnectionFailed, match="again"):
        backoff.check(10.0 + FIRST / 2, 10.05)
    assert 0 < backoff.check(10.0 + FIRST / 2, 20.0) <= FIRST, "who has time waits"
    later = 10.0 + FIRST + 0.0001
    assert backoff.check(later, later + 0.05) == 0.0
    with pytest.raises(ConnectionFailed):  # one tries already
        backoff.check(later, later + 0.05)
    backoff.clear()
    assert backoff.check(later, later + 0.05) == 0.0


def test_the_pause_doubles_up_to_a_bound() -> None:
    backoff = _backoff()
    now, pauses = 0.0, []
    for _ in range(12):
        while pause := backoff.check(now, inf):
            now += pause
        backoff.failed(DeadlineExceeded("silent"), now)
        pauses.append(backoff.check(now, inf))
    assert pauses[1] == 0.0 or pauses[1] <= FIRST
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST)


def test_many_failures_at_once_count_once() -> None:
    backoff = _backoff()
    for _ in range(1000):
        backoff.failed(ConnectionFailed("refused"), 3.0)
    assert backoff.check(3.0, inf) == pytest.approx(FIRST)


def test_the_pauses_differ_from_process_to_process() -> None:
    rng = random.Random(3)
    pauses = set()
    for _ in range(10):
        backoff = Backoff(rng.random)
        for _ in range(2):
            backoff.failed(ConnectionFailed("refused"), 0.0)
        pauses.add(backoff.check(0.0, inf))
    assert len(pauses) == 10
    assert all(FIRST / 2 <= pause <= FIRST for pause in pauses)
