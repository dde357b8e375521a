"""How soon the tail connects again after a connection that ended."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from evercache.engine.tail import Tail
from evercache.errors import UnavailableError
from evercache.protocol.types import Address

MASTER = Address("127.0.0.1", 6379)


class Engine:
    """As much of an engine as `Tail.run` needs; notes the pauses, and ends after some of them."""

    def __init__(self) -> None:
        self.view = SimpleNamespace(master=MASTER)
        self.state = SimpleNamespace(rng=random.Random(1), ready=False)
        self.pauses: list[float] = []

    async def view_changed(self, pause: float) -> None:
        self.pauses.append(pause)
        if len(self.pauses) == 6:
            raise asyncio.CancelledError

    def master_trouble(self, address: Address, error: UnavailableError) -> None:
        pass


async def pauses(monkeypatch: pytest.MonkeyPatch, *, interrupted: bool, moved: bool = False) -> list[float]:
    engine: Any = Engine()
    tail = Tail(engine)

    async def follow(self: Tail, address: Address) -> None:
        self._interrupted = interrupted
        if moved:
            engine.view.master = Address("127.0.0.1", len(engine.pauses))
        raise UnavailableError("it ended")

    monkeypatch.setattr(Tail, "_follow", follow)
    with pytest.raises(asyncio.CancelledError):
        await tail.run()
    found: list[float] = engine.pauses
    return found


async def test_a_master_that_does_not_serve_is_asked_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await pauses(monkeypatch, interrupted=False)
    assert found[0] >= 0.01
    assert max(found) > 0.03
    assert max(found) <= 0.09


async def test_a_connection_that_it_left_itself_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(await pauses(monkeypatch, interrupted=True)) < 0.002


async def test_another_master_is_no_reason_for_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    assert min(await pauses(monkeypatch, interrupted=True, moved=True)) >= 0.005
