"""An RQ worker on raw clients, as a process of its own: `python -m tests.real.raw_worker URL KIND CLIENTS`."""

from __future__ import annotations

import os
import sys
import threading
import time

from evercache.integrations.pybossa import Sentinel
from evercache.raw import RawClients

#: Made before any configuration is known, as PyBossa does it. A worker of RQ ends with the first error outside of
#: its queues, and leaves the repeating to redis-py.
clients = RawClients(retry=3)
sentinel = Sentinel()


def record(path: str, number: int) -> int:
    """The job: one line for each time that it is run."""
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    time.sleep(0.002)
    return number


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(url: str, kind: str, which: str = "retry") -> None:
    import rq

    from evercache import Cache

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    master = sentinel.master if which == "pybossa" else clients.master
    queue = rq.Queue("high", connection=master)
    if which == "pybossa":
        sentinel.configure({"EVERCACHE_URL": url})
    else:
        clients.attach(Cache(url))
    worker: type[rq.Worker] = rq.Worker if kind == "forking" else rq.SimpleWorker
    worker([queue], connection=master, name=f"worker-{os.getpid()}").work(logging_level="WARNING")


if __name__ == "__main__":
    main(*sys.argv[1:])
