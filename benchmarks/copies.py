"""Entries of a cached function by the million: copies of one that a real call stored.

A real computation takes three trips (`GET`, lease, store), minutes for a million. Here the server itself writes
the envelope of one entry under the keys of the others; they all give the value of that one.
"""

from __future__ import annotations

from typing import Any

from tests.servers import Server, wait_for

__all__ = ["MODEL", "copy_entries"]

#: The number of the entry that is copied: what stands for it in its key is found by its digits.
MODEL = 1_234_567_890
_STEP = 5_000
_TTL_MS = 3_600_000
_COPY = """
local envelope = redis.call('GET', ARGV[1] .. ARGV[3] .. ARGV[2])
for number = tonumber(ARGV[4]), tonumber(ARGV[5]) do
  redis.call('SET', ARGV[1] .. string.format('%d', number) .. ARGV[2], envelope, 'PX', ARGV[6])
end
return 0
"""


def copy_entries(read: Any, server: Server, count: int) -> None:
    """Entries of the calls 0 to `count - 1` of `read`, a cached function of one number, on this server."""
    value = read(MODEL)
    key = read.key(MODEL)
    wait_for(lambda: server.cli("EXISTS", key) == 1, 5.0, "the model")
    before, digits, after = key.partition(str(MODEL))
    if not digits:
        raise RuntimeError(f"the key {key!r} does not name the number")
    # In small steps: a server that is held for longer would be taken for dead.
    for first in range(0, count, _STEP):
        last = min(first + _STEP, count) - 1
        server.cli("EVAL", _COPY, 0, before, after, MODEL, first, last, _TTL_MS)
    if read.peek(count - 1) != value:
        raise RuntimeError("a copy is not served")
