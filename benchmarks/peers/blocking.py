"""Reading one cached value in a thread. Each gives a function of one number; the value is `product(number)`."""

from __future__ import annotations

import contextlib
import contextvars
import pickle
import socket
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import hiredis
from tests.servers import Server, wait_for

from benchmarks.harness import Contestant
from benchmarks.values import product
from evercache import Cache

__all__ = [
    "DJANGO",
    "DOGPILE",
    "FLASK",
    "FLASK_OURS",
    "FLOOR",
    "MEMOIZE",
    "OURS",
    "PYBOSSA",
    "REDIS",
    "VALKEY",
    "Product",
    "cached_product",
    "key_of",
]

TTL = 3600
NUMBERS = range(64)
Read = Callable[[int], Any]


def cached_product(cache: Cache) -> Any:
    """`product` cached by us; its entries are read by the clients that decode nothing, too."""
    return cache.cached(ttl=TTL, name="product")(product)


def key_of(number: int) -> str:
    """The key of our entry."""
    key: str = cached_product(Cache("memory://", namespace="bench")).key(number)
    return key


class Product:
    """`product`, counting how often it runs: what is measured as a hit must be one."""

    def __init__(self) -> None:
        self.runs = 0

        def counted(number: int) -> dict[str, Any]:
            self.runs += 1
            return product(number)

        self.function: Read = counted

    @contextlib.contextmanager
    def cached(self, read: Read) -> Iterator[Read]:
        """Fills the cache; `RuntimeError` if a number is computed again while it is measured."""
        for number in NUMBERS:
            read(number)
        runs = self.runs
        check(read)
        self.seen(runs)
        yield read
        self.seen(runs)

    def seen(self, runs: int) -> None:
        """`RuntimeError` unless the function ran so often."""
        if self.runs != runs:
            raise RuntimeError(f"computed {self.runs - runs} times more, where hits are measured")


def check(read: Read) -> None:
    """`RuntimeError` for another value than the function gives."""
    for number in NUMBERS:
        if read(number) != product(number):
            raise RuntimeError(f"{read!r} gave another value")


@contextlib.contextmanager
def ours(server: Server) -> Iterator[Read]:
    with Cache(server.url, namespace="bench") as cache:
        read = cached_product(cache)
        for number in NUMBERS:
            read(number)
        wait_for(lambda: all(read.peek(n) == product(n) for n in NUMBERS), 5.0, "the entries")
        runs = read.stats().counters.computed
        check(read)
        yield read
        if read.stats().counters.computed != runs:
            raise RuntimeError("a call of ours did not hit")


