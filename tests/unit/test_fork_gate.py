"""A fork never meets a thread of ours in the middle of a line of the log."""

from __future__ import annotations

import logging
import os
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
                os._exit(0 if stream.held.acquire(timeout=1) else 1)
            children.append(pid)
            time.sleep(0.003)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 20
    finally:
        over.set()
        thread.join()


def test_a_fork_does_not_wait_for_a_handler_that_is_stuck() -> None:
    gate = ForkGate()
    with gate:
        began = time.monotonic()
        if not (pid := os.fork()):
            with gate:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert 0.2 <= time.monotonic() - began < 5
