"""What fronts make of the settings of an application: a namespace of a prefix, keys to sign with of its secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["namespace_of", "signing_keys"]


def namespace_of(prefix: str, front: str) -> str:
    """The namespace for a prefix of keys: the prefix itself where it can be one, `front` where it is empty."""
    if not prefix:
        return front
    if re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,31}", prefix):
        return prefix
    plain = re.sub(r"[^a-z0-9_.-]", "-", prefix.lower()).strip("-_.")[:20]
    return f"{plain or front}-{blake2b(prefix.encode(), digest_size=4).hexdigest()}"


def signing_keys(secrets: Iterable[str | bytes | None], person: bytes) -> tuple[bytes, ...]:
    """A key for `SignedPickleCodec` of each secret that is not empty; `person` keeps them apart from other uses."""
    texts = [secret.encode() if isinstance(secret, str) else bytes(secret) for secret in secrets if secret]
    return tuple(blake2b(text, digest_size=32, person=person).digest() for text in texts)
