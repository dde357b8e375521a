"""Locks and forks: every lock of the package is free in a child, whichever thread held it in the parent."""

from __future__ import annotations

import ast
import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.interrupting import python

import evercache
from evercache import process
from evercache.client.waits import SyncWaits
from evercache.codecs import TypeRegistry

SOURCES = Path(evercache.__file__).parent


def in_child(work: Callable[[], object], seconds: float = 20.0) -> int:
    """Run `work` in a forked child; its exit code: 0, 1 when it raised, or -1 when it had to be killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


def test_every_lock_of_the_package_comes_from_new_lock() -> None:
    kinds = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "allocate_lock"}
    allowed = {("process.py", "Lock"), ("process.py", "RLock")}  # it makes the locks
    found = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                module = getattr(getattr(node.func, "value", None), "id", "")
                if name in kinds and module in ("", "threading", "_thread"):
                    found.add((path.relative_to(SOURCES).as_posix(), name))
    assert found <= allowed, found - allowed


def test_the_client_and_the_blocking_wire_wait_by_what_can_be_replaced_only() -> None:
    """See `process.Threads`: a wait that goes around it is one that no simulated thread can be in."""
    waits = {
        "sleep",
        "poll",
        "select",
        "get_ident",
        "current_thread",
        "Thread",
        "Event",
        "Condition",
        "SimpleQueue",
    }
    # `in_thread` is of tasks.
    allowed = {("client/waits.py", "Thread"), ("client/waits.py", "sleep")}
    files = [*SOURCES.glob("client/**/*.py"), SOURCES / "engine/flights.py", SOURCES / "engine/state.py"]
    files += [SOURCES / "net" / f"{name}.py" for name in ("blocking", "connection", "places", "sockets")]
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in waits:
                module = getattr(node.func.value, "id", "")
                if module in ("time", "select", "threading", "queue", "asyncio"):
                    found.add((path.relative_to(SOURCES).as_posix(), node.func.attr))
    assert found <= allowed, found - allowed


def test_what_threads_wait_by_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    slept: list[float] = []
    monkeypatch.setattr(process.THREADS, "lock", lambda: made.append("lock") or threading.RLock())
    monkeypatch.setattr(process.THREADS, "gate", lambda: made.append("gate") or threading.Lock())
    monkeypatch.setattr(process.THREADS, "sleep", slept.append)
    process.new_lock()
    process.Wakeup()
    SyncWaits.pause(3.0)
    assert made == ["lock", "gate"]
    assert slept == [3.0]


def test_a_fork_while_another_thread_reads_annotations_does_not_hang_the_child() -> None:
    parent = os.getpid()
    reading, go_on = threading.Event(), threading.Event()

    class Slow(type):
        def __hash__(self) -> int:
            if os.getpid() == parent:
                reading.set()
                go_on.wait(10)
            return id(self)

    class Result(metaclass=Slow):
        pass

    def fn() -> Any: ...

    fn.__annotations__ = {"return": Result}
    registry = TypeRegistry.from_annotation(fn)
    thread = threading.Thread(target=registry.shape_of, args=(int,))
    thread.start()
    try:
        assert reading.wait(10)
        assert in_child(lambda: registry.shape_of(int)) == 0
    finally:
        go_on.set()
        thread.join()


def test_a_lock_is_reentrant_and_free_in_the_child() -> None:
    lock = process.new_lock()
    with lock, lock:
        assert in_child(lambda: acquire_in_a_thread(lock)) == 0


def acquire_in_a_thread(lock: process.Lock) -> None:
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(bool(lock.__enter__())), daemon=True)
    thread.start()
    thread.join(5)
    assert got == [True]


def test_a_fork_that_runs_no_hooks_is_noticed() -> None:
    """uWSGI forks in C, and runs no hooks of Python."""

    class Told:
        def __init__(self) -> None:
            self.pids: list[int] = []

        def after_fork(self) -> None:
            self.pids.append(os.getpid())

    told = Told()
    process.reset_after_fork(told)
    process.notice_fork()
    assert told.pids == []
    fork = ctypes.PyDLL(None).fork
    pid: int = fork()
    if pid == 0:
        process.notice_fork()
        process.notice_fork()
        os._exit(told.pids != [os.getpid()])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert told.pids == []


def test_a_living_thread_runs_though_handlers_raised_while_it_was_looked_at() -> None:
    python("""
import threading
from evercache.process import thread_runs
from tests.interrupting import under_interrupts
stop = threading.Event()
thread = threading.Thread(target=stop.wait, daemon=True)
assert not thread_runs(thread)
thread.start()
def step():
    for _ in range(200):
        thread_runs(thread)
assert under_interrupts(step, raises=2000, seconds=3, shortest=1e-5, longest=3e-4) > 100
assert thread_runs(thread)
stop.set()
thread.join()
assert not thread_runs(thread)
""")
