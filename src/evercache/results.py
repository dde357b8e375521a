"""What operations return: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evercache.observe.counters import Counters

__all__ = ["Ack", "Explanation", "Health", "NodeHealth", "RecentEvent", "Stats"]


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to an invalidation or a write; true when the master has it.

    `stamp` is the logical time that it got, `existed` whether there was an entry, `queued` that no master could
    be reached, or that a signal handler or a finalizer called where nothing can be waited for: it is obeyed here at
    once and sent to the master as soon as there is one. `reason` says in a
    word why a write was not done (`exists`, `outdated`, `late`, `cancelled`, `expired`, `uncacheable`,
    `unavailable`, `closed`).
    """

    done: bool
    stamp: int | None = None
    existed: bool = False
    queued: bool = False
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.done


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since this process began (see `evercache.observe.Counters` for each), and what is held in memory."""

    counters: Counters
    near_entries: int = 0
    near_bytes: int = 0
    marks: int = 0
    journal: int = 0
    pending: int = 0
    resyncs: int = 0

    @property
    def hit_ratio(self) -> float:
        """Share of calls that were answered without running the function."""
        return self.counters.hit_ratio


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """One server as this process sees it. `use` is what it is used for, or why not; `lag` in seconds."""

    address: str
    role: str
    use: str
    lag: float | None = None
    eviction: str | None = None


@dataclass(frozen=True, slots=True)
class RecentEvent:
    """An event that was told `age` seconds ago; see docs/events.md for each `kind`."""

    age: float
    kind: str
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Health:
    """How the cache stands now. `problems` are sentences that say what is wrong and what to do; none is well.

    `events` counts each kind of event since the process began, `recent` are the newest 50, newest first.
    `dataclasses.asdict` of it is fit for JSON.
    """

    ok: bool
    url: str
    master: str | None
    epoch: int
    tail_age: float | None
    pending: int
    nodes: tuple[NodeHealth, ...] = ()
    problems: tuple[str, ...] = ()
    events: dict[str, int] = field(default_factory=dict)
    recent: tuple[RecentEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call hits or misses now. Times in seconds; stamps as the master counts them.

    `age` is the time since the entry was stored; None where it cannot be read.
    """

    key: str
    verdict: str
    node: str | None = None
    age: float | None = None
    expires_in: float | None = None
    stale_in: float | None = None
    stamp: int | None = None
    needed: int | None = None
    tags: tuple[str, ...] = ()
    marks: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.key}: {self.verdict}"]
        for name in ("node", "age", "stale_in", "expires_in", "stamp", "needed"):
            value = getattr(self, name)
            if value is not None:
                lines.append(
                    f"  {name.replace('_', ' ')}: {value:.3f} s"
                    if isinstance(value, float)
                    else f"  {name}: {value}"
                )
        lines += [f"  mark of {scope}: {stamp}" for scope, stamp in self.marks.items()]
        return "\n".join(lines)
