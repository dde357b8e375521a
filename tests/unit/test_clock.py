"""The master's time as a process knows it (rules 11 and 19)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evercache.protocol.clock import ServerClock


def test_nothing_is_known_before_the_first_answer() -> None:
    clock = ServerClock()
    assert clock.server_us(1.0) is None
    assert clock.server_ms(1.0) is None
    assert "None" in repr(clock)


def test_the_offset_is_the_servers_time_less_the_time_of_receipt() -> None:
    clock = ServerClock()
    clock.observe(5_000_000, 2.0)
    assert clock.offset_us == 3_000_000
    assert clock.server_us(4.0) == 7_000_000
    assert clock.server_ms(4.0) == 7_000.0


def test_rule_11_the_least_of_the_last_eight_counts() -> None:
    clock = ServerClock()
    clock.observe(1_000_000, 0.5)  # 0.5 s on the way: the least offset
    for n in range(7):
        clock.observe(1_000_000 + n, 0.0)
    assert clock.offset_us == 500_000
    clock.observe(1_000_007, 0.0)
    assert clock.offset_us == 1_000_000


def test_a_reset_forgets_all_samples() -> None:
    clock = ServerClock()
    clock.observe(1_000_000, 0.5)
    clock.reset()
    assert clock.offset_us is None
    clock.observe(2_000_000, 0.5)
    assert clock.offset_us == 1_500_000


@given(st.integers(-(10**15), 10**15), st.lists(st.floats(0, 5), min_size=1, max_size=20))
def test_rule_11_a_deadline_in_the_masters_time_is_never_later_than_meant(
    true_offset: int, delays: list[float]
) -> None:
    clock = ServerClock()
    for n, delay in enumerate(delays):
        clock.observe(true_offset + int(n * 1e6), n + delay)
    deadline = clock.server_us(100.0)
    assert deadline is not None
    assert deadline <= true_offset + 100_000_000 + 1


def test_rule_19_an_answer_that_waited_here_counts_only_until_there_is_a_better_one() -> None:
    clock = ServerClock()
    clock.observe(1_000_000, 2.9, 1.0)  # 1.9 s of pause: entries would seem to live that much longer
    assert clock.offset_us == -1_900_000
    clock.observe(3_000_000, 3.001, 3.0)
    assert clock.offset_us == -1_000
    clock.observe(4_000_000, 5.5, 4.0)
    assert clock.offset_us == -1_000
    clock.reset()
    clock.observe(1_000_000, 2.9, 1.0)
    assert clock.offset_us == -1_900_000
