"""The names that entries and functions have on the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from evercache.errors import ConfigurationError
from evercache.protocol.canonical import canonical, import_name, shown
from evercache.protocol.identity import identity
from evercache.protocol.signature import Signature, TagTemplate, check_cacheable

__all__ = [
    "DEFAULT_NAMING",
    "MAX_KEY_BYTES",
    "CodedNaming",
    "KeyCode",
    "Naming",
    "ReadableNaming",
    "Signature",
    "TagTemplate",
    "canonical",
    "check_cacheable",
    "check_name",
    "check_namespace",
    "import_name",
    "versioned",
]

#: No entry key is longer, in bytes of UTF-8: namespace, function name and hashed arguments always fit.
MAX_KEY_BYTES = 250
_MAX_NAME_BYTES = 110
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_VERSION = re.compile(r"[A-Za-z0-9_.+-]{1,32}")
_NAME = re.compile(r"[\w.<>-]+")


def check_namespace(namespace: str) -> str:
    """The namespace itself, or a `ConfigurationError` when it is not short and plain."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"namespace {shown(namespace)}: use 1 to 32 of a-z, 0-9, '_', '.', '-', "
            "beginning with a letter or digit"
        )
    return namespace


def check_name(name: Any) -> str:
    """The `name=` of a function, or a `ConfigurationError` when no key can be made of it."""
    try:
        if isinstance(name, str) and name.encode():
            return name
    except UnicodeEncodeError:
        pass
    raise ConfigurationError(
        f"name={shown(name, ascii)}: give a text that is not empty and can be written as UTF-8"
    )


def versioned(name: str, version: object) -> str:
    """`name@version`; `ConfigurationError` for a version that does not belong into a name."""
    if version is None:
        return name
    text = shown(version, str)
    if not _VERSION.fullmatch(text):
        raise ConfigurationError(
            f"version={shown(version)} of {name} is not a number, or 1 to 32 letters, digits and the signs _ . + -"
        )
    return f"{name}@{text}"


class Naming(Protocol):
    """How keys are named. Exchange it to share entries with another library's layout.

    Different arguments must give different names, and each name must be short enough for a key.
    """

    def function_name(self, fn: Callable[..., Any], version: str | int | None = None) -> str:
        """The name of a function, also that of its mark."""
        ...

    def entry_key(self, namespace: str, function_name: str, canonical_args: str) -> str:
        """The key of one call."""
        ...

    def direct_key(self, namespace: str, key: str) -> str:
        """The key of an entry that the user named; `TypeError` unless `key` is a text that is not empty."""
        ...


class KeyCode(Struct, frozen=True):
    """Python source that makes the key of a call, for the code that is made for a function.

    `source` has `{}` where the replacement fields of the arguments (`{number!a},{word!a}`) go, which are their
    canonical text; so it stands inside an f-string. `names` are those that it uses, with two underscores in
    front.
    """

    source: str
    names: Mapping[str, object]


@runtime_checkable
class CodedNaming(Protocol):
    """A `Naming` that can say what `entry_key` does as source, so that its functions are as fast as others."""

    def code(self, namespace: str, function_name: str) -> KeyCode | None:
        """What gives the same key as `entry_key`, or what is longer than `MAX_KEY_BYTES`; None: nothing does."""
        ...


class ReadableNaming:
    """`shop:f:app.views.stats@2(7)` and `shop:k:user:7`; what is too long is replaced by a BLAKE2b hash."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ReadableNaming()"

    def function_name(self, fn: Callable[..., Any], version: str | int | None = None) -> str:
        """`module.qualname[~digest][@version]`, with the import name of `__main__`; at most 160 bytes.

        The digest stands for what else makes the function itself: protocol/identity.py.
        """
        name = f"{import_name(fn.__module__)}.{fn.__qualname__}"
        if not _NAME.fullmatch(name) or len(name.encode()) > _MAX_NAME_BYTES:
            readable = re.sub(r"[^\w.<>-]", "_", name).encode()[: _MAX_NAME_BYTES - 33]
            name = f"{readable.decode(errors='ignore')}~{_digest(name)}"
        inside = identity(fn).digest
        if inside:
            name = f"{name}~{inside}"
        return versioned(name, version)

    def entry_key(self, namespace: str, function_name: str, canonical_args: str) -> str:
        """`namespace:f:function(arguments)`, with the hash of the arguments where they are long."""
        key = f"{namespace}:f:{function_name}({canonical_args})"
        if len(key) <= MAX_KEY_BYTES and (key.isascii() or _size(key) <= MAX_KEY_BYTES):
            return key
        return f"{namespace}:f:{function_name}(#{_digest(canonical_args)})"

    def code(self, namespace: str, function_name: str) -> KeyCode | None:
        """See `CodedNaming`; not for classes that are derived from this one, which may name keys in another way."""
        head = f"{namespace}:f:{function_name}"
        if type(self) is not ReadableNaming or not head.isascii():
            return None
        return KeyCode('f"{{__head}}({})"', {"__head": head})

    def direct_key(self, namespace: str, key: str) -> str:
        """`namespace:k:key`, with the hash of a key that is long or looks like a hash."""
        if not isinstance(key, str) or not key:
            raise TypeError(f"a key is a text that is not empty, not {shown(key)}")
        name = f"{namespace}:k:{key}"
        if key[0] != "#" and len(name) <= MAX_KEY_BYTES and (name.isascii() or _size(name) <= MAX_KEY_BYTES):
            return name
        return f"{namespace}:k:#{_digest(key)}"


def _size(text: str) -> int:
    """Bytes of UTF-8; a text that has no UTF-8 (lone surrogates) counts as too long, so it is hashed."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_KEY_BYTES + 1


def _digest(text: str) -> str:
    """128 bits of BLAKE2b (RFC 7693) as hex digits."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


DEFAULT_NAMING: Naming = ReadableNaming()
