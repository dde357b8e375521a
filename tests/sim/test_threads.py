"""Simulated threads by themselves: who waits for whom, for how long, and what counts as a violation."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from evercache.process import THREADS, Wakeup, new_lock, start_thread, thread_runs
from tests.sim.loop import Tag, tag_of_task
from tests.sim.lua import LuaHost
from tests.sim.plan import make_plan
from tests.sim.world import World, run


@pytest.fixture
def world() -> Iterator[World]:
    plan = make_plan(1).only(())
    plan = replace(plan, workload={**plan.workload, "threads": (0,), "switches": 0.0, "lines": 0.0, "both": False})
    made = World(plan, LuaHost())
    assert made.threads is not None
    made.threads.begin()
    yield made
    made.loop.wind_up()


@pytest.fixture
def together(world: World) -> Callable[..., None]:
    """Run functions, each in a thread of one process, for so many simulated seconds."""
    tag = Tag("p0")
    context = contextvars.copy_context()
    context.run(tag_of_task.set, tag)

    def run_all(*works: Callable[[], object], seconds: float = 1.0) -> None:
        async def begin(work: Callable[[], object]) -> None:
            work()

        assert world.threads is not None
        for work in works:
            world.threads.spawn(begin(work), context)
        world.loop.run_until(world.now + seconds)

    return run_all


def promises(world: World) -> list[str]:
    return [violation.promise for violation in world.oracle.violations]


def often(world: World) -> None:
    assert world.threads is not None
    world.threads.points.chance, world.threads.points.left = 0.5, 1.0


def test_a_lock_keeps_others_out_however_often_they_run(world: World, together: Any) -> None:
    often(world)
    lock, inside, most = new_lock(), [0], [0]

    def work() -> None:
        for _ in range(20):
            with lock, lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                new_lock().__enter__()  # a point at which others may run
                inside[0] -= 1

    together(*[work] * 4)
    assert most == [1]
    assert promises(world) == []


def test_without_the_lock_they_meet(world: World, together: Any) -> None:
    often(world)
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            new_lock().__enter__()
            inside[0] -= 1

    together(*[work] * 4)
    assert most[0] > 1


def test_two_locks_in_two_orders_are_a_deadlock_and_all_stacks_are_shown(world: World, together: Any) -> None:
    often(world)
    one, other = new_lock(), new_lock()

    def take(first: Any, second: Any) -> None:
        for _ in range(50):
            with first, second:
                pass

    def forth() -> None:
        take(one, other)

    def back() -> None:
        take(other, one)

    together(forth, back)
    assert promises(world) == ["deadlock"]
    text = world.oracle.violations[0].text
    assert "in forth" in text
    assert "in back" in text


def test_a_lock_of_a_thread_that_ended_is_a_deadlock(world: World, together: Any) -> None:
    lock = new_lock()
    together(lock.__enter__)
    together(lock.__enter__)
    assert promises(world) == ["deadlock"]


def test_to_wait_with_a_lock_is_a_violation(world: World, together: Any) -> None:
    def work() -> None:
        with new_lock():
            THREADS.sleep(0.1)

    together(work)
    assert promises(world) == ["lock"]


def test_a_wait_ends_by_the_simulated_clock_and_a_wake_up_before_it_is_kept(world: World, together: Any) -> None:
    never, before, after = Wakeup(), Wakeup(), Wakeup()
    seen: list[tuple[bool, float]] = []

    def wait() -> None:
        before.wake()
        for it, seconds in ((never, 0.25), (before, 10.0), (after, 10.0)):
            seen.append((it.wait(seconds), round(world.now, 6)))

    def wake() -> None:
        THREADS.sleep(0.4)
        after.wake()

    together(wait, wake)
    assert seen == [(False, 0.25), (True, 0.25), (True, 0.4)]


def test_no_wake_up_is_lost_however_often_others_run(world: World, together: Any) -> None:
    assert world.threads is not None
    world.threads.points.chance, world.threads.points.left = 1.0, 1.0
    ends: list[bool] = []

    def work() -> None:
        for _ in range(50):
            it = Wakeup()

            async def wake(it: Wakeup = it) -> None:
                THREADS.sleep(0.001)
                it.wake()

            assert world.threads is not None
            world.threads.spawn(wake(), THREADS.current().context)
            ends.append(it.wait(30.0))

    together(work, seconds=10.0)
    assert ends == [True] * 50


def test_a_wait_of_the_library_without_an_end_is_a_violation(world: World, together: Any) -> None:
    assert world.threads is not None
    gate = THREADS.gate()
    gate.acquire()
    together(lambda: gate.acquire(5.0), gate.acquire)
    world.threads.check()
    assert promises(world) == []  # it is the test that waits so
    library: dict[str, Any] = {"__name__": "evercache.made", "gate": gate}
    exec("def work(): gate.acquire()", library)
    together(library["work"])
    world.threads.check()
    assert promises(world) == ["liveness"]


def test_threads_of_the_library_are_simulated(world: World, together: Any) -> None:
    seen: list[Any] = []

    def work() -> None:
        seen.append((THREADS.ident(), THREADS.current()))

    def begin() -> None:
        thread = THREADS.new(work, "another")
        assert not thread_runs(thread)
        start_thread(thread)
        assert thread_runs(thread)
        THREADS.sleep(0.1)
        assert not thread_runs(thread)
        work()
        assert seen[0][1] is thread

    together(begin)
    assert len({ident for ident, _ in seen}) == 2
    assert not [task for task in world.loop._tasks if task.done() and task.exception()]


def test_who_is_woken_from_another_thread_goes_on_in_the_thread_of_its_event_loop(world: World) -> None:
    """One loop stands for that of the application and that of the background: `_wake` ran in both at once."""
    ran: list[Any] = []
    tags = [Tag("application"), Tag("background")]
    contexts = [contextvars.copy_context() for _ in tags]
    for context, tag in zip(contexts, tags, strict=True):
        context.run(tag_of_task.set, tag)
    waiter = contexts[0].run(world.loop.create_future)
    contexts[1].run(world.loop.call_soon_threadsafe, lambda it: ran.append(tag_of_task.get()), waiter)
    contexts[1].run(world.loop.call_soon_threadsafe, lambda: ran.append(tag_of_task.get()))
    world.loop.run_until(world.now + 0.1)
    assert ran == tags


@pytest.mark.parametrize("both", [False, True])
def test_who_calls_what(both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads call the blocking twin, tasks the other one; where a process has both, both are called."""
    from evercache.client._async.reads import AsyncReads
    from evercache.client._sync.reads import SyncReads

    called: set[str] = set()

    def counted(name: str, original: Any) -> Any:
        async def fetch(*args: Any) -> Any:
            called.add(name)
            return await original(*args)

        return fetch

    for name, owner in (("threads", SyncReads), ("tasks", AsyncReads)):
        monkeypatch.setattr(owner, "fetch", counted(name, owner.fetch))
    plan = make_plan(4, callers="threads")
    result = run(replace(plan, workload={**plan.workload, "threads": (0, 1, 2), "lines": 0.0, "both": both}))
    assert not result.violations, result.violations[0]
    assert called == ({"threads", "tasks"} if both else {"threads"})
