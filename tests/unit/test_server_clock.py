"""The master's time as a process knows it (rules 11 and 19)."""

from __future__ import annotations

from evercache.protocol.clock import ServerClock

OFFSET = 5_000_000


def told(clock: ServerClock, at: float, took: float, offset: int = OFFSET) -> None:
    """An answer that was received at a moment, and whose way back took so many seconds."""
    clock.observe(offset + int((at - took) * 1e6), at, at - took)


def test_the_least_of_the_last_eight_answers_counts() -> None:
    clock = ServerClock()
    for at, took in ((1.0, 0.002), (2.0, 0.020), (3.0, 0.010)):
        told(clock, at, took)
    assert clock.offset_us == OFFSET - 20_000
    for at in range(4, 12):
        told(clock, float(at), 0.001)
    assert clock.offset_us == OFFSET - 1_000


def test_an_answer_that_took_long_counts_only_until_there_is_a_better_one() -> None:
    clock = ServerClock()
    told(clock, 1.0, 0.4)
    assert clock.offset_us == OFFSET - 400_000
    told(clock, 2.0, 0.004)
    assert clock.offset_us == OFFSET - 4_000
    told(clock, 3.0, 0.4)
    assert clock.offset_us == OFFSET - 4_000
    clock.reset()
    assert clock.server_us(4.0) is None
    told(clock, 4.0, 0.4)
    assert clock.server_us(4.0) == 4_000_000 + OFFSET - 400_000
