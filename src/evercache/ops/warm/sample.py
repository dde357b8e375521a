"""The calls of the sample of what is hot (engine/hot.py), for the functions that are to be warmed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evercache.cache import Cache
from evercache.clock import monotonic
from evercache.codecs import StrictCodec, TypeRegistry
from evercache.engine.hot import LOST, TAKEN, checked
from evercache.errors import CorruptEnvelope, EvercacheError, UnavailableError
from evercache.net.blocking import BlockingWire
from evercache.ops.warm.targets import Item, Target
from evercache.protocol.types import Address

__all__ = ["Hot", "hot_calls"]

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Hot:
    """The calls, the hottest first, with the function of each; and how many of the sample could not be used."""

    calls: tuple[tuple[Target, Item], ...]
    #: Whose arguments are objects, or too long to be kept.
    lost: int = 0
    #: That do not fit the function as it is now.
    unfit: int = 0
    #: Of functions that were not asked for.
    others: int = 0


def hot_calls(targets: Sequence[Target], top: int | None = None) -> Hot:
    """What the sample has of these functions, so many at most. Raises UnavailableError."""
    calls: list[tuple[float, Target, Item]] = []
    lost = unfit = others = 0
    for cache in dict.fromkeys(target.cache for target in targets):
        mine = [target for target in targets if target.cache is cache]
        for score, member in _members(cache):
            name, taken, payload = _split(member)
            target = _target(mine, name)
            if target is None:
                others += 1
                continue
            if not taken:
                lost += 1
                continue
            item = _item(target, payload)
            if item is None:
                unfit += 1
            else:
                calls.append((score, target, item))
    calls.sort(key=lambda call: -call[0])
    chosen = calls[:top]
    for number, (_, _, item) in enumerate(chosen, 1):
        item.line = number
    return Hot(tuple((target, item) for _, target, item in chosen), lost, unfit, others)


def _split(member: bytes) -> tuple[str, bool, bytes]:
    for sign in (TAKEN, LOST):
        name, found, rest = member.partition(sign)
        if found:
            return name.decode(errors="replace"), sign == TAKEN, rest
    return "", False, b""


def _target(targets: Sequence[Target], name: str) -> Target | None:
    """The function of that name, else the same in another version: so a new version is warmed by the old one."""
    plain = name.partition("@")[0]
    exact = [target for target in targets if target.core.name == name]
    near = [target for target in targets if target.core.name.partition("@")[0] == plain]
    return next(iter(exact or near), None)


def _item(target: Target, payload: bytes) -> Item | None:
    try:
        call: Any = StrictCodec().decode(payload, TypeRegistry())
        args, kwargs = call
        item = Item(0, tuple(args)[len(target.bound) :], dict(kwargs))
        target.check(item)
    except (CorruptEnvelope, TypeError, ValueError, EvercacheError):
        return None
    return item


def _members(cache: Cache) -> Iterator[tuple[float, bytes]]:
    """The sample of a cache, with scores; from the master, in pages."""
    clients = cache._find()
    if clients is None:
        return
    engine = clients.engine
    end = monotonic() + 5.0
    while not engine.start() or engine.view.master is None:
        if monotonic() > end:
            raise engine.no_master()
        time.sleep(0.02)
    master: Address = engine.view.master
    endpoint = BlockingWire().endpoint(master, engine.tail_options)
    try:
        for start in range(0, 1 << 30, _PAGE):
            command = ("ZRANGEBYSCORE", engine.bookkeeping.hot, "-inf", "+inf", "WITHSCORES", "LIMIT", start, _PAGE)
            (reply,) = checked(endpoint.execute([command], monotonic() + 5.0))
            yield from _pairs(reply)
            if len(reply) < _PAGE:
                return
    finally:
        endpoint.disconnect()


def _pairs(reply: Any) -> Iterator[tuple[float, bytes]]:
    """RESP3 gives pairs, RESP2 one flat list."""
    if not isinstance(reply, list):
        raise UnavailableError("the sample of hot calls cannot be read: another kind of value is under its key")
    if reply and isinstance(reply[0], list):
        yield from ((float(score), member) for member, score in reply)
    else:
        yield from zip(map(float, reply[1::2]), reply[::2], strict=True)
