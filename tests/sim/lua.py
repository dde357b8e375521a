"""The shipped Lua scripts, run in Lua 5.1 as a server runs them: `redis.call`, `struct`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lupa.lua51 as lupa

from evercache.errors import ServerError
from evercache.protocol.scripts import SCRIPTS
from evercache.wire.resp import error_from

__all__ = ["LuaHost", "Refused"]

#: Runs one command of a script: name (upper case) and arguments as bytes; raises `Refused`.
Call = Callable[[bytes, list[bytes]], Any]


class Refused(Exception):
    """A command's error reply."""


class LuaHost:
    """One interpreter for all simulated servers: scripts keep nothing between their runs.

    `changes` maps the name of a script to a function of its text: how a test does it wrong on purpose.
    """

    def __init__(self, changes: Mapping[str, Callable[[str], str]] | None = None) -> None:
        self._runtime = lupa.LuaRuntime(encoding=None, register_eval=False)
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
        self._by_sha: dict[str, Any] = {}
        changes = changes or {}
        for name, script in SCRIPTS.items():
            text = script.text
            for which in ("*", name):
                if which in changes:
                    text = changes[which](text)
            self._by_sha[script.sha] = self._compile(text)

    def _compile(self, text: str) -> Any:
        return self._runtime.eval(b"function(KEYS, ARGV) " + text.encode("latin-1") + b"\nend")

    def has(self, sha: str) -> bool:
        """Whether a script of this hash exists."""
        return sha in self._by_sha

    def run(self, sha: str, keys: Sequence[bytes], args: Sequence[bytes], call: Call) -> Any:
        """The reply of a script, as a client decodes it."""
        self._call = call
        try:
            return _reply(self._by_sha[sha](self._table(keys), self._table(args)))
        except Refused as error:
            return error_from(str(error))
        finally:
            self._call = None

    def _redis_call(self, name: bytes, *args: Any) -> Any:
        assert self._call is not None
        return self._lua(self._call(name.upper(), [_argument(a) for a in args]))

    def _redis_pcall(self, name: bytes, *args: Any) -> Any:
        try:
            return self._redis_call(name, *args)
        except Refused as error:
            return self._error(str(error).encode())

    def _lua(self, value: Any) -> Any:
        if value is None:
            return False
        if isinstance(value, (list, tuple)):
            return self._table([self._lua(item) for item in value])
        return value


def _argument(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        # Lua's own formatting of a number: 14 significant digits.
        return b"%d" % value if abs(value) < 10**14 else (b"%.14g" % value)
    if isinstance(value, float):
        return b"%.14g" % value
    raise Refused("ERR Lua redis lib command arguments must be strings or integers")


def _reply(value: Any) -> Any:
    if isinstance(value, bool):
        return 1 if value else None
    if value is None or isinstance(value, (bytes, int)):
        return value
    if isinstance(value, float):
        return int(value)
    error = value[b"err"]
    if error is not None:
        return error_from(error.decode())
    items: list[Any] = []
    for index in range(1, len(value) + 1):
        item = value[index]
        if item is None:
            break
        items.append(_reply(item))
    return items


def _fields(fmt: bytes) -> list[int]:
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
    return sizes


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
