"""What a fault is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.fleet import Fleet
from tests.faults.judge import Bounds
from tests.faults.stage import Stage
from tests.server import Server

__all__ = ["CATALOG", "DYING", "Fault", "Scene", "fault"]


@dataclass(slots=True)
class Scene:
    """Where a fault happens."""

    stage: Stage
    fleet: Fleet
    #: The master and the replicas as they were when it began.
    master: Server
    replicas: list[Server]
    #: A short form: less waiting.
    quick: bool = False

    def halts(self, since: float) -> tuple[float, ...]:
        """When the master was killed or frozen; else `since`, when the fault began."""
        return tuple(at for at in self.master.halts if at > since) or (since,)


#: Does the fault up to its only `yield`, and mends it after.
Doing = Callable[[Scene], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what it does, and what is promised differently."""

    name: str
    what: str
    doing: Doing
    bounds: Bounds = field(default_factory=Bounds)
    #: How long it lasts (s); and in the short form.
    seconds: float = 3.0
    short: float = 1.0
    password: str | None = None
    options: Mapping[str, str | int] = field(default_factory=dict)
    callers: int = 8
    cache: Mapping[str, Any] | None = None
    short_lived: int = 0
    #: Host names instead of an address: the number of the node that has one.
    named: int | None = None
    #: It leaves the deployment as it was, so that others may follow on it (for the soak).
    repeats: bool = True


DYING = Bounds(
    dying=True,
    why="what a master acknowledged in its last 100 ms nobody else may have heard (“last moments”): "
    "it is replayed within a second of the promotion, or of the restart",
)

CATALOG: dict[str, Fault] = {}


def fault(name: str, what: str, **more: Any) -> Callable[[Doing], Doing]:
    """Enter a function into the list."""

    def enter(doing: Doing) -> Doing:
        assert name not in CATALOG
        CATALOG[name] = Fault(name, what, doing, **more)
        return doing

    return enter
