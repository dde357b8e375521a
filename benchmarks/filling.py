"""A cached function, and its entries put on a server by the million.

A real computation takes three trips (`GET`, lease, store), a quarter of an hour for a million. Here keys,
payloads and envelopes come from the library's own code for each entry, and go out as pipelined `SET key
envelope PX ttl`, which is what the store script writes. `revive` gives dead entries the newest stamp.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import islice
from struct import pack as pack_struct
from typing import Any, TypeAlias

from tests.servers import Server

from evercache import Cache
from evercache.function import CachedFunction
from evercache.net.resp import encode
from evercache.protocol.envelope import pack

__all__ = ["TAG", "TTL", "Row", "Rows", "cached_rows", "fill", "revive", "row"]

TAG = "rows"
TTL = 3600.0
_BATCH = 2_000
_STEP = 5_000
_OK = b"+OK\r\n"

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = CachedFunction[[int], Row]

_REVIVE = """
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  redis.call('SETRANGE', ARGV[1] .. string.format('%d', number) .. ')', 4, ARGV[4])
end
return 0
"""


def row(number: int) -> Row:
    """A small value, such as a database gives."""
    return {"number": number, "name": f"row {number}"}


def cached_rows(cache: Cache) -> Rows:
    """The function, cached; every entry carries `TAG`. No jitter: they are all still there at the end."""
    return cache.cached(ttl=TTL, tags=(TAG,), jitter=0.0)(row)


def fill(rows: Rows, numbers: range, server: Server, *, now_ms: int, stamp: int) -> float:
    """Write the entries of these calls; returns the seconds it took.

    `now_ms` is the server's time, `stamp` its tip. RuntimeError when the server refuses one.
    """
    began = time.perf_counter()
    commands = _commands(rows, numbers, now_ms, stamp)
    with socket.create_connection(("127.0.0.1", server.port), 10.0) as connection:
        while batch := list(islice(commands, _BATCH)):
            connection.sendall(encode(batch))
            expected = _OK * len(batch)
            answer = b""
            while len(answer) < len(expected):
                received = connection.recv(65536)
                if not received:
                    raise ConnectionResetError("the server closed the connection during the filling")
                answer += received
                if not expected.startswith(answer):
                    raise RuntimeError(f"the server refused an entry: {answer[-200:]!r}")
    return time.perf_counter() - began


def _commands(rows: Rows, numbers: range, now_ms: int, stamp: int) -> Iterator[tuple[str, str, bytes, str, int]]:
    core = rows._core
    ttl_ms, grace_ms = core.policy.lifetime(None, 0.0)
    for number in numbers:
        subject = core.subject((number,), {})
        payload, codec, compressed = core.encoder.encode(row(number), subject.key.encode())
        envelope = pack(
            payload=payload,
            codec=codec,
            id=number.to_bytes(8),
            stamp=stamp,
            soft_ms=now_ms + ttl_ms,
            span_ms=grace_ms,
            tags=subject.tags,
            compressed=compressed,
        )
        yield "SET", subject.key, envelope, "PX", ttl_ms + grace_ms


def revive(rows: Rows, count: int, server: Server, *, stamp: int) -> None:
    """Give the entries of the calls 0 to `count - 1` this stamp, on the server itself.

    The tip makes all of them fresh again after an invalidation. The expiry stays; the checksum of an
    envelope does not cover its header.
    """
    key = rows.key(0)
    prefix = key.removesuffix("0)")
    if rows.key(count - 1) != f"{prefix}{count - 1})":
        raise RuntimeError(f"the keys of {rows!r} are not made of a prefix and the number")
    # In small steps: a server that is held for longer would be taken for dead by the caches.
    for first in range(0, count, _STEP):
        last = min(first + _STEP, count) - 1
        server.cli("EVAL", _REVIVE, 0, prefix, first, last, pack_struct(">Q", stamp))
