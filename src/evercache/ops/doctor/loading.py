"""In whose name a server reads its append-only file, and what that user has to be allowed.

It is the default user, on or off. Commands in transactions are held against its rights once more, and each that it
may not run is left out, with no more than a line in the log. What a script writes is in one, if it writes twice.

Redis has this since 7.0 (6.2 reads in nobody's name), and no longer in 8.6 (redis #14545); Valkey has it from its
beginning (valkey #3983), and no longer in 9.1.2. Where a release between has the mend too, what is asked for here
does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from evercache.protocol.types import Command

__all__ = ["KEYS", "QUESTIONS", "left_out", "reads_as_default"]

#: Stands for all commands that name a key of some kind.
KEYS: Final = "keys"
#: A key that no pattern has but that of all keys; and a number, a name and a value.
_ANY: Final = "1"

#: What stands in append-only files, by the number of words that follow. Not asked about are commands that wait, as
#: they stand there as what they did; and dangerous ones, which careful sites take from the default user and which
#: hardly ever stand in a transaction. Databases are needed, channels are not.
_WRITES: Final = {
    1: "decr del function|flush getdel getex incr lpop persist pfadd rpop select spop unlink zpopmax zpopmin",
    2: "append bitfield copy decrby expire expireat function|delete function|load function|restore getset hdel "
    "incrby incrbyfloat lpush lpushx move mset msetnx pexpire pexpireat pfmerge rename renamenx rpoplpush rpush "
    "rpushx sadd sdiffstore set setnx sinterstore srem sunionstore xdel xsetid zrem",
    3: "bitop hincrby hincrbyfloat hmset hset hsetnx lmpop lrem lset ltrim psetex setbit setex setrange smove xack "
    "xgroup|destroy xtrim zadd zdiffstore zincrby zinterstore zmpop zremrangebylex zremrangebyrank "
    "zremrangebyscore zunionstore",
    4: "geoadd georadiusbymember linsert lmove xadd xgroup|create xgroup|createconsumer xgroup|delconsumer "
    "xgroup|setid zrangestore",
    5: "georadius xautoclaim xclaim",
    7: "geosearchstore",
}


def _question(name: str, count: int) -> Command:
    words = name.split("|")
    return (*words, *[_ANY] * (count - len(words) + 1))


#: Of each command, what is asked about the default user: by `ACL DRYRUN`, which runs nothing and shows no password.
QUESTIONS: Final[Mapping[str, Command]] = {
    name: _question(name, count) for count, names in _WRITES.items() for name in names.split()
}


def reads_as_default(kind: str, version: tuple[int, ...]) -> bool:
    """Whether this server leaves out what its default user may not do."""
    if kind == "valkey":
        return version < (9, 1, 2)
    return (7, 0) <= version < (8, 6)


def left_out(replies: Iterable[str]) -> tuple[str, ...] | None:
    """What the default user may not do, by the replies to `QUESTIONS`; None if there is one that says neither."""
    found: dict[str, None] = {}
    for name, reply in zip(QUESTIONS, replies, strict=True):
        if "no permission" in reply:
            found[KEYS if reply.endswith(" key") else name] = None
        elif (
            reply != "OK" and "not found" not in reply
        ):  # a command that was renamed stands in no file by this name
            return None
    return tuple(found)
