"""The sets, hashes and sorted sets of django-redis, as raw data on the primary.

Nothing of the freshness protocol holds for them: a failover can lose the last writes, and they have no time-out.
They lie apart from the entries; `clear()` ends them as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from evercache.integrations.django.core import Core

if TYPE_CHECKING:
    import redis

__all__ = ["Structures"]


class Client:
    """What django-redis calls `cache.client`: raw clients, and the names that structures have on the servers."""

    def __init__(self, backend: Structures) -> None:
        self._backend = backend

    def __repr__(self) -> str:
        return f"<Client of {self._backend!r}>"

    def get_client(self, write: bool = True, **_: Any) -> redis.Redis:
        """A client of the primary, or of the replicas."""
        cache = self._backend.evercache
        return cache.master if write else cache.replica

    def make_key(self, key: Any, version: int | None = None) -> str:
        """The name of a set, a hash or a sorted set."""
        return f"{self._backend.evercache.settings.namespace}:r:{self._backend.make_key(key, version=version)}"

    def encode(self, value: Any) -> bytes:
        """The bytes of a member or a field's value: the same for values that are equal."""
        cache = self._backend.evercache
        payload, codec, compressed = cache._encoder.encode(value, cache.settings.namespace.encode())
        return bytes([codec | compressed << 7]) + payload

    def decode(self, data: bytes) -> Any:
        """The value of such bytes."""
        cache = self._backend.evercache
        return cache._encoder.decode(data[1:], data[0] & 127, data[0] > 127, cache.settings.namespace.encode())


class Shape(Struct, frozen=True):
    """How a command is called: `keys` of its arguments are keys (the last of them too, where it is -1), those from
    `members` on are values. `result`: what is made of the answer, with the client; None: it is returned."""

    keys: int = 1
    members: int | None = None
    result: Callable[[Client, Any], Any] | None = None


class Call(Struct, frozen=True):
    """One command, as redis-py takes it, and what is made of its answer."""

    command: str
    names: list[str]
    arguments: Any
    options: dict[str, Any]
    result: Callable[[Client, Any], Any] | None = None


def _set(client: Client, found: Any) -> Any:
    return {client.decode(each) for each in found}


def _one_or_list(client: Client, found: Any) -> Any:
    return [client.decode(each) for each in found] if isinstance(found, list) else found and client.decode(found)


def _one_or_set(client: Client, found: Any) -> Any:
    return _set(client, found) if isinstance(found, (list, set)) else found and client.decode(found)


def _scored(client: Client, found: Any) -> Any:
    return [
        (client.decode(each[0]), each[1]) if isinstance(each, (tuple, list)) else client.decode(each)
        for each in found
    ]


def _true(_: Client, found: Any) -> bool:
    return bool(found)


def _texts(_: Client, found: Any) -> list[str]:
    return [field.decode() for field in found]


_COMMANDS: Final = {
    **dict.fromkeys(("sadd", "srem", "zrem"), Shape(members=1)),
    **dict.fromkeys(("scard", "zcard", "zcount", "zremrangebyscore", "hlen", "hdel"), Shape()),
    **dict.fromkeys(("sdiff", "sinter", "sunion"), Shape(keys=-1, result=_set)),
    **dict.fromkeys(("sdiffstore", "sinterstore", "sunionstore"), Shape(keys=-1)),
    "smismember": Shape(members=1, result=lambda _, found: list(map(bool, found))),
    "sismember": Shape(members=1, result=_true),
    "smembers": Shape(result=_set),
    "smove": Shape(keys=2, members=2, result=_true),
    "spop": Shape(result=_one_or_set),
    "srandmember": Shape(result=_one_or_list),
    "hkeys": Shape(result=_texts),
    "hexists": Shape(result=_true),
    **dict.fromkeys(("zrank", "zscore"), Shape(members=1)),
    "zincrby": Shape(members=2),
    **dict.fromkeys(("zrange", "zrangebyscore", "zrevrange", "zrevrangebyscore"), Shape(result=_scored)),
}


