"""Reading one cached value in a task. Each gives a coroutine function of one number."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import hiredis
from tests.servers import Server

from benchmarks.peers.blocking import NUMBERS, TTL, Product, key_of
from benchmarks.results import Kind
from benchmarks.values import product
from evercache import Cache

__all__ = ["CONTESTANTS", "FLOOR", "OURS", "REDIS", "TaskContestant"]

Read = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class TaskContestant:
    """As `harness.Contestant`, for a loop."""

    name: str
    open: Callable[[Server], AbstractAsyncContextManager[Read]]
    kind: Kind = "peer"
    needs: tuple[str, ...] = ()


class AsyncProduct(Product):
    """`product` as a coroutine function, counting too."""

    def __init__(self) -> None:
        super().__init__()

        async def aproduct(number: int) -> dict[str, Any]:
            return self.function(number)

        self.coroutine = aproduct

    @contextlib.asynccontextmanager
    async def acached(self, read: Read) -> AsyncIterator[Read]:
        """See `cached`."""
        for number in NUMBERS:
            await read(number)
        runs = self.runs
        await check(read)
        self.seen(runs)
        yield read
        self.seen(runs)


async def check(read: Read) -> None:
    """`RuntimeError` for another value than the function gives."""
    for number in NUMBERS:
        if await read(number) != product(number):
            raise RuntimeError(f"{read!r} gave another value")


async def present(read: Read) -> Read:
    """A reader of our entries that decodes nothing, seen to find them."""
    for number in NUMBERS:
        if not isinstance(await read(number), bytes):
            raise RuntimeError(f"{read!r} found no entry")
    return read


@contextlib.asynccontextmanager
async def ours(server: Server) -> AsyncIterator[Read]:
    async with Cache(server.url, namespace="bench") as cache:
        read = cache.cached(ttl=TTL, name="product")(AsyncProduct().coroutine)
        for number in NUMBERS:
            await read(number)
        for _ in range(250):  # until the tail is sure
            if all([await read.apeek(n) == product(n) for n in NUMBERS]):
                break
            await asyncio.sleep(0.02)
        await check(read)
        runs = read.stats().counters.computed
        yield read
        if read.stats().counters.computed != runs:
            raise RuntimeError("a call of ours did not hit")


class Floor(asyncio.Protocol):
    """Commands of one turn of the loop go out in one write, each has a future; nothing is decoded."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets, waiting = self._reader.gets, self._waiting
        while (reply := gets()) is not False:
            waiting.popleft().set_result(reply)

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._waiting.append(future)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        return future

    def _flush(self) -> None:
        self.transport.write(b"".join(self._out))
        self._out.clear()


@contextlib.asynccontextmanager
async def floor(server: Server) -> AsyncIterator[Read]:
    packed = [hiredis.pack_command(("GET", key_of(number))) for number in NUMBERS]
    _, protocol = await asyncio.get_running_loop().create_connection(Floor, "127.0.0.1", server.port)

    async def read(number: int) -> Any:
        return await protocol.ask(packed[number])

    yield await present(read)
    protocol.transport.close()


@contextlib.asynccontextmanager
async def glide(server: Server) -> AsyncIterator[Read]:
    from glide import GlideClient, GlideClientConfiguration, NodeAddress

    client = await GlideClient.create(GlideClientConfiguration([NodeAddress("127.0.0.1", server.port)]))
    keys = [key_of(number) for number in NUMBERS]

    async def read(number: int) -> Any:
        return await client.get(keys[number])

    yield await present(read)
    await client.close()


@contextlib.asynccontextmanager
async def redis_get(server: Server) -> AsyncIterator[Read]:
    from redis.asyncio import Redis

    keys = [key_of(number) for number in NUMBERS]
    async with Redis(port=server.port) as client:

        async def read(number: int) -> Any:
            return await client.get(keys[number])

        yield await present(read)


@contextlib.asynccontextmanager
async def coredis_get(server: Server) -> AsyncIterator[Read]:
    from coredis import Redis

    keys = [key_of(number) for number in NUMBERS]
    async with Redis(port=server.port) as client:

        async def read(number: int) -> Any:
            return await client.get(keys[number])

        yield await present(read)


@contextlib.asynccontextmanager
async def aiocache_decorated(server: Server) -> AsyncIterator[Read]:
    import aiocache
    from aiocache.serializers import PickleSerializer

    computed = AsyncProduct()
    decorated = aiocache.cached(
        ttl=TTL,
        cache=aiocache.Cache.REDIS,
        endpoint="127.0.0.1",
        port=server.port,
        serializer=PickleSerializer(),
        namespace="aiocache",
    )(computed.coroutine)
    async with computed.acached(decorated) as read:
        yield read
    await decorated.cache.close()


@contextlib.asynccontextmanager
async def cashews_decorated(server: Server) -> AsyncIterator[Read]:
    from cashews import Cache as Cashews

    cache = Cashews()
    cache.setup(server.url)
    computed = AsyncProduct()
    async with computed.acached(cache(ttl=TTL, key="product:{number}")(computed.coroutine)) as read:
        yield read
    await cache.close()


FLOOR = TaskContestant("bare protocol", floor, "floor")
OURS = TaskContestant("evercache", ours, "ours")
REDIS = TaskContestant("redis.asyncio get", redis_get, needs=("redis",))
CONTESTANTS = (
    OURS,  # first: others read its entries
    FLOOR,
    REDIS,
    TaskContestant("valkey-glide get", glide, needs=("glide",)),
    TaskContestant("coredis get", coredis_get, needs=("coredis",)),
    TaskContestant("aiocache", aiocache_decorated, needs=("aiocache", "redis")),
    TaskContestant("cashews", cashews_decorated, needs=("cashews", "redis")),
)
