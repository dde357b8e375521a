"""An RQ worker on raw clients, as a process of its own: `python -m tests.real.raw_worker URL`."""

from __future__ import annotations

import os
import sys
import time

from evercache.integrations.redis import RawClients

#: Made before any configuration is known, as PyBossa does it.
clients = RawClients()


def record(path: str, number: int) -> int:
    """The job: one line for each time that it is run."""
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    time.sleep(0.002)
    return number


def main(url: str, kind: str) -> None:
    import rq

    from evercache import Cache

    queue = rq.Queue("high", connection=clients.master)
    clients.attach(Cache(url))
    worker: type[rq.Worker] = rq.Worker if kind == "forking" else rq.SimpleWorker
    worker([queue], connection=clients.master, name=f"worker-{os.getpid()}").work(logging_level="WARNING")


if __name__ == "__main__":
    main(*sys.argv[1:])
