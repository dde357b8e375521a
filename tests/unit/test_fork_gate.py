"""A fork never meets a thread of ours in the middle of a line of the log."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from evercache.observe.events import EntryCorrupt
from evercache.observe.hub import EventHub
from evercache.process import ForkGate


class Stream(logging.Handler):
    """As the error output: a lock that no child gets anew, held while a line is written."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        with self.held:
            time.sleep(0.004)


def test_a_child_can_write_where_its_parent_logged() -> None:
    logger = logging.Logger("forks")
    logger.addHandler(stream := Stream())
    hub, over = EventHub(logger=logger), threading.Event()
    hub._reached = True

    def tell() -> None:
        number = 0
        while not over.is_set():
            hub.emit(EntryCorrupt(f"function {number}", "key", "why"))
            number += 1

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        children = []
        for _ in range(20):
            if not (pid := os.fork()):
                os._exit(0 if stream.held.acquire(timeout=20) else 1)
            children.append(pid)
            time.sleep(0.003)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 20
    finally:
        over.set()
        thread.join()


def test_a_fork_waits_a_moment_for_a_handler_that_is_stuck() -> None:
    gate = ForkGate()
    stuck, go_on = threading.Event(), threading.Event()

    def log() -> None:
        with gate.entered():
            stuck.set()
            go_on.wait(10)

    thread = threading.Thread(target=log)
    thread.start()
    assert stuck.wait(10)
    try:
        began = time.monotonic()
        if not (pid := os.fork()):
            with gate.entered():
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert 0.2 <= time.monotonic() - began < 5
    finally:
        go_on.set()
        thread.join()


def test_a_thread_that_was_interrupted_while_it_logged_holds_up_no_fork() -> None:
    gate = ForkGate()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        for number in range(2_000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 50 * 1e-6)
                for _ in range(200):
                    with gate.entered():
                        pass
                signal.pause()
            except KeyboardInterrupt:
                continue
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    began = time.monotonic()
    for _ in range(5):
        if not (pid := os.fork()):
            os._exit(0)
        os.waitpid(pid, 0)
    assert time.monotonic() - began < 0.9, "five forks, each of which waited for a thread that is not there"
    free: list[bool] = []
    other = threading.Thread(target=lambda: free.append(gate.entered() is not None), daemon=True)
    other.start()
    other.join(5)
    assert free == [True]
