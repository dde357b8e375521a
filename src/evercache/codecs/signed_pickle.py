"""Pickle for values that nothing else can hold, read only under a signature of the application's own."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import blake2b

from evercache.codecs.registry import TypeRegistry
from evercache.errors import CannotEncode, ConfigurationError, CorruptEnvelope
from evercache.protocol.canonical import describe, shown

__all__ = ["SignedPickleCodec"]

_PERSON = b"evercache-pickle"
_DIGEST_BYTES = 32
_MIN_KEY_BYTES = 16


class SignedPickleCodec:
    """Pickle with a keyed BLAKE2b digest (RFC 7693) over the entry's key and the data. Number 3.

    The first key signs, all of them verify: to rotate, put the new key in front and drop the old one when
    its entries have expired. A key has at least 16 bytes (`secrets.token_bytes(32)`). The signature binds the
    entry's key, so a value cannot be moved to another entry; whoever can write to the store can still put
    an older value of the same entry back.
    """

    number = 3

    def __init__(self, keys: Sequence[bytes | str]) -> None:
        if isinstance(keys, (bytes, str)) or not keys:
            raise ConfigurationError("signed pickle takes a sequence of keys: the first signs, all verify")
        secrets = [key.encode() if isinstance(key, str) else bytes(key) for key in keys]
        if any(len(secret) < _MIN_KEY_BYTES for secret in secrets):
            raise ConfigurationError(
                f"a key to sign with has at least {_MIN_KEY_BYTES} bytes: make one with secrets.token_bytes(32)"
            )
        import pickle  # by those who use it only

        self._dumps, self._loads = pickle.dumps, pickle.loads
        self._secrets = tuple(blake2b(secret, digest_size=64, person=_PERSON).digest() for secret in secrets)

    def __repr__(self) -> str:
        return f"SignedPickleCodec({len(self._secrets)} keys)"

    def encode(self, value: object, types: TypeRegistry, context: bytes) -> bytes:
        """See `Codec.encode`; that the copy equals the value is up to the pickled classes here."""
        try:
            data = self._dumps(value, protocol=5)
        except Exception as error:  # the classes' own reducers run
            why = shown(error, str)
            raise CannotEncode(f"{describe(value)} cannot be pickled ({why}): return plain values") from error
        return _sign(self._secrets[0], context, data) + data

    def decode(self, data: bytes, types: TypeRegistry, context: bytes) -> object:
        """See `Codec.decode`. Nothing is unpickled before the signature has been found right."""
        signature, pickled = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        right = [hmac.compare_digest(_sign(secret, context, pickled), signature) for secret in self._secrets]
        if not any(right):
            raise CorruptEnvelope("the signature of a pickled value is wrong: not written with one of these keys")
        try:
            return self._loads(pickled)
        except Exception as error:  # our own bytes, but a class may have moved or changed since
            raise CorruptEnvelope(f"a pickled value fits no class of today: {shown(error, str)}") from error


def _sign(secret: bytes, context: bytes, data: bytes) -> bytes:
    digest = blake2b(key=secret, digest_size=_DIGEST_BYTES, person=_PERSON)
    digest.update(len(context).to_bytes(8, "big"))
    digest.update(context)
    digest.update(data)
    return digest.digest()
