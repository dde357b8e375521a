"""A future may be cancelled by the handler of a signal between any two lines, as `asyncio.run` does at Ctrl-C."""

from __future__ import annotations

import asyncio
from typing import Any

from evercache.client.sharing import _wake as wake_joiners
from evercache.client.waits import _wake
from evercache.net.requests import Exchange


class Interrupted(asyncio.Future[Any]):
    """A signal arrives right after it said that nothing has happened yet."""

    def done(self) -> bool:
        before = super().done()
        self.cancel()
        return before


async def test_a_waiter_that_is_cancelled_while_it_is_woken() -> None:
    waiter: Interrupted = Interrupted()
    waiter.done()
    _wake(waiter)
    _wake(Interrupted())
    wake_joiners({"key": [Interrupted(), Interrupted()]}, Interrupted())
    wake_joiners({(read := Interrupted()): [Interrupted(), waiter]}, read)  # type: ignore[dict-item]


async def test_a_request_that_is_cancelled_while_it_fails() -> None:
    exchange = Exchange.__new__(Exchange)
    exchange.future = Interrupted()
    exchange.fail(ConnectionError())
