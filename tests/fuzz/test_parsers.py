"""Every parser, fed with what Hypothesis makes of real inputs; and the hunters themselves, tried on planted bugs.

`make fuzz` does the same for longer, with atheris as well.
"""

from __future__ import annotations

import time

import pytest

from tests.fuzz import guard
from tests.fuzz.guard import guarded
from tests.fuzz.search import search
from tests.fuzz.target import Bug, Target
from tests.fuzz.targets import TARGETS

#: The same ones in each run: a change of the library is what is tested here, not luck.
EXAMPLES = 60


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda one: one.name)
def test_a_parser_keeps_its_promises_whatever_it_reads(target: Target) -> None:
    for data in target.seeds + target.found:
        target.run(data)
    search(target, EXAMPLES)


def test_every_bug_can_be_planted() -> None:
    for target in TARGETS.values():
        for bug in target.bugs:
            with bug.change():
                pass


@pytest.mark.long
@pytest.mark.parametrize(
    ("target", "bug"), [(one, bug) for one in TARGETS.values() for bug in one.bugs], ids=lambda one: one.name
)
def test_a_planted_bug_is_found(target: Target, bug: Bug) -> None:
    with bug.change(), pytest.raises(Exception):
        search(target, 10_000, shrink=False)


def test_the_guard_sees_code_that_an_input_runs() -> None:
    def unpickling(data: bytes) -> None:
        import pickle

        with pytest.raises(PermissionError):
            pickle.loads(data)

    with pytest.raises(AssertionError, match=r"pickle\.find_class"):
        guarded(unpickling, b"cbuiltins\nlen\n.")


def test_the_guard_tells_of_code_though_it_was_taken_for_an_error_of_the_socket() -> None:
    def reading(data: bytes) -> None:
        import pickle

        try:
            pickle.loads(data)
        except OSError as error:
            raise AssertionError("a connection was broken by sound replies") from error

    with pytest.raises(AssertionError, match=r"code ran: pickle\.find_class"):
        guarded(reading, b"cbuiltins\nlen\n.")


def test_the_guard_does_not_mind_a_clock_that_jumped(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 60.0, 60.0, 60.1))
    monkeypatch.setattr(time, "thread_time", lambda: next(times))
    guarded(lambda data: None, b"")


def test_the_guard_sees_time_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CPU_SECONDS", 0.01)
    with pytest.raises(AssertionError, match="of CPU"):
        guarded(lambda data: sum(range(3_000_000)), b"")
