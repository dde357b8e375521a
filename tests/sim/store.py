"""The data of one simulated server, and the commands that the library uses on it.

A write is turned into effects (tuples that name absolute times and ids); applying the same effects in order makes
the same data anywhere: that is how replicas, restarts and promoted servers come by theirs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.sim.lua import Refused

__all__ = ["Data", "Effect", "Stream", "Writer", "command"]

Effect = tuple[Any, ...]
Id = tuple[int, int]

#: Commands that a server above `maxmemory` refuses (`denyoom`).
GROWING = frozenset((b"SET", b"SETRANGE", b"HSET", b"ZADD", b"XADD"))
#: Lines of a stream are trimmed by whole blocks of so many (`~`).
BLOCK = 4


@dataclass(slots=True)
class Stream:
    ids: list[Id] = field(default_factory=list)
    lines: list[list[bytes]] = field(default_factory=list)
    last: Id = (0, 0)

    def copy(self) -> Stream:
        return Stream(list(self.ids), list(self.lines), self.last)

    def cut(self, count: int) -> None:
        del self.ids[:count], self.lines[:count]

    def after(self, position: Id, count: int) -> list[list[Any]]:
        at = bisect_right(self.ids, position)
        return [
            [_show(i), list(f)] for i, f in zip(self.ids[at : at + count], self.lines[at : at + count], strict=True)
        ]


class Data:
    """Keys of all databases: each a list [value, expiry in us or None]; the value's type tells its kind."""

    __slots__ = ("dbs",)

    def __init__(self) -> None:
        self.dbs: dict[int, dict[bytes, list[Any]]] = {0: {}, 1: {}}

    def __repr__(self) -> str:
        return f"<Data keys={sum(map(len, self.dbs.values()))}>"

    def book(self) -> int:
        """The database of the bookkeeping: whose state says so, or, where that was evicted, any state."""
        states = {db: keys[b"sim~state"][0] for db, keys in self.dbs.items() if b"sim~state" in keys}
        return next((db for db, state in states.items() if b"data" in state), next(iter(states), 0))

    def copy(self) -> Data:
        other = Data()
        other.dbs = {
            db: {k: [v if isinstance(v, bytes) else v.copy(), expiry] for k, (v, expiry) in keys.items()}
            for db, keys in self.dbs.items()
        }
        return other

    def find(self, db: int, key: bytes, now_us: int) -> Any:
        """The value of a key that has not expired, or None."""
        item = self.dbs[db].get(key)
        if item is None or (item[1] is not None and item[1] <= now_us):
            return None
        return item[0]

    def apply(self, effect: Effect) -> None:
        """One effect; the same on every server."""
        op, db, key = effect[:3]
        keys = self.dbs[db] if op != "flush" else {}
        match op:
            case "set":
                keys[key] = [effect[3], effect[4]]
            case "del":
                keys.pop(key, None)
            case "expire":
                if key in keys:
                    keys[key][1] = effect[3]
            case "hset":
                keys.setdefault(key, [{}, None])[0].update(effect[3])
            case "hdel":
                for name in effect[3] if key in keys else ():
                    keys[key][0].pop(name, None)
            case "zadd":
                keys.setdefault(key, [{}, None])[0].update(effect[3])
            case "zrem":
                members = keys[key][0] if key in keys else {}
                for member in effect[3]:
                    members.pop(member, None)
                if key in keys and not members:
                    del keys[key]
            case "xadd":
                stream = keys.setdefault(key, [Stream(), None])[0]
                stream.ids.append(effect[3])
                stream.lines.append(effect[4])
                stream.last = effect[3]
            case "xcut":
                if key in keys:
                    keys[key][0].cut(effect[3])
            case "flush":
                self.dbs = {0: {}, 1: {}}


def _show(id: Id) -> bytes:
    return b"%d-%d" % id


def parse_id(text: bytes) -> Id:
    ms, _, seq = text.partition(b"-")
    return int(ms), int(seq or 0)


class Writer:
    """Runs commands against one server's data, by its clock; `emit` takes the effects."""

    __slots__ = ("data", "db", "dirty", "emit", "full", "info", "now_us", "readonly")

    def __init__(
        self,
        data: Data,
        db: int,
        now_us: int,
        readonly: bool,
        emit: Callable[[Effect], None],
        info: Callable[[], bytes],
        full: bool = False,
    ) -> None:
        self.data, self.db, self.now_us, self.readonly = data, db, now_us, readonly
        self.emit, self.info = emit, info
        #: Above `maxmemory`; a script that has written before is denied nothing.
        self.full, self.dirty = full, False

    def call(self, name: bytes, args: list[bytes]) -> Any:
        """One command; raises `Refused`."""
        run = COMMANDS.get(name)
        if run is None:
            raise Refused(f"ERR unknown command '{name.decode()}' (not simulated)")
        function, writes = run
        if writes and self.readonly:
            raise Refused("READONLY You can't write against a read only replica.")
        if self.full and name in GROWING and not self.dirty:
            raise Refused("OOM command not allowed when used memory > 'maxmemory'.")
        self.dirty = self.dirty or writes
        return function(self, *args)

    def find(self, key: bytes) -> Any:
        return self.data.find(self.db, key, self.now_us)

    def write(self, op: str, key: bytes, *rest: Any) -> None:
        if op != "set":
            item = self.data.dbs[self.db].get(key)
            if item is not None and item[1] is not None and item[1] <= self.now_us:
                self.emit(("del", self.db, key))
        self.emit((op, self.db, key, *rest))


