"""Decisions around the right to compute (rule 13) and early refresh (XFetch)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.protocol.lease import (
    LEASE,
    RENEW_EVERY,
    Waiting,
    lease_after_starvation,
    refresh_early,
    wait_limit,
)


def test_rule_13_a_lease_outlives_two_lost_renewals() -> None:
    assert LEASE == 1.0
    assert 3 * RENEW_EVERY < LEASE


@pytest.mark.parametrize(("compute", "lease"), [(0.1, 1.0), (0.5, 1.0), (0.6, 1.2), (40.0, 80.0)])
def test_rule_13_a_function_that_holds_the_interpreter_gets_twice_its_time(compute: float, lease: float) -> None:
    assert lease_after_starvation(compute) == lease


@pytest.mark.parametrize(("usual", "limit"), [(0.0, 300.0), (0.01, 1.0), (0.5, 1.5), (10.0, 30.0), (200.0, 300.0)])
def test_rule_13_waiters_wait_three_times_the_usual_time(usual: float, limit: float) -> None:
    assert wait_limit(usual, 300.0) == limit


def test_a_question_comes_at_the_expected_end() -> None:
    pause = Waiting().pause(lease_left=0.9, elapsed=0.10, expected=0.13, draw=0.0)
    assert pause == pytest.approx(0.03)


def test_before_the_expected_end_the_pace_does_not_grow() -> None:
    waiting = Waiting()
    for _ in range(20):
        assert waiting.pause(lease_left=1.0, elapsed=0.0, expected=60.0, draw=0.0) == 0.05
    assert waiting.pause(lease_left=1.0, elapsed=60.0, expected=60.0, draw=0.0) < 0.01


def test_a_killed_holder_is_noticed_when_its_lease_runs_out() -> None:
    pause = Waiting().pause(lease_left=0.02, elapsed=1.0, expected=60.0, draw=0.0)
    assert 0.02 < pause < 0.03


@given(st.floats(0, 0.999), st.integers(1, 40))
def test_questions_come_every_5_to_50_ms_and_grow_rarer(draw: float, times: int) -> None:
    waiting = Waiting()
    pauses = [waiting.pause(lease_left=1.0, elapsed=1.0, expected=0.0, draw=draw) for _ in range(times)]
    assert all(0.005 <= pause <= 0.05 for pause in pauses)
    assert pauses == sorted(pauses)
    assert times < 12 or pauses[-1] >= 0.027


def test_questions_of_many_processes_are_spread() -> None:
    waiting = [Waiting(polls=20) for _ in range(2)]
    low, high = (
        w.pause(lease_left=1, elapsed=1, expected=0, draw=d) for w, d in zip(waiting, (0, 0.99), strict=True)
    )
    assert high - low > 0.02


def test_xfetch_compares_the_time_left_with_a_random_multiple_of_the_compute_time() -> None:
    draw = math.exp(-2)  # -ln = 2
    assert refresh_early(2.0, 1.0, 1.0, draw)
    assert not refresh_early(2.01, 1.0, 1.0, draw)
    assert refresh_early(2.9, 1.0, 1.5, draw)
    assert refresh_early(5.9, 3.0, 1.0, draw)


def test_beta_0_switches_early_refresh_off() -> None:
    assert not refresh_early(0.0, 1.0, 0.0, 0.5)


def test_a_draw_of_1_refreshes_only_what_has_expired() -> None:
    assert not refresh_early(0.001, 1.0, 1.0, 1.0)
    assert refresh_early(0.0, 1.0, 1.0, 1.0)