class Structures(Core):
    """A part of the backend: each command is a method for threads, and with an `a` in front one for tasks."""

    @property
    def client(self) -> Client:
        """Raw clients, as django-redis names them."""
        return Client(self)

    def _names(self, keys: Any, version: Any, version_keys: Any) -> list[str]:
        first = [self.client.make_key(key, version) for key in keys[:1]]
        return first + [self.client.make_key(key, version_keys) for key in keys[1:]]

    def _queue(self, pipe: Any, call: Call) -> Any:
        """A command, and the name of what it may have made, for `clear()`."""
        getattr(pipe, call.command)(*call.names, *call.arguments, **call.options)
        pipe.sadd(self._register, *call.names)
        return pipe

    def _run(self, call: Call) -> Any:
        found = self._queue(self.evercache.master.pipeline(transaction=False), call).execute()[0]
        return found if call.result is None else call.result(self.client, found)

    async def _arun(self, call: Call) -> Any:
        found = (await self._queue(self.evercache.amaster.pipeline(transaction=False), call).execute())[0]
        return found if call.result is None else call.result(self.client, found)

    @property
    def _register(self) -> str:
        return f"{self.evercache.settings.namespace}:r"

    def _end_structures(self) -> None:
        """End all of them; nothing where a server cannot be asked."""
        if self.evercache.location.kind == "memory":
            return
        import redis  # with the extra

        try:
            master = self.evercache.master
            if names := master.smembers(self._register):
                master.unlink(self._register, *names)
        except redis.RedisError:
            return  # the mark of everything is queued, and this is no entry

    def sscan_iter(
        self, key: Any, match: str | None = None, count: int = 10, version: int | None = None
    ) -> Iterator[Any]:
        """The members of a set, page by page; with `match` those whose text fits a glob pattern."""
        (name,), client = self._names([key], version, None), self.client
        for data in self.evercache.master.sscan_iter(name, count=count):
            value = client.decode(data)
            if match is None or fnmatchcase(str(value), match):
                yield value

    async def asscan_iter(
        self, key: Any, match: str | None = None, count: int = 10, version: int | None = None
    ) -> AsyncIterator[Any]:
        """`sscan_iter` for tasks."""
        (name,), client = self._names([key], version, None), self.client
        async for data in self.evercache.amaster.sscan_iter(name, count=count):
            value = client.decode(data)
            if match is None or fnmatchcase(str(value), match):
                yield value

    def sscan(self, *arguments: Any, **options: Any) -> set[Any]:
        """The members of a set: `sscan_iter` at once."""
        return set(self.sscan_iter(*arguments, **options))

    async def asscan(self, *arguments: Any, **options: Any) -> set[Any]:
        """`sscan` for tasks."""
        return {value async for value in self.asscan_iter(*arguments, **options)}


def _usual(shape: Shape) -> Callable[..., Call]:
    """What makes the call of a command of its arguments."""

    def call(
        self: Structures,
        command: str,
        *arguments: Any,
        version: int | None = None,
        version_dest: int | None = None,
        version_keys: int | None = None,
        **options: Any,
    ) -> Call:
        client = self.client
        last = len(arguments) if shape.keys < 0 else shape.keys
        names = self._names(
            arguments[:last],
            version if version_dest is None else version_dest,
            version if version_keys is None else version_keys,
        )
        first = len(arguments) if shape.members is None else shape.members
        rest = [client.encode(each) if at >= first else each for at, each in enumerate(arguments)][last:]
        options |= {name: client.encode(options[name]) for name in ("value", "member") if name in options}
        return Call(command, names, rest, options, shape.result)

    return call


def _hset(
    self: Structures,
    command: str,
    key: Any,
    field: Any = None,
    value: Any = None,
    mapping: Any = None,
    version: int | None = None,
) -> Call:
    pairs = dict(mapping or {}) | ({} if field is None else {field: value})
    coded = {name: self.client.encode(each) for name, each in pairs.items()}
    return Call(command, self._names([key], version, None), (), {"mapping": coded})


def _zadd(
    self: Structures, command: str, key: Any, mapping: Any, *flags: bool, version: int | None = None, **options: Any
) -> Call:
    coded = {self.client.encode(member): score for member, score in mapping.items()}
    return Call(command, self._names([key], version, None), (coded, *flags), options)


def _pop(self: Structures, command: str, key: Any, count: int | None = None, version: int | None = None) -> Call:
    result = _scored if count is not None else lambda client, found: next(iter(_scored(client, found)), None)
    return Call(command, self._names([key], version, None), (count or 1,), {}, result)


def _methods(command: str, call: Callable[..., Call]) -> None:
    """Add the two forms of a command to the class."""

    def sync(self: Structures, *arguments: Any, **options: Any) -> Any:
        return self._run(call(self, command, *arguments, **options))

    async def tasks(self: Structures, *arguments: Any, **options: Any) -> Any:
        return await self._arun(call(self, command, *arguments, **options))

    for name, method in ((command, sync), (f"a{command}", tasks)):
        method.__name__, method.__qualname__ = name, f"Structures.{name}"
        method.__doc__ = f"`{command.upper()}` of the server, with the values of this cache. See the module."
        setattr(Structures, name, method)


for _command, _shape in _COMMANDS.items():
    _methods(_command, _usual(_shape))
_methods("hset", _hset)
_methods("zadd", _zadd)
_methods("zpopmax", _pop)
_methods("zpopmin", _pop)
