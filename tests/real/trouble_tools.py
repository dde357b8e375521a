"""What the tests of server troubles share: a truth that changes, and calls that are timed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.servers import wait_for

from evercache import Cache
from evercache.errors import UnavailableError

__all__ = [
    "MESSAGE",
    "Answers",
    "Site",
    "acknowledged",
    "heard",
    "position",
    "reading",
    "sees",
    "timed",
    "visited",
    "warm",
]

#: What one message may take on a busy machine of two cores (seconds).
MESSAGE = 0.1


class Site:
    """A function whose result is what `truth` says now. Used by one thread, but for the counter of runs."""

    def __init__(self) -> None:
        self.truth: dict[int, int] = {}
        self.runs = 0

    def on(self, cache: Cache, **options: Any) -> Any:
        """The function, cached by `cache`; the same entries for every cache of a namespace."""

        def page(number: int) -> int:
            self.runs += 1
            return self.truth.get(number, 0)

        return cache.cached(**{"ttl": 600, "name": "site.page", "tags": ("page:{number}",), **options})(page)

    def aon(self, cache: Cache, **options: Any) -> Any:
        """The same as a coroutine function."""

        async def page(number: int) -> int:
            self.runs += 1
            return self.truth.get(number, 0)

        return cache.cached(**{"ttl": 600, "name": "site.page", "tags": ("page:{number}",), **options})(page)

    def change(self, number: int = 1) -> int:
        """The truth changes: the new value."""
        self.truth[number] = self.truth.get(number, 0) + 1
        return self.truth[number]


class Answers:
    """What a thread that calls all the time got: (began, ended, value or the error)."""

    def __init__(self) -> None:
        self.all: list[tuple[float, float, Any]] = []

    @property
    def errors(self) -> list[Any]:
        return [value for _, _, value in self.all if isinstance(value, BaseException)]

    @property
    def slowest(self) -> float:
        return max(ended - began for began, ended, _ in self.all)

    def stale(self, acknowledged: list[tuple[float, int]], within: float = MESSAGE) -> list[tuple[float, int, int]]:
        """(how late, value, version) of what began later than `within` (s) after the invalidation of its value."""
        late = []
        for began, _, value in self.all:
            known = max((v for at, v in acknowledged if at + within < began), default=0)
            if value < known:
                first = min(at for at, v in acknowledged if v > value)
                late.append((began - first, value, known))
        return late


@contextlib.contextmanager
def visited(site: Site, cache: Cache) -> Iterator[Answers]:
    """A site of its own is read all the time, once the cache follows the servers."""
    with cache:
        page = site.on(cache)

        def follows() -> bool:
            with contextlib.suppress(UnavailableError):
                page(1)
                return True
            return False

        wait_for(follows, 60, "the cache to follow the servers")
        with reading(page, 1) as answers:
            wait_for(lambda: len(answers.all) > 20, what="the site to be read")
            yield answers


@contextlib.contextmanager
def reading(call: Any, *arguments: Any, pause: float = 0.002) -> Iterator[Answers]:
    """Call a (coroutine) function all the time, in a thread of its own, within the block."""
    answers, over = Answers(), threading.Event()

    def once() -> None:
        began = time.monotonic()
        try:
            value = call(*arguments)
        except Exception as error:
            value = error
        answers.all.append((began, time.monotonic(), value))

    async def aloop() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                value = await call(*arguments)
            except Exception as error:
                value = error
            answers.all.append((began, time.monotonic(), value))
            await asyncio.sleep(pause)

    def loop() -> None:
        if asyncio.iscoroutinefunction(getattr(call, "__wrapped__", call)):
            asyncio.run(aloop())
            return
        while not over.is_set():
            once()
            time.sleep(pause)

    thread = threading.Thread(target=loop, name="reading")
    thread.start()
    try:
        wait_for(lambda: answers.all, what="the first answer")
        yield answers
    finally:
        over.set()
        thread.join()


def timed(call: Any, *arguments: Any, **more: Any) -> tuple[Any, float]:
    """The result of a call, and the seconds that it took."""
    began = time.monotonic()
    return call(*arguments, **more), time.monotonic() - began


def sees(page: Any, version: int) -> None:
    """Another process's function gives the new value of page 1, within two messages."""
    wait_for(lambda: page(1) == version, 2 * MESSAGE, "the other process to hear")


def warm(cache: Cache) -> None:
    """The cache follows its servers."""
    wait_for(lambda: cache.stamp() is not None, what="the master to be followed")


def position(cache: Cache) -> object:
    """How far it has heard the log of invalidations."""
    client = cache._client_sync()
    assert client is not None
    return client.engine.state.position


def acknowledged(invalidate: Callable[[], object]) -> None:
    """Invalidate until the master has it: on a machine that stalls, one try may be late."""
    wait_for(invalidate, 5, "the acknowledgement", pause=0.001)


def heard(cache: Cache) -> None:
    """Nothing waits for the master any more."""
    wait_for(lambda: cache.stats().pending == 0, what="the queued invalidations to be brought")
