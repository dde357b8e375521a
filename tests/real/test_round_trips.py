"""How many round trips each operation takes, counted by a proxy in front of each node.

A round trip is one flush of requests that wait for their replies, whatever their number. Each proxy holds up what
passes for a moment, so that the last byte of a flush has come long before the first reply leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hiredis import Reader
from tests.proxy import DelayProxy
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.ops.stalls import Stalls
from evercache.protocol.types import Address

#: What callers send, and not the background: the tail, the monitor and the topology send other commands.
WORDS = tuple(f"\r\n{word}\r\n".encode() for word in ("GET", "MGET", "EVALSHA", "EVAL", "WAIT"))
DELAY = 0.015
MANY = 100
#: Where a thread that only sleeps wakes so much late (s), the process stood still. A test is run so often at most.
STILL, TRIES = 0.1, 5


class Link:
    """The requests of one connection that wait for their replies. A request has the form of a reply."""

    def __init__(self) -> None:
        self._asked, self._answered, self.waiting = Reader(), Reader(), 0

    def forward(self, data: bytes) -> bool:
        """Whether a flush begins here: all that was asked is answered, and no request is half sent."""
        begins = not self.waiting and not self._asked.has_data()
        self.waiting += complete(self._asked, data)
        return begins

    def backward(self, data: bytes) -> None:
        self.waiting -= complete(self._answered, data)


def complete(reader: Reader, data: bytes) -> int:
    reader.feed(data)
    count = 0
    while reader.gets() is not False:
        count += 1
    return count


class TripProxy(DelayProxy):
    """Forwards a port, and counts the flushes of requests on each link."""

    def __init__(self, target: int) -> None:
        self.trips = 0  # written by the proxy's thread only
        self._links: defaultdict[object, Link] = defaultdict(Link)
        super().__init__(target, DELAY)

    def passed(self, link: object, data: bytes, *, forward: bool) -> None:
        if not forward:
            self._links[link].backward(data)
        elif self._links[link].forward(data) and any(word in data[:64] for word in WORDS):
            self.trips += 1


class Counted:
    """A cache whose calls pass proxies."""

    def __init__(self, cache: Cache, proxies: list[TripProxy]) -> None:
        self.cache, self.proxies = cache, proxies

    def trips(self, call: Callable[[], Any]) -> list[int]:
        """The round trips of one call, at each node."""
        before = [proxy.trips for proxy in self.proxies]
        call()
        return [proxy.trips - was for proxy, was in zip(self.proxies, before, strict=True)]


def warmed(cache: Cache) -> None:
    """The background runs, the time is known, and the server knows the scripts."""
    cache.stamp()
    cache.set("warm", 1)
    cache.delete("warm")
    cache.cached_many(name="warm")(lambda ids: dict.fromkeys(ids[1:], 1))([1, 2])


class Place:
    """Proxies in front of servers, and caches that pass them, each with names of its own."""

    def __init__(self, url: str, proxies: list[TripProxy], **options: Any) -> None:
        self._url, self._proxies, self._options = url, proxies, options
        self._names = map("trips{}".format, itertools.count())

    @contextlib.contextmanager
    def counted(self) -> Iterator[Counted]:
        with Cache(self._url, namespace=next(self._names), beta=0, hedge=0, budget=10, **self._options) as cache:
            if len(self._proxies) > 1:
                wait_for(lambda: any(n.use == "reads" for n in cache.health().nodes), 10, "the replica to be read")
            warmed(cache)
            yield Counted(cache, self._proxies)


def at(place: str) -> Callable[[Callable[[Counted], None]], Callable[[pytest.FixtureRequest], None]]:
    """A test that counts the trips of a cache at this place.

    Where the process stands still, its background takes the servers for gone, and asks them more or less than
    usual: a test that fails while it stood still is run again, with another cache.
    """

    def decorate(test: Callable[[Counted], None]) -> Callable[[pytest.FixtureRequest], None]:
        def run(request: pytest.FixtureRequest) -> None:
            where: Place = request.getfixturevalue(place)
            for left in reversed(range(TRIES)):
                try:
                    with Stalls(noise=STILL) as stalls, where.counted() as counted:
                        test(counted)
                    return
                except (AssertionError, TimeoutError):
                    if not left or not stalls.overslept:
                        raise

        run.__doc__ = test.__doc__
        return run

    return decorate


@pytest.fixture
def one(valkey: Server) -> Iterator[Place]:
    """One server."""
    with TripProxy(valkey.port) as proxy:
        yield Place(f"redis://127.0.0.1:{proxy.port}", [proxy])


@pytest.fixture(scope="module")
def replicated() -> Iterator[Place]:
    """A master and one replica, which is read."""
    with contextlib.ExitStack() as stack:
        deployment = stack.enter_context(Deployment.start(replicas=1, sentinels=1))
        nodes = [deployment.master(), *deployment.replicas]
        proxies = [stack.enter_context(TripProxy(node.port)) for node in nodes]
        ports = {node.port: proxy.port for node, proxy in zip(nodes, proxies, strict=True)}

        def mapped(address: Address) -> Address:
            return Address(address.host, ports.get(address.port, address.port))

        yield Place(deployment.url, proxies, address_map=mapped)


@at("one")
def test_a_hit_takes_one_and_a_fill_three(one: Counted) -> None:
    """A fill: the read, the lease, the store."""
    f = one.cache.cached(name="f", ttl=60)(lambda n: n)
    assert one.trips(lambda: f(1)) == [3]
    assert one.trips(lambda: f(1)) == [1]
    assert one.trips(lambda: one.cache.get("nothing")) == [2]  # only the master declares a miss


@at("one")
def test_an_invalidation_takes_one(one: Counted) -> None:
    f = one.cache.cached(name="f", ttl=60)(lambda n: n)
    f(1)
    assert one.trips(lambda: f.invalidate(1)) == [1]
    assert one.trips(f.invalidate_all) == [1]
    assert one.trips(lambda: one.cache.invalidate_tag("t")) == [1]
    assert one.trips(one.cache.clear) == [1]


@at("one")
def test_many_keys_take_one(one: Counted) -> None:
    cache = one.cache
    values = {f"k{n}": [n] for n in range(MANY)}
    assert one.trips(lambda: cache.set_many(values, ttl=60)) == [1]
    assert one.trips(lambda: all_there(cache, values)) == [1]
    assert one.trips(lambda: cache.delete_many(values)) == [1]
    assert one.trips(lambda: cache.get_many(values)) == [2]  # only the master declares a miss


def all_there(cache: Cache, values: dict[str, Any]) -> None:
    assert cache.get_many(values) == values


@at("one")
def test_a_batch_takes_as_many_as_one_call(one: Counted) -> None:
    """All hits: one. All misses: three, as for one key: leases are granted before the function runs, and values are
    stored after it."""
    asked: list[list[int]] = []

    @one.cache.cached_many(ttl=60, tags=("n:{id}",))
    def many(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        return {id: id for id in ids if id >= 0}

    ids = list(range(MANY))
    assert one.trips(lambda: many(ids)) == [3]
    assert one.trips(lambda: many(ids)) == [1]
    assert one.trips(lambda: many([*ids, *range(MANY, 2 * MANY)])) == [3]
    assert one.trips(lambda: many([-1, *range(2 * MANY, 3 * MANY)])) == [3]  # one lease ends with the stores
    assert one.trips(lambda: many.peek(ids)) == [1]
    assert one.trips(lambda: many.invalidate(ids)) == [1]
    assert one.trips(many.invalidate_all) == [1]
    assert one.trips(lambda: many.refresh(ids)) == [2]
    assert [len(each) for each in asked] == [MANY, MANY, MANY + 1, MANY]


@at("one")
def test_tasks_take_as_many(one: Counted) -> None:
    async def run() -> list[list[int]]:
        cache = one.cache

        @cache.cached_many(name="many")
        async def many(ids: list[int]) -> dict[int, int]:
            return {id: id for id in ids}

        f = cache.cached(name="f")(one_task)
        values = {f"k{n}": [n] for n in range(MANY)}
        await cache.aget("warm")  # connects
        found = []
        for call in (
            lambda: f(1),
            lambda: f(1),
            lambda: f.ainvalidate(1),
            lambda: many(range(MANY)),
            lambda: many(range(MANY)),
            lambda: cache.aset_many(values),
            lambda: cache.aget_many(values),
            lambda: cache.adelete_many(values),
        ):
            before = one.proxies[0].trips
            await call()
            found.append(one.proxies[0].trips - before)
        return found

    assert asyncio.run(run()) == [3, 1, 1, 3, 1, 1, 1, 1]


async def one_task(n: int) -> int:
    return n


@at("replicated")
def test_with_a_replica_each_node_is_asked_once(replicated: Counted) -> None:
    """Reads go to the replica; what it lacks, and all writes, to the master."""
    cache = replicated.cache
    many = cache.cached_many(name="many", ttl=60)(lambda ids: {id: id for id in ids})
    values: dict[str, Any] = {f"k{n}": [n] for n in range(MANY)}
    keys: Iterable[str] = values
    assert replicated.trips(lambda: many(range(MANY))) == [2, 1]
    assert replicated.trips(lambda: cache.set_many(values, ttl=60)) == [1, 0]
    wait_for(lambda: many(range(MANY)) and replicated.trips(lambda: many(range(MANY))) == [0, 1], 5, "the replica")
    wait_for(lambda: replicated.trips(lambda: cache.get_many(keys)) == [0, 1], 5, "the replica")
    assert replicated.trips(lambda: cache.delete_many(keys)) == [1, 0]
    assert replicated.trips(lambda: many.invalidate(range(MANY))) == [1, 0]
