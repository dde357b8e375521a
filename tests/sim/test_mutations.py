"""The simulator can catch: each wrong change is found within a bounded number of schedules."""

from __future__ import annotations

import pytest

from tests.sim.mutations import MUTATIONS, hunt

#: Schedules within which each must be found, from any of five seeds.
BOUND = 300
#: Those that show within a few schedules are looked for in every test run, the others in `make sim`.
QUICK = (
    "stamps-by-the-clock",
    "a-given-up-invalidation-is-forgotten",
    "joiners-accept-anything",
    "near-does-not-hear",
    "a-store-needs-no-token",
    "leases-are-not-renewed",
    "a-new-lease-while-one-is-held",
    "tags-do-not-travel",
    "an-invalidation-leaves-the-entry",
    "an-invalidation-leaves-the-lease",
    "stale-entries-are-handed-out-past-a-mark",
    "the-gutter-does-not-hear",
    "the-marks-of-a-function-are-not-heard",
    "a-replica's-answer-is-not-checked",
)


@pytest.mark.parametrize("name", QUICK)
def test_it_is_found(name: str) -> None:
    tried, result = hunt(MUTATIONS[name], 5000, 40)
    assert result is not None, f"{name} was not found in {tried} schedules"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", [5000, 20_000, 40_000, 60_000, 80_000])
@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_each_is_found_from_five_seeds(name: str, first: int, capsys: pytest.CaptureFixture[str]) -> None:
    tried, result = hunt(MUTATIONS[name], first, BOUND)
    assert result is not None, f"{name} was not found in {tried} schedules from seed {first} on"
    with capsys.disabled():
        print(f"\n{name}: {tried} schedules, {result.violations[0].promise}")
