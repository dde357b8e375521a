"""The breaker of one endpoint."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evercache.protocol.breaker import Breaker, BreakerPolicy

POLICY = BreakerPolicy(first=0.1, longest=1.0, silent=0.5, memory=5.0)


def test_opens_at_the_first_failure_and_closes_by_a_probe_only() -> None:
    breaker = Breaker(POLICY)
    assert breaker.closed
    breaker.fail(10.0)
    assert not breaker.closed
    breaker.succeed(10.05, 10.06)  # a probe that nobody had started
    assert not breaker.closed
    assert not breaker.probe(10.05)
    assert breaker.probe(10.1)
    assert breaker.state.name == "half-open"
    assert not breaker.probe(10.1), "one trial at a time"
    breaker.succeed(10.1, 10.2)
    assert breaker.closed


def test_a_probe_sent_before_the_newest_failure_proves_nothing() -> None:
    breaker = Breaker(POLICY)
    breaker.fail(10.0)
    assert breaker.probe(10.1)
    breaker.fail(10.15)  # a read that was under way all the time
    breaker.succeed(10.1, 10.16)
    assert not breaker.closed
    assert breaker.probe(10.2)
    breaker.succeed(10.2, 10.21)
    assert breaker.closed


def test_back_off_doubles_up_to_the_longest() -> None:
    breaker = Breaker(POLICY)
    now, waits = 0.0, []
    for _ in range(6):
        breaker.fail(now)  # it answers probes, but not reads
        waits.append(round(breaker.state.retry_at - now, 6))
        now = breaker.state.retry_at
        assert breaker.probe(now)
        breaker.succeed(now, now)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_silent_server_is_probed_often_enough_to_be_back_within_a_second() -> None:
    breaker = Breaker(POLICY)
    now, waits = 0.0, []
    breaker.fail(now)
    for _ in range(6):
        waits.append(round(breaker.state.retry_at - now, 6))
        now = breaker.state.retry_at
        assert breaker.probe(now)
        breaker.probe_failed(now)
    assert waits == [0.1, 0.2, 0.4, 0.5, 0.5, 0.5]


def test_late_failures_of_the_same_trouble_do_not_lengthen_the_wait() -> None:
    breaker = Breaker(POLICY)
    breaker.fail(10.0)
    for i in range(50):
        breaker.fail(10.0 + i / 1000)
    assert breaker.state.retry_at == 10.1


def test_a_relapse_waits_longer_and_a_calm_time_is_forgiven() -> None:
    breaker = Breaker(POLICY)
    now = 0.0
    for strikes in range(3):
        breaker.fail(now)
        assert breaker.state.strikes == strikes
        now = breaker.state.retry_at
        breaker.probe(now)
        breaker.succeed(now, now)
    breaker.fail(now + 5.1)
    assert breaker.state.strikes == 0


def test_a_failed_question_of_the_monitor_opens_a_closed_breaker() -> None:
    breaker = Breaker(POLICY)
    assert breaker.probe(1.0)
    breaker.probe_failed(1.3)
    assert not breaker.closed


@given(st.lists(st.sampled_from(["fail", "probe", "failed", "ok"]), max_size=60))
def test_closed_and_state_never_disagree(events: list[str]) -> None:
    breaker = Breaker(POLICY)
    for now, event in enumerate(events):
        match event:
            case "fail":
                breaker.fail(float(now))
                assert not breaker.closed
            case "probe":
                breaker.probe(float(now))
            case "failed":
                breaker.probe_failed(float(now))
            case _:
                breaker.succeed(float(now), float(now))
        assert breaker.closed == (breaker.state.name == "closed")
        assert breaker.closed or breaker.state.retry_at - now <= POLICY.longest
