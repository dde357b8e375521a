"""Removing dead entries before their time, for whoever counts the keys of a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from evercache.client._async.link import AsyncLink, Build
from evercache.engine.engine import Engine
from evercache.errors import UnavailableError
from evercache.observe import Counters
from evercache.protocol.replies import parse_sweep

__all__ = ["AsyncSweeping", "Swept"]

#: Keys that the server looks at in one step (some 0.2 ms of it), and entries that are removed in one.
_STEP, _BATCH = 1000, 100


class Swept(Struct, frozen=True):
    """How many entries a sweep removed, and whether it saw all that were there."""

    removed: int
    whole: bool


class AsyncSweeping:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink) -> None:
        self._engine = engine
        self._link = link

    def __repr__(self) -> str:
        return f"<AsyncSweeping of {self._engine!r}>"

    async def sweep(self, pattern: str, least: int, budget: float, counters: Counters) -> Swept:
        """Remove the entries whose keys fit a pattern and whose stamp is below `least`, in `budget` seconds.

        By a walk (`SCAN`) of short steps and a script that compares before it deletes (rule 21). What is not
        reached in time is dead all the same, and leaves by its TTL.
        """
        state, commands = self._engine.state, self._engine.commands

        def build(key: str) -> Build:
            return lambda replid, newest: commands.sweep(key, replid=replid, newest=newest, least=least)

        deadline, removed = state.now() + budget, 0
        try:
            async for keys in self._walk(pattern, deadline):
                for start in range(0, len(keys), _BATCH):
                    if state.now() >= deadline:
                        return Swept(removed, False)
                    raw = await self._link.run_many([build(key) for key in keys[start : start + _BATCH]], deadline)
                    removed += sum(parse_sweep(reply).removed for reply in raw)
        except UnavailableError as error:
            if state.now() < deadline:
                self._engine.failed(error, counters)
            return Swept(removed, False)
        return Swept(removed, state.now() < deadline)

    async def remove(self, pattern: str, wanted: Callable[[bytes], bool], budget: float) -> Swept:
        """Remove keys that fit a pattern and whose first bytes are `wanted`: what other code wrote."""
        state, removed = self._engine.state, 0
        deadline = state.now() + budget
        try:
            async for keys in self._walk(pattern, deadline):
                heads = await self._link.ask([("GETRANGE", key, 0, 3) for key in keys], deadline)
                found = [key for key, head in zip(keys, heads, strict=True) if wanted(head)]
                if found:
                    removed += (await self._link.ask([("UNLINK", *found)], deadline))[0]
        except UnavailableError:
            return Swept(removed, False)
        return Swept(removed, state.now() < deadline)

    async def _walk(self, pattern: str, deadline: float) -> Any:
        """The keys at the master that fit a pattern, in steps, until the deadline."""
        cursor: Any = "0"
        while self._engine.state.now() < deadline:
            ((cursor, found),) = await self._link.ask(
                [("SCAN", cursor, "MATCH", pattern, "COUNT", _STEP)], deadline
            )
            keys = [key.decode("utf-8", "ignore") for key in found]  # what is not UTF-8 is not ours
            if keys:
                yield keys
            if int(cursor) == 0:
                return
