"""The simulator can catch wrong changes; `make sim` looks for all of them, from five seeds."""

from __future__ import annotations

import pytest

from tests.sim.mutations import MUTATIONS, hunt

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
    "a-read-is-shared-past-an-invalidation",
    "the-marks-of-a-function-are-not-heard",
    "a-replica's-answer-is-not-checked",
    "a-reply-is-not-checked-against-what-was-forgotten",
    "ages-of-coverage-by-the-monotonic-clock",
    "touch-stamps",
    "an-increment-resets-the-expiry",
    "add-wins-over-a-live-entry",
    "near-outlives-the-entry",
    "late-requests-for-a-lease-are-granted",
    "hits-look-up-no-marks",
    "hits-look-up-no-marks-of-tags",
    "hits-are-served-past-their-time",
    "near-hits-look-at-no-version",
    "near-hits-outlive-their-time",
    "a-store-does-not-look-at-what-is-held",
    "the-begin-of-a-change-marks-nothing",
    "the-end-of-a-change-marks-nothing",
    "a-thread-of-refreshes-ends-with-the-lock",
    "a-connection-is-made-under-the-lock-of-the-pool",
    "a-blocking-read-ignores-its-deadline",
    "what-WAIT-answers-is-not-looked-at",
    "one-replica-is-enough-for-a-strict-write",
    "a-resync-empties-what-the-process-knows",
    "a-resync-invalidates-everything",
    "an-invalidation-of-a-key-takes-its-function-along",
    "only-values-that-are-newer-than-every-mark-are-stored",
    "entries-are-computed-again-before-their-time",
    "the-tail-rests-after-each-line",
    "an-invalidation-waits-for-twice-its-budget",
    "nobody-joins-while-there-is-no-primary",
    "a-process-that-wakes-does-not-read-the-log-at-once",
    "the-child-leaves-to-its-parent-what-is-pending",
    "the-journal-keeps-the-first-of-each-scope",
    "votes-are-not-heard",
)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", QUICK)
def test_it_is_found(name: str) -> None:
    tried, result = hunt(MUTATIONS[name], 5000, 100)
    assert result is not None, f"{name} was not found in {tried} schedules"


def test_each_can_be_made() -> None:
    for mutation in MUTATIONS.values():
        with mutation.applied():
            pass
