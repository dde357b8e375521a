"""The meters behind the drill and the matrix of faults: time beyond the function's own, noise, staleness."""

from __future__ import annotations

import math

import pytest

from evercache.ops.meter import Call, Edit, Meter, Noise, Overslept, OwnTime, Run, percentile


def read(began: float, ended: float, version: int = 0, made: int = 1, key: int = 7) -> Call:
    return Call(key, began, ended, version, made, False, 1)


def test_percentile() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99


def test_noise_is_a_union_and_is_clipped() -> None:
    noise = Noise([Overslept(2.0, 3.0), Overslept(1.0, 2.5), Overslept(5.0, 6.0)])
    assert noise.within(0.0, 10.0) == pytest.approx(3.0)
    assert noise.within(2.9, 5.5) == pytest.approx(0.6)
    assert noise.within(3.0, 5.0) == 0


def test_own_time_is_that_of_runs_that_were_waited_for() -> None:
    own = OwnTime([Run(7, 1, 1.0, 2.0), Run(7, 2, 1.5, 2.5), Run(8, 3, 1.0, 9.0)])
    assert own.within(read(1.2, 2.6, made=2)) == pytest.approx(1.3)
    assert own.within(read(2.1, 2.6, made=1)) == 0, "a hit: slow for another reason"
    assert own.within(read(1.0, 2.0, made=99)) == 0, "a value from before"


def test_a_read_is_stale_since_the_earliest_acknowledgement_that_it_lacks() -> None:
    meter = Meter([Edit(7, 1, 10.0, True), Edit(7, 2, 12.0, True), Edit(7, 3, 11.0, True)])
    assert meter.since(read(20.0, 20.1, version=0)) == 10.0
    assert meter.since(read(20.0, 20.1, version=1)) == 11.0, "version 3 was acknowledged before version 2"
    assert meter.since(read(20.0, 20.1, version=3)) is None
    assert meter.since(read(9.0, 30.0, version=0)) is None, "nothing was acknowledged when it began"
    assert meter.since(read(20.0, 20.1, version=0, key=8)) is None


def test_what_was_never_acknowledged_makes_nothing_stale() -> None:
    assert Meter([Edit(7, 1, math.inf, False)]).since(read(99.0, 99.1)) is None
