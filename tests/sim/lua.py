"""The shipped Lua scripts, run as a server runs them: Lua 5.1 with `redis.call` and `struct`, and nothing else.

The interpreter is that of LuaJIT, which takes the same language and is twice as fast; nothing is compiled to
machine code. `LuaHost(module=lupa.lua51)` is the one that servers have, and must do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import lupa.luajit21

from evercache.errors import ServerError
from evercache.net.resp import error_from
from evercache.protocol.scripts import SCRIPTS
from tests.edits import swapped

__all__ = ["LuaHost", "Refused"]

#: Runs one command of a script: name (upper case) and arguments as bytes; raises `Refused`.
Call = Callable[[bytes, list[bytes]], Any]


#: Numbers in scripts that no schedule would reach: script ("*": all), and what stands for it.
SMALL = {
    "*": (
        ("'LIMIT', 0, 200", "'LIMIT', 0, 2"), ("#items > 32", "#items > 6"), ("m % every", "m % 2"),
        ("math.min(excess, 200)", "math.min(excess, 2)"), ("most = 200", "most = 2"),
    ),
    "set": (("'COUNT', 100", "'COUNT', 2"), ("#lines < 100", "#lines < 2"), ("seen < 2000", "seen < 8")),
}  # fmt: skip


Pairs = tuple[tuple[str, str], ...]


def _changed(changes: Mapping[str, Pairs]) -> dict[str, str]:
    """The texts by the SHA of what they stand for. What is to change in all scripts ("*") changes in those that
    have it, one at least."""
    texts = {name: script.text for name, script in SCRIPTS.items()}
    for name, pairs in changes.items():
        for pair in pairs:
            having = [name] if name != "*" else [each for each, text in texts.items() if pair[0] in text]
            if not having:
                raise LookupError(
                    f"the scripts have changed: {pair[0]!r} is in none; bring this mutation up to date"
                )
            for each in having:
                texts[each] = swapped(texts[each], (pair,))
    return {SCRIPTS[name].sha: text for name, text in texts.items()}


class Refused(Exception):
    """A command's error reply."""


class LuaHost:
    """One interpreter for all simulated servers: scripts keep nothing between their runs.

    `changes` maps the name of a script ("*": all) to what stands for some of its text: how a test does it wrong on
    purpose.
    """

    def __init__(self, changes: Mapping[str, Pairs] | None = None, *, module: Any = lupa.luajit21) -> None:
        self._changes, self._module = changes or {}, module
        self._small: LuaHost | None = None
        self._runtime = lua = module.LuaRuntime(encoding=None, register_eval=False)
        lua.execute(b"if jit then jit.off() end")
        # Their order is that of memory addresses: no schedule would replay.
        lua.execute(b"pairs, next = nil, nil")
        self._call: Call | None = None
        self._table = self._runtime.table_from
        self._error = self._runtime.eval(b"function(text) return {err = text} end")
        globals_ = self._runtime.globals()
        redis = self._runtime.table()
        redis[b"call"] = self._redis_call
        redis[b"pcall"] = self._redis_pcall
        redis[b"error_reply"] = self._error
        globals_[b"redis"] = redis
        struct = self._runtime.table()
        struct[b"pack"] = _pack
        globals_[b"struct"] = struct
        globals_[b"__unpack"] = lambda fmt, data, at=1: self._table(_unpack(fmt, data, int(at)))
        self._runtime.execute(b"struct.unpack = function(f, d, a) return unpack(__unpack(f, d, a or 1)) end")
        self._by_sha = {sha: self._compile(text) for sha, text in _changed(self._changes).items()}

    def _compile(self, text: str) -> Any:
        # Arguments one by one: two tables made on this side take longer.
        return self._runtime.eval(
            b"function(count, ...) local KEYS, ARGV = {unpack({...}, 1, count)}, {select(count + 1, ...)} "
            + text.encode("latin-1")
            + b"\nend"
        )

    def small(self) -> LuaHost:
        """The same scripts with pages and bounds so small that a schedule reaches them."""
        if self._small is None:
            changes = dict(self._changes)
            for name, pairs in SMALL.items():
                changes[name] = (*self._changes.get(name, ()), *pairs)
            self._small = LuaHost(changes, module=self._module)
        return self._small

    def has(self, sha: str) -> bool:
        """Whether a script of this hash exists."""
        return sha in self._by_sha

    def run(self, sha: str, keys: Sequence[bytes], args: Sequence[bytes], call: Call) -> Any:
        """The reply of a script, as a client decodes it."""
        self._call = call
        try:
            return _reply(self._by_sha[sha](len(keys), *keys, *args))
        except Refused as error:
            return error_from(str(error))
        finally:
            self._call = None

    def _redis_call(self, name: bytes, *args: Any) -> Any:
        assert self._call is not None
        reply = self._call(name, [a if type(a) is bytes else _argument(a) for a in args])
        if type(reply) is bytes or type(reply) is int:
            return reply
        return self._lua(reply)

    def _redis_pcall(self, name: bytes, *args: Any) -> Any:
        try:
            return self._redis_call(name, *args)
        except Refused as error:
            return self._error(str(error).encode())

    def _lua(self, value: Any) -> Any:
        if value is None:
            return False
        if isinstance(value, (list, tuple)):
            return self._table([item if type(item) is bytes else self._lua(item) for item in value])
        return value


def _argument(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)):
        return b"%.17g" % value  # of servers; Lua's own, in `..`, has 14 digits
    raise Refused("ERR Lua redis lib command arguments must be strings or integers")


def _reply(value: Any) -> Any:
    if type(value) is bytes or type(value) is int:
        return value
    if isinstance(value, bool):
        return 1 if value else None
    if value is None:
        return None
    if isinstance(value, float):
        return int(value)
    error = value[b"err"]
    if error is not None:
        return error_from(error.decode())
    items: list[Any] = []
    for index in range(1, len(value) + 1):
        item = value[index]
        if type(item) is not bytes and type(item) is not int:
            if item is None:
                break
            item = _reply(item)
        items.append(item)
    return items


@lru_cache
def _fields(fmt: bytes) -> tuple[int, ...]:
    """The sizes in bytes of a big-endian format of `B` and `I<n>`: all that the scripts use."""
    sizes: list[int] = []
    index = 1
    if not fmt.startswith(b">"):
        raise Refused(f"ERR struct: format {fmt!r} is not simulated")
    while index < len(fmt):
        letter = fmt[index : index + 1]
        index += 1
        if letter == b"B":
            sizes.append(1)
        elif letter == b"I":
            end = index
            while fmt[end : end + 1].isdigit():
                end += 1
            sizes.append(int(fmt[index:end]))
            index = end
        else:
            raise Refused(f"ERR struct: format {fmt!r} is not simulated")
    return tuple(sizes)


def _pack(fmt: bytes, *values: Any) -> bytes:
    return b"".join(
        (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        for size, value in zip(_fields(fmt), values, strict=True)
    )


def _unpack(fmt: bytes, data: bytes, at: int) -> list[int]:
    values: list[int] = []
    at -= 1
    for size in _fields(fmt):
        if at + size > len(data):
            raise Refused("ERR struct: data string too short")
        values.append(int.from_bytes(data[at : at + size], "big"))
        at += size
    return [*values, at + 1]


def is_error(reply: Any) -> bool:
    """Whether a reply is an error."""
    return isinstance(reply, ServerError)
