"""What the tests of the raw clients share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.servers import Deployment, Server, wait_for

from evercache import Cache


def served(server: Server, command: str) -> int:
    """How often a server has run a command."""
    line = server.info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(line.split(",")[0].removeprefix("calls="))


@contextmanager
def in_use(deployment: Deployment, replicas: int, **options: Any) -> Iterator[Cache]:
    """A cache whose replicas are all read."""
    with Cache(deployment.url, **options) as cache:
        cache.master.ping()

        def all_read() -> bool:
            return sum(node.use == "reads" for node in cache.health().nodes) == replicas

        wait_for(all_read, 10, "the replicas to be used")
        yield cache


def all_have_it(deployment: Deployment, cache: Cache) -> None:
    """Wait until the replicas are known to have what was written: until then it is read at the master."""
    ports = {node.port for node in deployment.replicas}
    wait_for(lambda: {cache.replica.info("server")["tcp_port"] for _ in range(20)} == ports, 10, "the replicas")


class Background(threading.Thread):
    """Runs a function and keeps what it returned or raised; `result` waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        self.ended = time.monotonic()

    def result(self, timeout: float = 15.0) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "it does not end"
        if self._error is not None:
            raise self._error
        return self._result
