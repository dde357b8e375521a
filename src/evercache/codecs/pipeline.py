"""From a value to the payload of an envelope and back: codec, compression, limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from evercache.codecs.base import Codec
from evercache.codecs.compression import Compression
from evercache.codecs.exceptions import build_exception, take_exception
from evercache.codecs.json import JSONCodec
from evercache.codecs.registry import TypeRegistry
from evercache.codecs.signed_pickle import SignedPickleCodec
from evercache.codecs.strict import STRICT, StrictCodec
from evercache.errors import CannotEncode, ConfigurationError, CorruptEnvelope, ValueTooLarge
from evercache.protocol.canonical import shown

__all__ = ["Encoder"]

_STRICT = StrictCodec()


def _check_codec(codec: object) -> None:
    if isinstance(codec, type):
        how = "" if codec is not SignedPickleCodec else "[secret]"
        raise ConfigurationError(
            f"{codec.__name__} is a class: give an object of it, such as {codec.__name__}({how})"
        )
    if not all(hasattr(codec, name) for name in ("number", "encode", "decode")):
        raise ConfigurationError(
            f"{shown(codec)} is no codec: give an object, such as evercache.JSONCodec() or "
            "evercache.SignedPickleCodec([secret])"
        )


@dataclass(frozen=True, slots=True)
class Encoder:
    """How the values of one function (or of the direct operations) are stored.

    `codec` writes, and `fallback` what it cannot hold; these, the default codec, JSON and those in `also_read` can
    be read.
    """

    codec: Codec = _STRICT
    types: TypeRegistry = field(default_factory=TypeRegistry)
    compression: Compression = field(default_factory=Compression)
    #: Limit of the payload as it is stored, in bytes.
    max_value_bytes: int = 1 << 20
    also_read: tuple[Codec, ...] = ()
    fallback: Codec | None = None
    #: Whether no other codec stands in the place of the default one: its payloads may be read by `decode_plain`.
    ordinary: bool = field(init=False, repr=False, compare=False)
    _readable: dict[int, Codec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        more = self.also_read if self.fallback is None else (*self.also_read, self.fallback)
        codecs: tuple[Codec, ...] = (JSONCodec(), _STRICT, *more, self.codec)
        for codec in codecs:
            _check_codec(codec)
        object.__setattr__(self, "_readable", {codec.number: codec for codec in codecs})
        object.__setattr__(self, "ordinary", type(self._readable[STRICT]) is StrictCodec)

    def with_types(self, types: TypeRegistry) -> Encoder:
        """The same with another registry."""
        return replace(self, types=types)

    def with_codec(self, codec: Codec) -> Encoder:
        """The same, writing by another codec."""
        return replace(self, codec=codec)

    def encode(self, value: object, context: bytes) -> tuple[bytes, int, bool]:
        """Payload, number of the codec, whether it is compressed. `context` is the entry's key.

        `CannotEncode` for a value whose copy would differ, `ValueTooLarge` for one over the limit.
        """
        codec = self.codec
        try:
            data = codec.encode(value, self.types, context)
        except CannotEncode:
            if self.fallback is None:
                raise
            codec = self.fallback
            data = codec.encode(value, self.types, context)
        return self._pack(data, codec.number)

    def decode(self, payload: bytes, codec: int, compressed: bool, context: bytes) -> object:
        """The value; `CorruptEnvelope` for anything that cannot be read, and no other error but `MemoryError`."""
        reader = self._readable.get(codec)
        if reader is None:
            raise CorruptEnvelope(f"written by the codec {codec}, which is not configured here")
        try:
            data = self.compression.decompress(payload) if compressed else payload
            return reader.decode(data, self.types, context)
        except CorruptEnvelope as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from None  # of this process: nothing is wrong with the entry
            raise

    def encode_error(
        self, error: BaseException, allowed: Iterable[type[BaseException]], context: bytes
    ) -> tuple[bytes, int, bool]:
        """The same for an exception of one of the allowed classes, always by the default codec."""
        parts = take_exception(error, allowed)
        return self._pack(_STRICT.encode(parts, self.types, context), _STRICT.number)

    def decode_error(
        self,
        payload: bytes,
        codec: int,
        compressed: bool,
        allowed: Iterable[type[BaseException]],
        context: bytes,
    ) -> BaseException:
        """The exception; `CorruptEnvelope` also for a class that is not allowed."""
        if codec != _STRICT.number:
            raise CorruptEnvelope(f"an exception written by the codec {codec}")
        return build_exception(self.decode(payload, codec, compressed, context), allowed)

    def _pack(self, data: bytes, codec: int) -> tuple[bytes, int, bool]:
        small = self.compression.compress(data, needed=len(data) > self.max_value_bytes)
        payload = data if small is None else small
        if len(payload) > self.max_value_bytes or len(data) > self.compression.max_inflated:
            raise ValueTooLarge(
                f"the value takes {len(payload)} bytes ({len(data)} before compression), over the limit of "
                f"{self.max_value_bytes}: return less, or raise max_value_bytes"
            )
        return payload, codec, small is not None
