"""The feed of what happened last: a sorted set, written at the master and read at a replica."""

from __future__ import annotations

import json
import time
from typing import Any

from crowd.cache import sentinel
from crowd.optional import attempt

__all__ = ["add", "latest"]

KEY, LENGTH = "crowd_feed", 100


def add(kind: str, **what: Any) -> None:
    """Something happened. An entry may get lost with the servers: it is no more than news."""
    now = time.time()
    entry = json.dumps({"kind": kind, "at": now, **what})

    def write() -> None:
        with sentinel.master.pipeline() as pipe:
            pipe.zadd(KEY, {entry: now})
            pipe.zremrangebyrank(KEY, 0, -LENGTH - 1)
            pipe.execute()

    attempt(write, None)


def latest(count: int = 20) -> list[dict[str, Any]]:
    """The last entries, newest first. In the line after `add` they are there: the client reads what it wrote."""
    found: list[Any] = attempt(lambda: list(sentinel.slave.zrevrange(KEY, 0, count - 1, withscores=True)), [])
    return [json.loads(entry) for entry, _ in found]
