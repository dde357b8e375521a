"""The search with few preemptions: at chosen points of an otherwise calm schedule, one step is held back.

An undisturbed run of the same seed counts the points at which a step can be held: messages that travel, wake-ups
of tasks and executions of scripts, by class (which command, which line of the library awaits). A hold names a class
and one point of it by two fractions, so that what is rare in a schedule is chosen as often as what is common.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from evercache.protocol.scripts import SCRIPTS

if TYPE_CHECKING:
    from tests.sim.plan import Fault

__all__ = ["Points", "chosen", "command_name", "kind_of_point", "step_name"]

_NAMES = {script.sha.encode(): name for name, script in SCRIPTS.items()}
_TEXTS = {script.text.encode(): name for name, script in SCRIPTS.items()}

#: Kind of point, class, number: which fault happens there.
Armed = dict[tuple[str, str, int], "Fault"]


class Points:
    """Counts the points of a run as they come, and finds those at which something is to be held."""

    def __init__(self, kinds: set[str], armed: Armed | None = None) -> None:
        #: "message", "task", "script": those that are looked at.
        self.kinds = kinds
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)
        self._armed = armed or {}
        #: After the time of the faults nothing is held any more, though a disturbed run gets to a point later.
        self.over = False

    def __repr__(self) -> str:
        totals = {kind: seen.total() for kind, seen in self.seen.items()}
        return f"<Points {totals} armed={len(self._armed)}>"

    def end(self) -> None:
        """The time of the faults is over."""
        self.over = True

    def at(self, kind: str, what: str) -> Fault | None:
        """One more point; the fault that the plan put there, if any."""
        number = self.seen[kind][what]
        self.seen[kind][what] = number + 1
        return None if self.over else self._armed.get((kind, what, number))


def kind_of_point(hold: Fault) -> str:
    """Where it takes place: at a "message", a step of a "task", or a "script"."""
    return "task" if hold.kind == "hold_process" else hold.kind.removeprefix("hold_")


def chosen(holds: Iterable[Fault], seen: dict[str, Counter[str]]) -> Armed:
    """The points of an undisturbed run at which these holds take place."""
    armed: Armed = {}
    for fault in holds:
        kind = kind_of_point(fault)
        classes = sorted(seen[kind])
        if classes:
            what = classes[int(fault.args["which"] * len(classes))]
            armed[kind, what, int(fault.args["nth"] * seen[kind][what])] = fault
    return armed


def command_name(words: list[bytes]) -> str:
    """The class of a request: its command, or its script."""
    name = words[0].upper()
    if name in (b"EVALSHA", b"EVAL"):
        return _NAMES.get(words[1]) or _TEXTS.get(words[1], "?")
    return name.decode() if name != b"SENTINEL" else f"SENTINEL {words[1].decode()}"


def step_name(callback: Any) -> str | None:
    """The class of a task's next step: the innermost line of the library that awaits; None for other callbacks."""
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return None
    coroutine: Any = task.get_coro()
    name = coroutine.__qualname__
    while coroutine is not None and (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if "evercache" in frame.f_globals.get("__name__", ""):
            name = f"{coroutine.__qualname__}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return str(name)
