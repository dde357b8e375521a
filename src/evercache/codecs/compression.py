"""Zstandard for payloads where it pays."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from evercache.errors import CorruptEnvelope

if TYPE_CHECKING:
    import zstandard

__all__ = ["Compression"]

#: A payload of this size and above is judged by samples first: pieces of its beginning, middle and end (bytes).
_SAMPLED: Final = 32 << 10
_PIECE: Final = 4 << 10


class _Local(threading.local):
    """Contexts of zstandard, which are not safe for threads; each thread has its own."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor: zstandard.ZstdDecompressor | None = None


_local = _Local()


class Compression(Struct, frozen=True):
    """When to compress and how far to trust what comes back. Sizes in bytes."""

    #: Payloads of this size and above are tried; None: never.
    above: int | None = 1024
    level: int = 3
    #: The compressed form is kept only if it is smaller by this part. Each hit pays for decompression (about 0.7 ns
    #: for each byte): for random text, which shrinks by a quarter, more than the bytes that it saves.
    least_gain: float = 1 / 3
    #: No payload is inflated beyond this.
    max_inflated: int = 64 << 20

    def __post_init__(self) -> None:
        _load()

    def compress(self, data: bytes, *, needed: bool = False) -> bytes | None:
        """The smaller form, or None where there is too little to win. `needed`: any smaller form will do."""
        if self.above is None or len(data) < self.above or len(data) > self.max_inflated:
            return None
        compressor = _local.compressors.get(self.level)
        if compressor is None:
            compressor = _local.compressors[self.level] = zstandard.ZstdCompressor(level=self.level)
        most = 1.0 if needed else 1 - self.least_gain
        if not needed and len(data) >= _SAMPLED:
            middle = (len(data) - _PIECE) // 2
            sample = data[:_PIECE] + data[middle : middle + _PIECE] + data[-_PIECE:]
            if len(compressor.compress(sample)) > most * len(sample):
                return None
        small = compressor.compress(data)
        return small if len(small) <= most * len(data) else None

    def decompress(self, data: bytes) -> bytes:
        """The payload; `CorruptEnvelope` for damaged data, or a size beyond `max_inflated`."""
        try:
            size = zstandard.get_frame_parameters(data).content_size
            # The frame's own claim is checked before anything is allocated for it.
            if not 0 < size <= self.max_inflated:
                raise CorruptEnvelope(f"a compressed payload of {size} bytes: at most {self.max_inflated} are read")
            if (inflater := _local.decompressor) is None:
                inflater = _local.decompressor = zstandard.ZstdDecompressor()
            inflated = inflater.decompress(data, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise CorruptEnvelope(f"a damaged compressed payload: {error}") from error
        if len(inflated) != size:
            raise CorruptEnvelope("a compressed payload cut short")
        return inflated


def _load() -> None:
    """Import zstandard: when a cache is created, not with the package."""
    global zstandard
    import zstandard
