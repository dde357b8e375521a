"""How long a call takes: each operation keeps to its budget (promise 1)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Budgets"]

#: What a machine may be late by (seconds): here only steps that share a moment.
SLACK = 0.01
#: Operations that compute nothing, so that all their time is the cache's.
_PLAIN = ("get", "get_many", "peek", "set", "set_many", "touch", "incr", "stamp", "invalidate")


class Budgets:
    """Judges each operation that runs no function of the user: it takes its budget at most, and the time for which
    its process, or the event loop of its application, stood still."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __repr__(self) -> str:
        return f"<Budgets of {self._world!r}>"

    def watch(self, process: Any, clients: Any) -> None:
        """Wrap the operations of a process."""
        for name in _PLAIN:
            self._wrap(process, clients.operations, name)
        for name in ("begin", "end"):
            self._wrap(process, clients.changes, name)

    def _wrap(self, process: Any, owner: Any, name: str) -> None:
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(owner, name)

        async def timed(*args: Any, **more: Any) -> Any:
            began = self._world.now
            try:
                return await method(*args, **more)
            finally:
                # That of a function, if it has one of its own.
                function = args[0].subject.function if name == "peek" else ""
                self._over(process, name, began, process.budget(function or "k"))

        setattr(owner, name, timed)

    def _over(self, process: Any, name: str, began: float, budget: float) -> None:
        oracle, now = self._world.oracle, self._world.now
        took = now - began
        if oracle.over or took <= budget + SLACK:
            return
        limit = budget + SLACK + oracle.stopped(process.name, began, now)
        if took > limit and process.tag.alive:
            oracle.bad("budget", f"{process.name}: {name} took {took:.3f} s, {took - limit:.3f} s too long")
