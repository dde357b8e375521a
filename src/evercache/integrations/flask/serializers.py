"""What stands in `cache.cache.serializer` until somebody puts another one there: the codecs of this library."""

from __future__ import annotations

from typing import IO, Any

from cachelib.serializers import BaseSerializer, RedisSerializer, SimpleSerializer

from evercache.codecs import Encoder
from evercache.errors import CannotEncode, CorruptEnvelope

__all__ = ["OwnRedisSerializer", "OwnSerializer", "OwnSimpleSerializer"]

#: What signatures are made for, in the place of an entry's key: these bytes belong to none.
_CONTEXT = b"serializer"


class OwnSerializer(BaseSerializer):
    """cachelib's interface on the codecs: the number of the codec, whether it is compressed, and the payload.

    Nothing is unpickled that was not signed here, however it is called. As with cachelib's own, what cannot be
    written or read is told in the log, and is None.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def dumps(self, value: Any, protocol: int | None = None) -> bytes | None:
        """The bytes of a value."""
        try:
            payload, codec, compressed = self._encoder.encode(value, _CONTEXT)
        except CannotEncode as error:
            self._warn(error)
            return None
        return bytes((codec, compressed)) + payload

    def loads(self, value: bytes | None) -> Any:
        """The value of the bytes."""
        if value is None:
            return None
        try:
            if len(value) < 2:
                raise CorruptEnvelope("too short")
            return self._encoder.decode(value[2:], value[0], bool(value[1]), _CONTEXT)
        except CorruptEnvelope as error:
            self._warn(error)
            return None

    def dump(self, value: Any, f: IO[bytes], protocol: int | None = None) -> None:
        """`dumps` into a file."""
        data = self.dumps(value)
        if data is not None:
            f.write(data)

    def load(self, f: IO[bytes]) -> Any:
        """`loads` of a file."""
        return self.loads(f.read())


class OwnSimpleSerializer(OwnSerializer, SimpleSerializer):
    """Of a `SimpleCache`."""


class OwnRedisSerializer(OwnSerializer, RedisSerializer):  # type: ignore[misc]
    """Of a `RedisCache`, and of all on servers."""
