"""Memory, threads or descriptors that this process lacks reach no caller, whatever was under way."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from evercache import Cache
from evercache.client.waits import SyncWaits, in_thread
from evercache.clock import monotonic
from evercache.codecs import Encoder
from evercache.errors import ConfigurationError, ConnectionFailed, ResourceExhausted
from evercache.net import sockets
from evercache.net.blocking import BlockingEndpoint
from evercache.net.channel import Channel
from evercache.net.pipelined import PipelinedWire
from evercache.net.types import ConnectionOptions, TLSOptions
from evercache.observe import EventHub, events
from evercache.protocol.types import Address
from evercache.topology.replicated import ReplicatedTopology

HERE = Address("127.0.0.1", 1)


def no_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError


def no_thread(*_: Any, **__: Any) -> Any:
    raise RuntimeError("can't start new thread")


@pytest.fixture(params=["decode", "encode"])
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def lack() -> None:
        monkeypatch.setattr(Encoder, request.param, no_memory)
        if request.param == "decode":
            monkeypatch.setattr("evercache.client.serving.decode_plain", no_memory)

    return lack


@pytest.mark.parametrize("near", [0, 5])
def test_a_cached_call_gives_the_value(lacking: Callable[[], None], near: float) -> None:
    with Cache("memory://", namespace="shortage") as cache:

        @cache.cached(ttl=60, near=near)
        def page(number: int) -> list[int]:
            return [number]

        @cache.cached_many(ttl=60)
        def pages(numbers: list[int]) -> dict[int, int]:
            return {number: number for number in numbers}

        assert page(1) == [1]
        assert pages([1, 2]) == {1: 1, 2: 2}
        lacking()
        assert page(1) == [1]
        assert page(2) == [2]
        assert page.refresh(1) == [1]
        assert page.peek(1, default=[1]) == [1]
        assert pages([1, 2, 3]) == {1: 1, 2: 2, 3: 3}
        assert pages.refresh([1, 4]) == {1: 1, 4: 4}
        pages.peek([1, 2])


async def test_a_task_gets_the_value(lacking: Callable[[], None]) -> None:
    async with Cache("memory://", namespace="shortage") as cache:

        @cache.cached(ttl=60)
        async def page(number: int) -> list[int]:
            return [number]

        assert await page(1) == [1]
        lacking()
        assert await page(1) == [1]
        assert await page(2) == [2]
        assert await page.arefresh(1) == [1]
        await cache.aget("k")
        await cache.aset("k", "x")


def test_direct_operations_say_that_they_did_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Cache("memory://", namespace="shortage") as cache:
        assert cache.set("k", "old")
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "decode", no_memory)
            patch.setattr("evercache.client.serving.decode_plain", no_memory)
            assert cache.get("k", "none") == "none"
            assert cache.get_many(["k"]) == {"k": None}
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "encode", no_memory)
            ack = cache.set("k", "new")
        assert (ack.done, ack.reason) == (False, "unavailable")
        assert cache.get("k", "none") == "none", "what was there before is not taken for the new value"


def test_on_error_raise_says_what_is_missing(lacking: Callable[[], None]) -> None:
    with Cache("memory://", namespace="shortage", on_error="raise") as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> list[int]:
            return [number]

        page(1)
        cache.set("k", "x")
        lacking()
        failures = 0
        for call in (lambda: page(1), lambda: cache.get("k"), lambda: cache.set("k", "y"), lambda: page.peek(1)):
            try:
                call()
            except ResourceExhausted:
                failures += 1
        assert failures


def test_a_function_that_lacks_memory_raises_as_ever() -> None:
    runs: list[int] = []
    with Cache("memory://", namespace="shortage") as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> int:
            runs.append(number)
            raise MemoryError("of the function")

        with pytest.raises(MemoryError, match="of the function"):
            page(1)
    assert runs == [1]


def test_a_function_runs_once_where_its_value_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    with Cache("memory://", namespace="shortage") as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> int:
            runs.append(number)
            return number

        client = cache._client_sync()
        assert client is not None
        with monkeypatch.context() as patch:
            patch.setattr(client.leads, "_stored", no_memory)
            assert page(1) == 1
        assert runs == [1]


async def test_a_refresh_by_a_task_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache("memory://", namespace="shortage")

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        return number

    page(1)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert await page.arefresh(1) == 1
    await cache.aclose()


async def test_work_in_a_thread() -> None:
    assert await in_thread(lambda: threading.current_thread().name) == "evercache-work"
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


class Fails(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


def test_a_log_that_raises_is_no_matter_of_the_caller() -> None:
    logger = logging.Logger("failing")
    logger.addHandler(Fails())
    hub = EventHub(logger=logger)
    hub.emit(events.BackgroundUnavailable("no threads"))
    hub.emit(events.BackgroundRuns())
    assert hub.problems() == []


def test_events_are_told_again_once_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    hub = EventHub()
    hub.subscribers.add(lambda event: told.append(event.kind))
    for refuse in (no_thread, no_memory):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            hub.emit(events.GutterUsed())
            hub.emit(events.GutterLeft())
    # A thread that ended without saying so.
    hub.subscribers._thread = threading.Thread()
    hub.emit(events.GutterUsed())
    hub.subscribers.flush(5)
    assert len(told) == 5


# -- the wire


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError(), RuntimeError("no thread")])
def test_a_connection_that_cannot_be_made_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any) -> Any:
        raise error

    endpoint = BlockingEndpoint(HERE, ConnectionOptions(max_connections=1))
    monkeypatch.setattr("evercache.net.connection.new_socket", refuse)
    for _ in range(3):
        with pytest.raises(ConnectionFailed):
            endpoint.execute([("PING",)], monotonic() + 5)
    assert endpoint.outstanding == 0


async def connected() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_connection(lambda: Channel(HERE, ours, loop, keep_messages=False), sock=ours)
    return channel, theirs


@pytest.mark.parametrize("several", [False, True])
async def test_what_could_not_be_written_takes_no_other_reply(several: bool) -> None:
    """The reply to the next question would be taken for the one that never left."""
    channel, theirs = await connected()
    try:
        transport: Any = channel._transport

        class Once:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                channel._transport = transport
                no_memory()

        channel._transport = Once()  # type: ignore[assignment]
        channel._alone = not several  # else they leave together
        until = monotonic() + 5
        asked: list[Any] = [channel.get(f"k{n}", monotonic(), until) for n in range(3 if several else 1)]
        for question in asked:
            with pytest.raises(ConnectionFailed, match="memory"):
                await question
        assert channel.get("other", monotonic(), until) is None
    finally:
        channel.close()
        theirs.close()


def test_waiting_needs_no_poll_object(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exchange:
        asked = 0

        def settle(self) -> bool:
            self.asked += 1
            return self.asked > 3

        def fileno(self) -> int:
            return 0

    monkeypatch.setattr("select.poll", no_memory)
    exchange: Any = Exchange()
    assert SyncWaits.first([exchange], 5.0) is exchange


def test_tls_files_that_cannot_be_read_for_want_of_descriptors_are_no_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    options = ConnectionOptions(tls=TLSOptions(ca_certs=__file__))
    sockets._tls_context.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("ssl.create_default_context", refuse)
        sockets.check_options(HERE, options)
    with pytest.raises(ConfigurationError):
        sockets.check_options(HERE, options)


async def test_memory_that_is_missing_while_tasks_go_on_does_not_stop_the_connection() -> None:
    """It took questions for ever after, and sent none."""
    channel, theirs = await connected()
    try:
        question = channel.get("k", monotonic(), monotonic() + 5)
        assert question is not None
        question.add_done_callback(no_memory, context=contextvars.copy_context())
        asyncio.get_running_loop().call_soon(channel.data_received, b"$1\r\nx\r\n")
        await asyncio.sleep(0.01)
        assert channel.get("other", monotonic(), monotonic() + 5) is None
        assert not channel._flushing
    finally:
        channel.close()
        theirs.close()


async def test_names_that_nobody_could_be_asked_for_are_asked_for_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Names:
        lacking = True

        async def arecords(self, address: Address, limit: float) -> Any:
            if self.lacking:
                raise OSError(24, "Too many open files")
            return [(socket.AF_INET, (f"127.0.0.{n}", address.port)) for n in range(1, 4)]

    names, name = Names(), Address("db.example.test", 6379)
    monkeypatch.setattr("evercache.topology.replicated.resolver", names)
    topology = ReplicatedTopology(PipelinedWire(), name, (), ConnectionOptions())
    await topology._resolve()
    assert topology._nodes == (name,)
    names.lacking = False
    await topology._resolve()
    assert [node.host for node in topology._nodes] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


# -- the background of a cache


def test_nobody_waits_for_a_background_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of all waits for nothing, invalidations are queued, and health says why."""
    with Cache("redis://127.0.0.1:1", namespace="shortage", budget=5.0) as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> int:
            return number

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            began = monotonic()
            assert [page(number) for number in range(10)] == list(range(10))
            ack = page.invalidate(1)
            assert monotonic() - began < 2.5
        assert (ack.done, ack.queued) == (False, True)
        assert any("can't start new thread" in problem for problem in cache.health().problems)


def test_without_a_background_nothing_is_relied_on_once_the_master_is_silent() -> None:
    """Replicas serve while their logs are heard instead (rule 14); without a background nobody hears them."""
    with Cache("redis://127.0.0.1:1", namespace="shortage") as cache:
        engine = cache._raw_engine()
        state, master = engine.state, engine.view.master
        assert master is not None
        state.ready = True
        engine.master_trouble(master, ConnectionFailed("silent"))
        assert state.master_down
        assert not state.ready
