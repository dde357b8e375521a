"""Between what a user hands over and the envelope: encoding, decoding, counters, cached exceptions."""

from __future__ import annotations

from typing import Any

from evercache.client.request import Request
from evercache.errors import NotACounter
from evercache.protocol.canonical import shown
from evercache.protocol.envelope import Envelope, draw_of, pack

__all__ = ["age_of", "counter_payload", "sealed", "value_of"]

_EXACT = 1 << 53


def value_of(request: Request, envelope: Envelope) -> Any:
    """A fresh copy of the value; raises a cached exception, and CorruptEnvelope for what cannot be read."""
    if envelope.counter:
        return envelope.number
    context = request.subject.key.encode()
    encoder = request.encoder
    if envelope.error:
        raise encoder.decode_error(
            envelope.payload, envelope.codec, envelope.compressed, request.policy.cache_errors, context
        )
    return encoder.decode(envelope.payload, envelope.codec, envelope.compressed, context)


def age_of(request: Request, envelope: Envelope, left: float) -> float | None:
    """How long ago an entry was stored, from the seconds `left` to its soft expiry; None where it cannot be read.

    By the policy of this process: what `set`, or a process with another TTL, stored has another age.
    """
    policy, draw = request.policy, draw_of(envelope.id)
    lifetime: tuple[int, int] | None
    try:
        lifetime = policy.lifetime(value_of(request, envelope), draw)
    except Exception as error:  # the cached one, or one of the application's ttl=
        lifetime = policy.error_lifetime(error, draw) if envelope.error else None
    return None if lifetime is None else max(0.0, lifetime[0] / 1e3 - left)


def sealed(request: Request, id: str, value: Any) -> bytes:
    """The envelope of a value that is set explicitly: an int below 2**53 becomes a counter (rule 9)."""
    tags, renewed = request.subject.tags, request.policy.renewed
    if type(value) is int and -_EXACT < value < _EXACT:
        return pack(payload=str(value).encode(), id=bytes.fromhex(id), tags=tags, counter=True, renewed=renewed)
    payload, codec, compressed = request.encoder.encode(value, request.subject.key.encode())
    return pack(
        payload=payload, codec=codec, id=bytes.fromhex(id), tags=tags, compressed=compressed, renewed=renewed
    )


def counter_payload(value: object) -> int:
    """A step or start of a counter; NotACounter unless it is a whole number below 2**53."""
    if type(value) is not int or not -_EXACT < value < _EXACT:
        raise NotACounter(f"a counter counts in whole numbers below 2**53, not {shown(value)}")
    return value
