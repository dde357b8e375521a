"""The names of keys: those that the site's own code made, and those of the entries here. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b, md5
from typing import Any

from evercache.protocol.keys import MAX_KEY_BYTES, KeyCode, ReadableNaming

__all__ = ["SiteNaming", "function_name", "get_hash_key", "get_key_to_hash", "named", "old_key", "old_pattern"]

_READABLE = ReadableNaming()
#: Keys that a function remembers by the text of the arguments.
_REMEMBERED = 1024
#: Hex digits of the function's own in a digest of 32: by them a walk finds the entries of one function.
_OWN = 6
_GLOB = re.compile(r"([\\*?\[\]^-])")


def get_key_to_hash(*args: Any, **kwargs: Any) -> str:
    """`:a:b`: the positional values, then the values of the keywords, sorted by keyword."""
    values = [*args, *(kwargs[name] for name in sorted(kwargs))]
    return "".join(f":{value}" for value in values)


def get_hash_key(prefix: str, key_to_hash: str) -> str:
    """`prefix:` and the MD5 of the text, in hex."""
    digest = md5(key_to_hash.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return f"{prefix}:{digest.hexdigest()}"


def old_key(prefix: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The key under which the site's own code keeps the result of a call."""
    return get_hash_key(f"{prefix}:{name}_args:", get_key_to_hash(*args, **kwargs))


def old_pattern(prefix: str, name: str) -> str:
    """The glob of all keys of a function, of whichever module."""
    return f"{_escaped(prefix)}:{_escaped(name)}_args::*"


def function_name(fn: Callable[..., Any]) -> str:
    """What a memoized function is called in marks and logs: the name in its keys, and after `@` the whole name."""
    return f"{fn.__name__}@{_READABLE.function_name(fn)}"


def named(key_prefix: str) -> str:
    """What a function under `cache(key_prefix)` is called."""
    return f":{key_prefix}"


def _escaped(text: str) -> str:
    return _GLOB.sub(r"\\\1", text)


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


class SiteNaming:
    """`prefix:function_args::digest` and `prefix::key`, as the site has it.

    The digest looks like an MD5, and is of more: six digits stand for the function with its module, the others for
    the same and the arguments with their types (BLAKE2b, RFC 7693: anybody can make MD5s that collide).
    """

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"SiteNaming({self.prefix!r})"

    def function_name(self, fn: Callable[..., Any], version: str | int | None = None) -> str:
        """See `Naming`."""
        name = function_name(fn)
        return name if version is None else f"{name}@{version}"

    def entry_key(self, namespace: str, function_name: str, canonical_args: str) -> str:
        """See `Naming`."""
        if function_name[0] == ":":
            return f"{self.prefix}:{function_name}"
        return self._head(function_name) + _rest(f"{function_name}({canonical_args})")

    def direct_key(self, namespace: str, key: str) -> str:
        """See `Naming`; a text that has no UTF-8 is replaced by its hash."""
        try:
            key.encode()
        except UnicodeEncodeError:
            key = f"#{_hash(key, 16)}"
        return f"{self.prefix}::{key}"

    def code(self, namespace: str, function_name: str) -> KeyCode | None:
        """See `CodedNaming`."""
        if function_name[0] == ":":
            key = self.entry_key(namespace, function_name, "")
            return KeyCode("__key_of_all", {"__key_of_all": key}) if len(key) <= MAX_KEY_BYTES else None
        head = self._head(function_name)
        if len(head) + 32 > MAX_KEY_BYTES:
            return None
        # A hash takes a microsecond, and most calls are of what was asked lately.
        key_of = lru_cache(_REMEMBERED)(lambda text: head + _rest(text))
        return KeyCode('__key_of(f"{{__name}}({})")', {"__key_of": key_of, "__name": function_name})

    def _head(self, function_name: str) -> str:
        name = function_name.partition("@")[0]
        return f"{self.prefix}:{name}_args::{_hash(function_name, _OWN // 2)}"

    def pattern(self, function_name: str) -> str:
        """The glob of all keys of a memoized function."""
        return f"{_escaped(self._head(function_name))}*"


def _rest(text: str) -> str:
    # UTF-8 of plain text is what the code that is made for a function gives, always.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16 - _OWN // 2).hexdigest()
