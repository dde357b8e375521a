"""Values to bytes and back: what comes out equals what went in, types included, or it is not stored."""

from __future__ import annotations

from evercache.codecs.base import Codec
from evercache.codecs.compression import Compression
from evercache.codecs.json import JSONCodec
from evercache.codecs.pipeline import Encoder
from evercache.codecs.registry import TypeRegistry
from evercache.codecs.signed_pickle import SignedPickleCodec
from evercache.codecs.strict import PLAIN, SMALL, STRICT, StrictCodec, decode_plain

__all__ = [
    "PLAIN",
    "SMALL",
    "STRICT",
    "Codec",
    "Compression",
    "Encoder",
    "JSONCodec",
    "SignedPickleCodec",
    "StrictCodec",
    "TypeRegistry",
    "decode_plain",
]
