"""Zstandard for payloads where it pays."""

from __future__ import annotations

import threading

import zstandard
from msgspec import Struct

from evercache.errors import CorruptEnvelope

__all__ = ["Compression"]


class _Local(threading.local):
    """Contexts of zstandard, which are not safe for threads; each thread has its own."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_local = _Local()


class Compression(Struct, frozen=True):
    """When to compress and how far to trust what comes back. Sizes in bytes."""

    #: Payloads of this size and above are tried; None: never.
    above: int | None = 1024
    level: int = 3
    #: The compressed form is kept only if it is smaller by this part.
    least_gain: float = 0.1
    #: No payload is inflated beyond this.
    max_inflated: int = 64 << 20

    def compress(self, data: bytes) -> bytes | None:
        """The smaller form, or None where there is nothing to win."""
        if self.above is None or len(data) < self.above or len(data) > self.max_inflated:
            return None
        compressor = _local.compressors.get(self.level)
        if compressor is None:
            compressor = _local.compressors[self.level] = zstandard.ZstdCompressor(level=self.level)
        small = compressor.compress(data)
        return small if len(small) <= len(data) * (1 - self.least_gain) else None

    def decompress(self, data: bytes) -> bytes:
        """The payload; `CorruptEnvelope` for damaged data, or a size beyond `max_inflated`."""
        try:
            size = zstandard.get_frame_parameters(data).content_size
            # The frame's own claim is checked before anything is allocated for it.
            if not 0 < size <= self.max_inflated:
                raise CorruptEnvelope(f"a compressed payload of {size} bytes: at most {self.max_inflated} are read")
            inflated = _local.decompressor.decompress(data, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise CorruptEnvelope(f"a damaged compressed payload: {error}") from error
        if len(inflated) != size:
            raise CorruptEnvelope("a compressed payload cut short")
        return inflated
