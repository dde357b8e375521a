"""What the site does on Redis beside its cache, where a page must not fail with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from redis import RedisError

__all__ = ["attempt"]

T = TypeVar("T")
LOG = logging.getLogger(__name__)
#: Seconds: a command that fails after so long has waited for a server in vain; for the second time span after it,
#: nobody in this process waits again.
_LONG, _PAUSE = 1.0, 5.0
_paused_until = 0.0


def attempt(command: Callable[[], T], otherwise: T) -> T:
    """What `command` gives, or `otherwise` when the servers do not do it. It may run twice: let that do no harm.

    Through a failover the clients of evercache wait by themselves, so this is for the command that was under way
    when the master died (it may have run or not), and for the time when there are no servers at all.
    """
    global _paused_until
    for _ in range(2):
        began = time.monotonic()
        if began < _paused_until:
            break
        try:
            return command()
        except RedisError as error:
            LOG.info("done without the servers: %s", error)
            ended = time.monotonic()
            if ended - began > _LONG:
                _paused_until = ended + _PAUSE
    return otherwise
