"""What must be known of a raw command: for how long it may block, and which keys it touches. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

__all__ = ["CURSORS", "KeyTable", "Touch", "as_key", "blocks", "only_reads", "words"]

#: Blocking commands, and where their time-out stands: (index of the argument, seconds per unit).
_BLOCKING = {
    "BLPOP": (-1, 1.0),
    "BRPOP": (-1, 1.0),
    "BLMOVE": (-1, 1.0),
    "BRPOPLPUSH": (-1, 1.0),
    "BZPOPMIN": (-1, 1.0),
    "BZPOPMAX": (-1, 1.0),
    "BLMPOP": (1, 1.0),
    "BZMPOP": (1, 1.0),
    "WAIT": (-1, 0.001),
    "WAITAOF": (-1, 0.001),
}
#: Commands that change nothing, so that one whose answer was lost may be sent again. SCAN and its kin count only
#: from their beginning (`only_reads`): their cursors mean nothing to another server.
_READING = """
    BITCOUNT BITFIELD_RO BITPOS COMMAND DBSIZE DUMP ECHO EVALSHA_RO EVAL_RO EXISTS EXPIRETIME FCALL_RO GEODIST
    GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HGET HGETALL HKEYS
    HLEN HMGET HRANDFIELD HSTRLEN HVALS INFO KEYS LASTSAVE LCS LINDEX LLEN LPOS LRANGE MGET PEXPIRETIME PFCOUNT
    PING PTTL PUBSUB RANDOMKEY ROLE SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO
    SRANDMEMBER STRLEN SUBSTR SUNION TIME TTL TYPE XLEN XPENDING XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF
    ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE
    ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCORE ZUNION
    MULTI EXEC
"""  # the last two stand around reads only
_READS = frozenset(_READING.split())
#: Where the cursor of those stands that go through something in steps.
CURSORS = {"SCAN": 1, "HSCAN": 2, "SSCAN": 2, "ZSCAN": 2}
#: Scripts and functions: what they do is not known, their keys follow a number.
_NUMBERED = frozenset({"EVAL", "EVALSHA", "FCALL", "EVAL_RO", "EVALSHA_RO", "FCALL_RO"})


def as_key(value: Any) -> bytes:
    """A key as the server sees it."""
    if isinstance(value, bytes):
        return value
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else str(value).encode("utf-8", "replace")


def words(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The command with its first argument taken apart: redis-py writes `("XGROUP CREATE", key)`."""
    first = arguments[0]
    name = first.decode("ascii", "replace") if isinstance(first, bytes) else str(first)
    return (*name.upper().split(), *arguments[1:])


def blocks(command: Sequence[Any]) -> float:
    """For how many seconds the server may hold the answer back; 0 for most, `inf` for ever. From `words`."""
    place = _BLOCKING.get(command[0])
    try:
        if place is not None:
            index, unit = place
            seconds = float(command[index]) * unit
        elif command[0] in ("XREAD", "XREADGROUP"):
            options = [as_key(word).upper() for word in command[1:8]]
            if b"BLOCK" not in options:
                return 0.0
            seconds = float(command[options.index(b"BLOCK") + 2]) / 1000
        else:
            return 0.0
    except (ValueError, IndexError, TypeError):
        return 0.0  # the server will say what is wrong with it
    return seconds if seconds > 0 else inf


def only_reads(command: Sequence[Any]) -> bool:
    """Whether a command may run twice without a trace. From `words`."""
    place = CURSORS.get(command[0])
    if place is not None:
        return len(command) > place and as_key(command[place]) == b"0"
    return command[0] in _READS


@dataclass(frozen=True, slots=True)
class Touch:
    """What a command does with keys. `keys` is None where they are not known: it may be any."""

    writes: bool
    keys: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class _Entry:
    writes: bool
    movable: bool
    first: int
    last: int
    step: int


class KeyTable:
    """The key positions of all commands of a server, from its reply to COMMAND. Immutable."""

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = entries

    def __repr__(self) -> str:
        return f"<KeyTable of {len(self._entries)} commands>"

    @classmethod
    def of(cls, reply: Any) -> KeyTable:
        """Read the reply to COMMAND; what is not understood is left out, and so counts as unknown."""
        entries: dict[str, _Entry] = {}
        for command in reply if isinstance(reply, list) else ():
            _read(command, entries)
        return cls(entries)

    def touch(self, command: Sequence[Any]) -> Touch:
        """What a command does. From `words`."""
        name = command[0]
        if name in _NUMBERED:
            return Touch(not name.endswith("_RO"), _numbered(command))
        entry = self._entries.get(name)
        if len(command) > 1 and isinstance(command[1], (str, bytes)):
            inner = self._entries.get(f"{name}|{as_key(command[1]).decode('ascii', 'replace').upper()}")
            if inner is not None:
                entry = inner
        if entry is None:
            return Touch(True, None)
        if entry.movable or (entry.first == 0 and entry.writes):
            return Touch(entry.writes, None)
        if entry.first == 0:
            return Touch(False, ())
        last = entry.last if entry.last >= 0 else len(command) + entry.last
        return Touch(entry.writes, tuple(as_key(key) for key in command[entry.first : last + 1 : entry.step]))


def _numbered(command: Sequence[Any]) -> tuple[bytes, ...] | None:
    try:
        count = int(command[2])
    except (ValueError, IndexError, TypeError):
        return None
    # Without a key it may still touch any.
    return tuple(as_key(key) for key in command[3 : 3 + count]) or None


def _read(command: Any, entries: dict[str, _Entry]) -> None:
    try:
        name = as_key(command[0]).decode("ascii", "replace").upper()
        flags = {as_key(flag).decode("ascii", "replace").lower().lstrip("+") for flag in command[2]}
        entries[name] = _Entry(
            "write" in flags, "movablekeys" in flags, int(command[3]), int(command[4]), max(1, int(command[5]))
        )
        inner = command[9] if len(command) > 9 else ()
    except (IndexError, TypeError, ValueError):
        return
    for one in inner if isinstance(inner, (list, tuple)) else ():
        _read(one, entries)
