"""The event loop that asynchronous calls run on."""

from __future__ import annotations

import asyncio

from evercache.errors import ConfigurationError

__all__ = ["running_loop"]


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of asyncio that runs here; ConfigurationError under trio and others, which have none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "no asyncio loop runs here, and evercache's asynchronous methods need one (trio has none): run the"
            " application on asyncio (with anyio: backend='asyncio'), or cache a plain function and call it in a "
            "thread, such as  await trio.to_thread.run_sync(function, 7)"
        ) from None
