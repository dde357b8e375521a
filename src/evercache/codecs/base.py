"""The interface of a codec."""

from __future__ import annotations

from typing import Protocol

from evercache.codecs.registry import TypeRegistry

__all__ = ["Codec"]


class Codec(Protocol):
    """Turns values into bytes and back. Codecs hold no state and are safe for threads.

    `context` is the entry's key as it stands on the server; a codec that signs binds it in.
    """

    @property
    def number(self) -> int:
        """What stands for this codec in envelopes, 1 to 255; numbers below 32 are the library's own."""
        ...

    def encode(self, value: object, types: TypeRegistry, context: bytes) -> bytes:
        """The bytes of a value, or `CannotEncode` where the copy would not equal it."""
        ...

    def decode(self, data: bytes, types: TypeRegistry, context: bytes) -> object:
        """The value; `CorruptEnvelope`, and no other error, for bytes that this codec did not write."""
        ...
