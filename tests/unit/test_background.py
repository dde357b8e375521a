"""The one thread of a process: it starts, keeps its jobs alive, takes callbacks and ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from evercache.engine.background import Background, Job, cancel
from evercache.engine.former import FormerMasters
from evercache.protocol.types import Address
from evercache.topology.sentinel import SentinelTopology


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def made(jobs: Sequence[Job]) -> Background:
    return Background("bg", lambda: jobs)


def eventually(true: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_runs_its_jobs_and_ends_them() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def job() -> None:
        begun.set()
        try:
            await forever()
        finally:
            ended.set()

    background = made([job, forever])
    assert not background.running
    assert "not running" in repr(background)
    background.ensure()
    assert begun.wait(5)
    assert background.running
    background.stop(5)
    assert ended.is_set()
    assert not background.running


def test_a_callback_posted_right_after_the_start_is_not_lost() -> None:
    for _ in range(20):
        background = made([forever])
        done = threading.Event()
        background.ensure()
        background.post(done.set)
        assert done.wait(5)
        background.stop(5)


def test_callbacks_run_on_the_loop_and_nothing_happens_after_its_end() -> None:
    background = made([forever])
    names: list[str] = []
    done = threading.Event()
    background.post(lambda: names.append(threading.current_thread().name))
    time.sleep(0.01)
    assert names == [], "it does not run yet"
    background.ensure()
    background.post(lambda: names.append(threading.current_thread().name))
    background.post(done.set)
    assert done.wait(5)
    assert names == ["bg", "bg"]
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

    background = made([failing, healthy])
    with caplog.at_level(logging.ERROR, "evercache"):
        background.ensure()
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

    background = made([once, forever])
    background.ensure()
    eventually(lambda: runs)
    time.sleep(0.2)
    background.stop(5)
    assert runs == [1]


def test_it_can_be_stopped_from_its_own_thread() -> None:
    stopped = threading.Event()

    async def job() -> None:
        background.stop(5)
        stopped.set()
        await forever()

    background = made([job])
    background.ensure()
    assert stopped.wait(5)
    background.stop(5)
    assert not background.running


# -- what the process lacks for a while


class Watched(Background):
    """With all that it reports; `jobs` counts the loops."""

    def __init__(self, *jobs: Job) -> None:
        super().__init__("bg", self._counted)
        self._all = jobs or (forever,)
        self.loops = 0
        self.errors: list[BaseException] = []
        self.lost = self.errors.append

    def _counted(self) -> Sequence[Job]:
        self.loops += 1
        return self._all


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_cannot_be_started_is_started_by_a_later_caller(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise error

    background, ran = Watched(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        background.ensure()
        for _ in range(100):  # not at each call
            background.ensure()
        assert background.errors == [error]
        background.post(ran.set)
    assert not background.running
    eventually(lambda: background.ensure() or background.running)
    assert ran.wait(5), "what was posted meanwhile runs"
    background.stop(5)


def test_a_loop_that_lacks_descriptors_is_made_as_soon_as_there_are_some(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    background = Watched()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", refuse)
        background.ensure()
        eventually(lambda: len(background.errors) > 1)
    eventually(lambda: background.running, 1.0)
    background.stop(5)
    gc.collect()
    assert capfd.readouterr().err == ""


class Custom(BaseException):
    pass


@pytest.mark.parametrize("error", [Custom, SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError])
def test_a_job_is_begun_again_whatever_it_raised(error: type[BaseException]) -> None:
    runs: list[int] = []

    async def job() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise error
        await forever()

    background = Watched(job)
    background.ensure()
    eventually(lambda: len(runs) == 3)
    background.stop(5)
    assert not background.running


@pytest.mark.parametrize("error", [MemoryError, OSError, SystemExit, Custom])
def test_a_loop_that_dies_is_made_anew_with_jobs_of_its_own(error: type[BaseException]) -> None:
    """As where the selector fails, or memory for what asyncio notes."""
    background = Watched()
    background.ensure()
    eventually(lambda: background.running)
    first = background._loop
    assert first is not None

    selector: Any = first._selector  # type: ignore[attr-defined]

    def fail(timeout: float | None) -> None:
        del selector.select  # once: the loop ends in order
        raise error

    selector.select = fail
    first.call_soon_threadsafe(lambda: None)
    eventually(lambda: background.running and background._loop is not first)
    assert background.loops == 2
    assert isinstance(background.errors[0], error)
    background.stop(5)


def test_a_thread_that_dies_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    background = Watched()
    with monkeypatch.context() as patch:
        patch.setattr(background, "_serve", lambda: (_ for _ in ()).throw(MemoryError()))
        patch.setattr(threading, "excepthook", lambda _: None)
        background.ensure()
        thread = background._thread
        assert thread is not None
        thread.join(5)
    eventually(lambda: background.ensure() or background.running)
    background.stop(5)


def test_nobody_waits_for_the_loop_of_a_background_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = threading.Event()
    background = Watched()
    monkeypatch.setattr(background, "_serve", lambda: ask.wait(10) and OSError())
    began = time.monotonic()
    background.ensure()
    background.ensure()
    assert time.monotonic() - began < 0.5
    background.stop(0)
    ask.set()


def followed_sentinels() -> Any:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    endpoint = SimpleNamespace(execute=never, disconnect=lambda: None)
    wire: Any = SimpleNamespace(connect=never, endpoint=lambda *_: endpoint)
    options: Any = SimpleNamespace(connect_timeout=1.0)
    return SentinelTopology(wire, "main", [Address("a")], options, options).run(lambda _: None)


def followed_former_masters() -> Any:
    state = SimpleNamespace(now=lambda: 0.0)
    engine: Any = SimpleNamespace(state=state, connect_tail=lambda _: asyncio.Event().wait())
    former = FormerMasters(engine)
    former.leave(Address("a"), "a generation", "0-0")
    return former.run()


@pytest.mark.parametrize("job", [followed_sentinels, followed_former_masters])
def test_a_job_whose_loop_was_dropped_ends_without_a_word(job: Callable[[], Any]) -> None:
    """As in the child of a fork, where the collector finds the tasks of the parent. Each waited for its own tasks,
    and the interpreter wrote a traceback ("coroutine ignored GeneratorExit")."""
    loop = asyncio.new_event_loop()

    async def begun() -> Any:
        coroutine = job()
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0.02)
        assert not task.done()
        return coroutine

    try:
        loop.run_until_complete(begun()).close()
    finally:
        loop.run_until_complete(cancel(list(asyncio.all_tasks(loop))))
        loop.close()
