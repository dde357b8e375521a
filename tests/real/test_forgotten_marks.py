"""Rule 7: a reply is checked against every mark, also those that were forgotten since its request was sent.

A replica lags. A process reads it just after an invalidation, and judges the answer when the mark is forgotten: its
event loop was blocked, or the answer was late. Nothing here waits for a fixed time: the mark is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.deployment import Deployment
from tests.real.trouble_tools import Site
from tests.real.wire_peers import Peer
from tests.servers import wait_for

from evercache import Cache

#: Seconds by which the replica lags, and may lag. Marks are kept for `LAG_BOUND` and two budgets.
LAG, LAG_BOUND, BUDGET = 0.4, 1.2, 0.5
KEY = "k"
#: After so many turns of the loop it is blocked, until one comes in which the read has just been sent.
TURNS = (1, 2, 1, 2, 3, 4, 5)

Read = Callable[[Cache, Any], Awaitable[Any]]


@pytest.fixture(scope="module")
def lagging() -> Iterator[Deployment]:
    """A master, and a replica that has everything `LAG` seconds later."""
    with Deployment.start(replicas=1, replica_delays=(LAG,), sentinels=1, down_after_ms=60_000) as deployment:
        yield deployment


class HeldAnswers(Peer):
    """Forwards to a server; once told to, keeps the answer to the next GET until it is let go."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._armed = threading.Event()
        #: The server has answered; the answer may pass.
        self.answered, self.release = threading.Event(), threading.Event()
        super().__init__(self._relay)

    def hold(self) -> None:
        """From now on, for one GET."""
        self._armed.set()

    def _relay(self, near: socket.socket) -> None:
        held = threading.Event()
        with socket.create_connection(("127.0.0.1", self._target)) as far:
            back = threading.Thread(target=self._back, args=(far, near, held), daemon=True)
            back.start()
            while data := near.recv(65536):
                if self._armed.is_set() and b"\r\nGET\r\n" in data:
                    self._armed.clear()
                    held.set()
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)
            back.join(5)

    def _back(self, far: socket.socket, near: socket.socket, held: threading.Event) -> None:
        while data := far.recv(65536):
            if held.is_set():
                held.clear()
                self.answered.set()
                self.release.wait(20)
            with contextlib.suppress(OSError):  # the client has gone
                near.sendall(data)


def marks_of(cache: Cache) -> dict[str, Any]:
    clients = cache._find()
    assert clients is not None
    marks: dict[str, Any] = clients.engine.state.marks.keys
    return marks


def reads_the_replica(cache: Cache) -> bool:
    return any(node.use == "reads" and node.role == "replica" for node in cache.health().nodes)


async def hits_the_replica(cache: Cache, version: int) -> None:
    """Wait until this loop reads the replica, which has this version of `KEY`."""
    before = cache.stats().counters.replica_hits
    for _ in range(500):
        assert await cache.aget(KEY) == [version]  # an int would be a counter, which is read at the master
        if cache.stats().counters.replica_hits > before + 2:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the replica is not read")


def gets(deployment: Deployment) -> int:
    """How many keys were asked for at the replica."""
    calls = deployment.nodes[1].info("commandstats")
    named = (calls.get(f"cmdstat_{name}", "calls=0") for name in ("get", "mget"))
    return sum(int(stat.split(",")[0].removeprefix("calls=")) for stat in named)


def forgotten(cache: Cache) -> None:
    """Block this thread until the background has forgotten the marks of all keys."""
    wait_for(lambda: not marks_of(cache), 15, "the marks to be forgotten")


async def blocked_once_sent(
    deployment: Deployment, turns: int, block: Callable[[], None], *reads: Awaitable[Any]
) -> tuple[list[Any], bool]:
    """What reads bring if this loop is blocked so many of its turns later; and whether the replica was asked before
    that, so that its answers wait in the socket."""
    loop, asked, were_asked = asyncio.get_running_loop(), gets(deployment), False

    def later(left: int) -> None:
        nonlocal were_asked
        if left:
            loop.call_soon(later, left - 1)
            return
        block()
        were_asked = gets(deployment) > asked

    tasks = [asyncio.ensure_future(read) for read in reads]
    loop.call_soon(later, turns)
    return await asyncio.gather(*tasks), were_asked


