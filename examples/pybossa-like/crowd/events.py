"""Server-sent events: whoever looks at a project sees each answer as it comes, by publish and subscribe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from redis import RedisError

from crowd.cache import sentinel
from crowd.optional import attempt

__all__ = ["publish", "stream"]

#: Seconds between two signs of life.
_QUIET = 10.0


def _channel(short_name: str) -> str:
    return f"channel_project_{short_name}"


def publish(short_name: str, **what: Any) -> None:
    """Tell everybody who looks at a project; nobody needs to hear it."""
    attempt(lambda: sentinel.master.publish(_channel(short_name), json.dumps(what)), 0)


def stream(short_name: str) -> Iterator[str]:
    """What is published, without end. Through a failover the subscription of evercache is renewed by itself;
    that of plain redis-py ends, and so does the response: a browser then asks again after `retry` (ms)."""
    pubsub = sentinel.master.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    yield "retry: 3000\n\n"
    try:
        pubsub.subscribe(_channel(short_name))
        while True:
            message = pubsub.get_message(timeout=_QUIET)
            yield f"data: {message['data'].decode()}\n\n" if message else ": nothing new\n\n"
    except RedisError as error:
        yield f": the servers are away ({type(error).__name__})\n\n"
    finally:
        pubsub.close()
