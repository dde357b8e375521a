"""The process beside: it changes its keys and invalidates them, until its input ends."""

from __future__ import annotations

import random
import select
import sys
from pathlib import Path

from evercache import Cache
from tests.interrupts.truth import KEYS, Truth

__all__ = ["main"]


def main(url: str, path: str) -> None:
    """Invalidate some fifty times a second."""
    truth = Truth(Path(path))
    cache = Cache(url, namespace="interrupts", budget=1.0)

    @cache.cached(name="f", ttl=60)
    def f(key: int) -> list[int]:
        return [key, truth.version(key)]

    while not select.select([sys.stdin], [], [], random.uniform(0.0, 0.04))[0]:
        key = KEYS + random.randrange(KEYS)
        version = truth.change(key)
        acks = f.invalidate(key), cache.invalidate_tag(f"k{key}")
        if all(acks):
            truth.acknowledged(key, version)


if __name__ == "__main__":
    main(*sys.argv[1:])