@contextlib.contextmanager
def pybossa(server: Server) -> Iterator[Read]:
    """The same under `memoize` of the drop-in for PyBossa's module."""
    from evercache.integrations.pybossa import Sentinel, provide

    module: dict[str, Any] = {"sentinel": Sentinel()}
    provide(module)
    module["sentinel"].configure({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": server.port})
    computed = Product()
    try:
        read = module["memoize"](timeout=TTL)(computed.function)
        read(0)
        client = module["sentinel"].home.cache
        wait_for(lambda: client.health().ok, 5.0, "the cache of the drop-in")
        with computed.cached(read):
            yield read
    finally:
        module["sentinel"].close()


@contextlib.contextmanager
def floor(server: Server) -> Iterator[Read]:
    """The same command, already packed, on one blocking socket; the reply parsed, nothing decoded."""
    packed = [hiredis.pack_command(("GET", key_of(number))) for number in NUMBERS]
    reader = hiredis.Reader()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send, receive, feed, gets = connection.send, connection.recv, reader.feed, reader.gets

        def read(number: int) -> Any:
            send(packed[number])
            feed(receive(65536))
            return gets()

        yield present(read)


def present(read: Read) -> Read:
    """A reader of our entries that decodes nothing, seen to find them."""
    if any(not isinstance(read(number), bytes) for number in NUMBERS):
        raise RuntimeError(f"{read!r} found no entry")
    return read


@contextlib.contextmanager
def redis_get(server: Server) -> Iterator[Read]:
    import redis

    keys = [key_of(number) for number in NUMBERS]
    with redis.Redis(port=server.port) as client:
        yield present(lambda number: client.get(keys[number]))


@contextlib.contextmanager
def valkey_get(server: Server) -> Iterator[Read]:
    import valkey

    keys = [key_of(number) for number in NUMBERS]
    client = valkey.Valkey(port=server.port)
    try:
        yield present(lambda number: client.get(keys[number]))
    finally:
        client.close()


@contextlib.contextmanager
def memoize(server: Server) -> Iterator[Read]:
    """The design of 2013 as a decorator: a key out of the arguments, pickle, `get` and `setex`."""
    import redis

    client = redis.Redis(port=server.port)

    def memoized(function: Read) -> Read:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            key = f"2013:{function.__module__}.{function.__qualname__}:{args!r}:{sorted(kwargs.items())!r}"
            found = client.get(key)
            if found is not None:
                return pickle.loads(found)
            value = function(*args, **kwargs)
            client.setex(key, TTL, pickle.dumps(value))
            return value

        return call

    computed = Product()
    with client, computed.cached(memoized(computed.function)) as read:
        yield read


@contextlib.contextmanager
def dogpile(server: Server) -> Iterator[Read]:
    from dogpile.cache import make_region

    region = make_region().configure(
        "dogpile.cache.redis", expiration_time=TTL, arguments={"host": "127.0.0.1", "port": server.port}
    )
    computed = Product()
    with computed.cached(region.cache_on_arguments()(computed.function)) as read:
        yield read


@contextlib.contextmanager
def django(server: Server) -> Iterator[Read]:
    from django.conf import settings

    if not settings.configured:
        backend = "django.core.cache.backends.redis.RedisCache"
        settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": server.url, "TIMEOUT": TTL}})
    from django.core.cache import cache

    keys = [f"product:{number}" for number in NUMBERS]
    for number in NUMBERS:
        cache.set(keys[number], product(number))

    def read(number: int) -> Any:
        return cache.get(keys[number])

    check(read)
    yield read


@contextlib.contextmanager
def flask(server: Server) -> Iterator[Read]:
    from flask import Flask
    from flask_caching import Cache as FlaskCache

    app = Flask("bench")
    cache = FlaskCache(
        app,
        config={
            "CACHE_TYPE": "RedisCache",
            "CACHE_REDIS_HOST": "127.0.0.1",
            "CACHE_REDIS_PORT": server.port,
            "CACHE_DEFAULT_TIMEOUT": TTL,
        },
    )
    computed = Product()
    with computed.cached(within(app, cache.memoize()(computed.function))) as read:
        yield read


def within(app: Any, function: Read) -> Read:
    """The function, always called in the context of this application: there are two in this process."""
    context = contextvars.copy_context()
    context.run(app.app_context().push)

    def read(number: int) -> Any:
        return context.run(function, number)

    return read


@contextlib.contextmanager
def flask_ours(server: Server) -> Iterator[Read]:
    from flask import Flask

    from evercache.integrations.flask import Cache as FlaskCache

    app = Flask("bench")
    options = {"EVERCACHE_URL": server.url, "SECRET_KEY": "bench", "CACHE_DEFAULT_TIMEOUT": TTL}
    cache = FlaskCache(app, config=options)
    computed = Product()
    with app.app_context():
        evercache = cache.cache.evercache
    with evercache, computed.cached(within(app, cache.memoize()(computed.function))) as read:
        yield read


FLOOR = Contestant("bare socket", floor, "floor")
OURS = Contestant("evercache", ours, "ours")
PYBOSSA = Contestant("evercache for PyBossa", pybossa, "ours", needs=("redis",))
REDIS = Contestant("redis-py get", redis_get, needs=("redis",))
VALKEY = Contestant("valkey-py get", valkey_get, needs=("valkey",))
MEMOIZE = Contestant("pickle on redis-py", memoize, needs=("redis",))
DOGPILE = Contestant("dogpile.cache", dogpile, needs=("dogpile.cache", "redis"))
DJANGO = Contestant("Django cache.get", django, needs=("django", "redis"))
FLASK = Contestant("Flask-Caching memoize", flask, needs=("flask_caching", "redis"))
FLASK_OURS = Contestant("evercache for Flask memoize", flask_ours, "ours", needs=("flask", "cachelib"))