COMMANDS: dict[bytes, tuple[Callable[..., Any], bool]] = {}


def command(name: str, *, writes: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def put(function: Callable[..., Any]) -> Callable[..., Any]:
        COMMANDS[name.encode()] = (function, writes)
        return function

    return put


@command("PING")
def _ping(w: Writer) -> Any:
    return b"PONG"


@command("TIME")
def _time(w: Writer) -> Any:
    return [b"%d" % (w.now_us // 1_000_000), b"%d" % (w.now_us % 1_000_000)]


@command("INFO")
def _info(w: Writer, section: bytes = b"") -> Any:
    if section == b"keyspace":
        return b"# Keyspace\r\n" + b"".join(b"db%d:keys=%d\r\n" % (db, len(k)) for db, k in w.data.dbs.items() if k)
    return w.info() if section == b"replication" else b"maxmemory:0\r\nmaxmemory_policy:noeviction\r\n"


@command("SELECT")
def _select(w: Writer, db: bytes) -> Any:
    if int(db) not in w.data.dbs:
        raise Refused("ERR DB index is out of range")
    w.db = int(db)
    return b"OK"


def _string(w: Writer, key: bytes) -> bytes | None:
    value = w.find(key)
    if value is not None and not isinstance(value, bytes):
        raise Refused("WRONGTYPE Operation against a key holding the wrong kind of value")
    return value


@command("GET")
def _get(w: Writer, key: bytes) -> Any:
    return _string(w, key)


@command("MGET")
def _mget(w: Writer, *keys: bytes) -> Any:
    return [v if isinstance(v := w.find(key), bytes) else None for key in keys]


@command("EXISTS")
def _exists(w: Writer, key: bytes) -> Any:
    return int(w.find(key) is not None)


@command("SET", writes=True)
def _set(w: Writer, key: bytes, value: bytes, *options: bytes) -> Any:
    expiry: int | None = None
    if options and options[0] == b"PX":
        if int(options[1]) <= 0:
            raise Refused("ERR invalid expire time in 'set' command")
        expiry = w.now_us + int(options[1]) * 1000
    elif options and options[0] == b"KEEPTTL" and w.find(key) is not None:
        expiry = w.data.dbs[w.db][key][1]
    w.write("set", key, value, expiry)
    return b"OK"


@command("SETRANGE", writes=True)
def _setrange(w: Writer, key: bytes, at: bytes, part: bytes) -> Any:
    value = _string(w, key) or b""
    if part:
        start = int(at)
        value = value.ljust(start, b"\0")
        value = value[:start] + part + value[start + len(part) :]
        old = w.data.dbs[w.db].get(key)
        w.write("set", key, value, old[1] if old is not None else None)
    return len(value)


@command("UNLINK", writes=True)
def _unlink(w: Writer, *keys: bytes) -> Any:
    gone = 0
    for key in keys:
        if key in w.data.dbs[w.db]:
            gone += w.find(key) is not None
            w.emit(("del", w.db, key))
    return gone


@command("PTTL")
def _pttl(w: Writer, key: bytes) -> Any:
    if w.find(key) is None:
        return -2
    expiry = w.data.dbs[w.db][key][1]
    return -1 if expiry is None else max(0, (expiry - w.now_us) // 1000)


@command("PEXPIRE", writes=True)
def _pexpire(w: Writer, key: bytes, ms: bytes) -> Any:
    if w.find(key) is None:
        return 0
    w.emit(("expire", w.db, key, w.now_us + int(ms) * 1000))
    return 1


@command("HMGET")
def _hmget(w: Writer, key: bytes, *fields: bytes) -> Any:
    value = w.find(key) or {}
    return [value.get(f) for f in fields]


@command("HGET")
def _hget(w: Writer, key: bytes, name: bytes) -> Any:
    return (w.find(key) or {}).get(name)


@command("HSET", writes=True)
def _hset(w: Writer, key: bytes, *pairs: bytes) -> Any:
    w.write("hset", key, dict(zip(pairs[::2], pairs[1::2], strict=True)))
    return len(pairs) // 2


@command("HDEL", writes=True)
def _hdel(w: Writer, key: bytes, *fields: bytes) -> Any:
    here = [f for f in fields if f in (w.find(key) or {})]
    if here:
        w.write("hdel", key, here)
    return len(here)


@command("HLEN")
def _hlen(w: Writer, key: bytes) -> Any:
    return len(w.find(key) or {})


@command("HGETALL")
def _hgetall(w: Writer, key: bytes) -> Any:
    return [part for pair in (w.find(key) or {}).items() for part in pair]


@command("ZADD", writes=True)
def _zadd(w: Writer, key: bytes, *rest: bytes) -> Any:
    greater = rest[0] == b"GT"
    score, member = (rest[1:] if greater else rest)[:2]
    old = (w.find(key) or {}).get(member)
    if greater and old is not None and old >= int(score):
        return 0
    w.write("zadd", key, {member: int(score)})
    return int(old is None)


@command("ZREM", writes=True)
def _zrem(w: Writer, key: bytes, *members: bytes) -> Any:
    here = [m for m in members if m in (w.find(key) or {})]
    if here:
        w.write("zrem", key, here)
    return len(here)


@command("ZSCORE")
def _zscore(w: Writer, key: bytes, member: bytes) -> Any:
    score = (w.find(key) or {}).get(member)
    return None if score is None else b"%d" % score


@command("ZMSCORE")
def _zmscore(w: Writer, key: bytes, *members: bytes) -> Any:
    value = w.find(key) or {}
    return [None if (s := value.get(m)) is None else b"%d" % s for m in members]


@command("ZCARD")
def _zcard(w: Writer, key: bytes) -> Any:
    return len(w.find(key) or {})


def _ranked(value: dict[bytes, int]) -> list[tuple[bytes, int]]:
    return sorted(value.items(), key=lambda item: (item[1], item[0]))


@command("ZPOPMIN", writes=True)
def _zpopmin(w: Writer, key: bytes, count: bytes) -> Any:
    gone = _ranked(w.find(key) or {})[: int(count)]
    if gone:
        w.write("zrem", key, [m for m, _ in gone])
    return [part for m, s in gone for part in (m, b"%d" % s)]


def _bound(text: bytes) -> tuple[float, bool]:
    open_ = text.startswith(b"(")
    return float(text[1:] if open_ else text), open_


@command("ZRANGEBYSCORE")
def _zrangebyscore(w: Writer, key: bytes, low: bytes, high: bytes, *options: bytes) -> Any:
    (least, least_open), (most, most_open) = _bound(low), _bound(high)
    found = [
        (m, s)
        for m, s in _ranked(w.find(key) or {})
        if (s > least or (s == least and not least_open)) and (s < most or (s == most and not most_open))
    ]
    if b"LIMIT" in options:
        at = options.index(b"LIMIT")
        start, count = int(options[at + 1]), int(options[at + 2])
        found = found[start : start + count]
    if b"WITHSCORES" in options:
        return [part for m, s in found for part in (m, b"%d" % s)]
    return [m for m, _ in found]


@command("XADD", writes=True)
def _xadd(w: Writer, key: bytes, *rest: bytes) -> Any:
    most: int | None = None
    args = list(rest)
    if args[0] == b"MAXLEN":
        most = int(args[2])
        args = args[3:]
    stream = w.find(key)
    last = stream.last if stream is not None else (0, 0)
    now_ms = w.now_us // 1000
    new = (now_ms, 0) if now_ms > last[0] else (last[0], last[1] + 1)
    w.write("xadd", key, new, args[1:])
    if most is not None:
        extra = len(w.find(key).ids) - most
        if extra >= BLOCK:
            w.write("xcut", key, extra // BLOCK * BLOCK)
    return _show(new)


@command("XTRIM", writes=True)
def _xtrim(w: Writer, key: bytes, how: bytes, about: bytes, bound: bytes) -> Any:
    stream = w.find(key)
    if stream is None:
        return 0
    least = parse_id(bound)
    count = sum(i < least for i in stream.ids) // BLOCK * BLOCK
    if count:
        w.write("xcut", key, count)
    return count


@command("XREVRANGE")
def _xrevrange(w: Writer, key: bytes, high: bytes, low: bytes, *options: bytes) -> Any:
    stream = w.find(key)
    if stream is None:
        return []
    end = len(stream.ids)
    if high != b"+":
        at = bisect_right(stream.ids, parse_id(high.lstrip(b"(")))
        end = at - 1 if high.startswith(b"(") else at
    count = int(options[1]) if options else end
    start = max(0, end - count)
    pairs = list(zip(stream.ids[start:end], stream.lines[start:end], strict=True))
    return [[_show(i), list(f)] for i, f in reversed(pairs)]