def read_by_a_call(cache: Cache, page: Any) -> Awaitable[Any]:
    answer: Awaitable[Any] = page(1)
    return answer


def read_by_key(cache: Cache, page: Any) -> Awaitable[Any]:
    return cache.aget(KEY)


async def read_many(cache: Cache, page: Any) -> Any:
    return (await cache.aget_many([KEY])).get(KEY)


@pytest.mark.parametrize("read", [read_by_a_call, read_by_key, read_many])
@pytest.mark.parametrize("readers", [1, 2])
def test_rule_7_the_loop_is_blocked_until_the_mark_is_forgotten(
    lagging: Deployment, read: Read, readers: int
) -> None:
    """The second reader, if there is one, waits for the answer to the first."""
    site = Site()

    async def old_was_read(cache: Cache, page: Any, turns: int) -> bool:
        version = site.change()
        await cache.aset(KEY, [version])
        await page.ainvalidate(1)
        assert await page(1) == version
        await hits_the_replica(cache, version)
        site.change()
        await (page.ainvalidate(1) if read is read_by_a_call else cache.adelete(KEY))
        reads = [read(cache, page) for _ in range(readers)]
        values, asked = await blocked_once_sent(lagging, turns, lambda: forgotten(cache), *reads)
        assert values == [version + 1 if read is read_by_a_call else None] * readers
        return asked

    with Cache(
        lagging.url, namespace=f"{read.__name__}{readers}", lag_bound=LAG_BOUND, budget=BUDGET, beta=0, hedge=0
    ) as cache:
        page = site.aon(cache)
        assert any(asyncio.run(old_was_read(cache, page, turns)) for turns in TURNS)


def test_rule_8_what_was_invalidated_while_the_loop_was_blocked_is_not_kept_near(lagging: Deployment) -> None:
    """Another process invalidates meanwhile; that call may return the old value, later ones may not."""
    site = Site()
    options: dict[str, Any] = {"namespace": "near", "lag_bound": LAG_BOUND, "budget": BUDGET, "beta": 0, "hedge": 0}

    async def old_was_read(mine: Any, others: Any, cache: Cache, number: int, turns: int) -> bool:
        others(number)
        await cache.aset(KEY, [number])
        await hits_the_replica(cache, number)

        def block() -> None:
            site.change(number)
            assert others.invalidate(number)
            wait_for(lambda: mine.key(number) in marks_of(cache), 5, "the mark")
            forgotten(cache)

        _, asked = await blocked_once_sent(lagging, turns, block, mine(number))
        assert await mine(number) == 1
        return asked

    with Cache(lagging.url, **options) as cache, Cache(lagging.url, **options) as other:
        mine, others = site.aon(cache, near=60), site.on(other)
        assert any(asyncio.run(old_was_read(mine, others, cache, n, turns)) for n, turns in enumerate(TURNS, 1))


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_rule_7_a_patient_function_and_a_replica_that_answers_late(lagging: Deployment, kind: str) -> None:
    """The function waits for longer than the cache keeps marks."""
    site, replica = Site(), lagging.nodes[1]
    with (
        HeldAnswers(replica.port) as proxy,
        Cache(
            lagging.url,
            namespace=kind,
            lag_bound=LAG_BOUND,
            budget=BUDGET,
            beta=0,
            hedge=0,
            address_map=lambda address: proxy.address if address.port == replica.port else address,
        ) as cache,
    ):
        page = site.on(cache, budget=60) if kind == "thread" else site.aon(cache, budget=60)
        with asyncio.Runner() as runner:

            def call(work: Any) -> Any:
                return work if kind == "thread" else runner.run(work)

            def invalidate() -> None:
                assert page.invalidate(1)

            assert call(page(1)) == 0
            wait_for(lambda: reads_the_replica(cache), 10, "the replica to be used")
            wait_for(
                lambda: call(page(1)) == 0 and page.stats().counters.replica_hits > 3, 10, "hits at the replica"
            )
            site.change()
            invalidate()
            proxy.hold()

            def late() -> None:
                assert proxy.answered.wait(10)
                forgotten(cache)
                proxy.release.set()

            helper = threading.Thread(target=late)
            helper.start()
            value = call(page(1))
            helper.join()
            assert proxy.release.is_set()
            assert value == 1
