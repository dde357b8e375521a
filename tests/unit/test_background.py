"""The one thread of a process: it starts, keeps its jobs alive, takes callbacks and ends."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from evercache.engine.background import Background


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_it_runs_its_jobs_and_ends_them() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def job() -> None:
        begun.set()
        try:
            await forever()
        finally:
            ended.set()

    background = Background("bg", [job, forever])
    assert not background.running
    assert "not running" in repr(background)
    background.start()
    assert begun.wait(5)
    assert background.running
    background.stop(5)
    assert ended.is_set()
    assert not background.running


def test_a_callback_posted_right_after_the_start_is_not_lost() -> None:
    for _ in range(20):
        background = Background("bg", [forever])
        done = threading.Event()
        background.start()
        background.post(done.set)
        assert done.wait(5)
        background.stop(5)


def test_callbacks_run_on_the_loop_and_nothing_happens_after_its_end() -> None:
    background = Background("bg", [forever])
    background.post(lambda: pytest.fail("it does not run yet"))
    background.start()
    names: list[str] = []
    done = threading.Event()
    background.post(lambda: names.append(threading.current_thread().name))
    background.post(done.set)
    assert done.wait(5)
    assert names == ["bg"]
    background.stop(5)
    background.post(lambda: pytest.fail("it has ended"))


def test_a_job_that_fails_is_told_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []
    again, other = threading.Event(), threading.Event()

    async def failing() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("a defect")
        again.set()
        await forever()

    async def healthy() -> None:
        other.set()
        await forever()

    background = Background("bg", [failing, healthy])
    with caplog.at_level(logging.ERROR, "evercache"):
        background.start()
        assert again.wait(5)
        assert other.is_set()
        background.stop(5)
    (record,) = caplog.records
    assert "begun again" in record.getMessage()
    assert record.exc_info is not None


def test_a_job_that_returns_is_not_begun_again() -> None:
    runs: list[int] = []

    async def once() -> None:
        runs.append(1)

    background = Background("bg", [once, forever])
    background.start()
    background.stop(5)
    assert runs == [1]


def test_it_can_be_stopped_from_its_own_thread() -> None:
    stopped = threading.Event()

    async def job() -> None:
        background.stop(5)
        stopped.set()
        await forever()

    background = Background("bg", [job])
    background.start()
    assert stopped.wait(5)
    background.stop(5)
    assert not background.running
