"""Invalidations as a load: so many tags at once, or single keys at a rate."""

from __future__ import annotations

import asyncio
import time

from evercache import Cache

__all__ = ["invalidate_keys", "invalidate_tags"]

_EVERY = 0.01


async def invalidate_tags(cache: Cache, count: int, at_once: int = 200) -> None:
    """So many tags, each invalidated once; the first one alone, which opens the connection."""
    await cache.ainvalidate_tag("tag:0")
    for first in range(0, count, at_once):
        some = range(first, min(first + at_once, count))
        acks = await asyncio.gather(*[cache.ainvalidate_tag(f"tag:{number}") for number in some])
        if not all(acks):
            raise RuntimeError("an invalidation was not acknowledged")


async def invalidate_keys(cache: Cache, rate: int, seconds: float, over: asyncio.Event | None = None) -> int:
    """Single keys at so many a second, for so many seconds or until it is over; gives how many."""
    done, began = 0, time.monotonic()
    while (passed := time.monotonic() - began) < seconds and not (over and over.is_set()):
        due = min(int(passed * rate) - done, 500)
        acks = await asyncio.gather(*[cache.adelete(f"key:{number}") for number in range(done, done + due)])
        if not all(acks):
            raise RuntimeError("an invalidation was not acknowledged")
        done += due
        await asyncio.sleep(_EVERY)
    return done
