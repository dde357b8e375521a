"""What an invalidation covers, and what a read is covered by."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct

from evercache.protocol.canonical import shown

__all__ = ["EVERYTHING", "Scope", "Subject", "known", "tag_hash"]

KEY, FUNCTION, TAG, ALL = "k", "f", "t", "*"
_TAG = re.compile(r"[0-9a-f]{16}")


@lru_cache(maxsize=4096)
def tag_hash(tag: str) -> bytes:
    """The 8 bytes that stand for a tag in envelopes, marks and log lines (BLAKE2b, RFC 7693).

    Any text will do, lone surrogates included; TypeError for anything else.
    """
    if not isinstance(tag, str):
        raise TypeError(f"a tag is a text, not {shown(tag)}: give str(...) of it")
    return blake2b(tag.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Scope(Struct, frozen=True):
    """What one invalidation covers: a key (`k`), a function (`f`), a tag (`t`) or everything (`*`).

    `name` is the key as it stands on the server, the function's name, the 16 hex digits of the tag's
    hash, or empty.
    """

    kind: str
    name: str = ""

    @classmethod
    def of_key(cls, key: str) -> Scope:
        """One entry."""
        return cls(KEY, key)

    @classmethod
    def of_function(cls, name: str) -> Scope:
        """Every entry of a function."""
        return cls(FUNCTION, name)

    @classmethod
    def of_tag(cls, tag: str) -> Scope:
        """Every entry with this tag."""
        return cls(TAG, tag_hash(tag).hex())

    def covers(self, subject: Subject) -> bool:
        """Whether an invalidation of this scope concerns the subject (by the tags known of it)."""
        match self.kind:
            case "k":
                return self.name == subject.key
            case "f":
                return self.name == subject.function
            case "t":
                return bytes.fromhex(self.name) in subject.tags
            case _:  # everything, and kinds of a later version: too wide is safe, too narrow is not
                return True


EVERYTHING = Scope(ALL)


def known(kind: str, name: str, version: int = 1) -> Scope:
    """The scope of a record, perhaps of a later version: what is not understood stands for everything.

    Too wide is safe, too narrow is not; and only what is understood can be issued again.
    """
    understood = version == 1 and (kind in (KEY, FUNCTION) or (kind == TAG and _TAG.fullmatch(name) is not None))
    return Scope(kind, name) if understood else EVERYTHING


class Subject(Struct, frozen=True):
    """What a read is about: the key on the server, the function (or empty), the hashes of the known tags."""

    key: str
    function: str = ""
    tags: tuple[bytes, ...] = ()

    @property
    def label(self) -> str:
        """What to call it where all entries of a function are meant."""
        return self.function or self.key
