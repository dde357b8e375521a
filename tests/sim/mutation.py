"""One wrong change: how it is made, and how it is hunted for.

A change of a script is made in its text in memory, a change of Python in a copy of the function; the files stay as
they are. `rule` is the number of the rule, or 0 for a slip.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.edits import Change, edit, put
from tests.sim.lua import LuaHost
from tests.sim.plan import Plan, make_plan
from tests.sim.swarm import with_parts
from tests.sim.world import Result, run

__all__ = ["Mutation", "edit", "hunt", "never", "no", "nothing", "put", "yes"]


#: A wrong change shows soonest where all processes have the same settings, unless it is about them, and where they
#: run the code that it is made in: that for tasks, mostly.
SAME_SETTINGS = {"short": 0.0, "other_db": False, "threads": (), "naps": ()}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One wrong change, and the kind of schedule in which it shows soonest."""

    name: str
    rule: int
    python: tuple[Change, ...] = ()
    lua: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    focus: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    #: Parts of the world that such a schedule has beside what it draws (`swarm.PARTS`, kinds of faults).
    parts: tuple[str, ...] = ()
    #: Faults on top of those of the schedule: (kind, seconds from the end of the writes, arguments).
    scene: tuple[tuple[str, float, dict[str, Any]], ...] = ()
    #: Whether nothing goes wrong but the scene: where any other fault ends what it needs.
    alone: bool = False

    @contextlib.contextmanager
    def applied(self) -> Iterator[LuaHost | None]:
        """While it is applied; gives the interpreter with the changed scripts."""
        with contextlib.ExitStack() as stack:
            for change in self.python:
                stack.enter_context(change())
            yield LuaHost(self.lua) if self.lua else None

    def plan(self, seed: int) -> Plan:
        """A schedule in which it may show."""
        plan = make_plan(seed, self.focus)
        plan = with_parts(plan.only(()) if self.alone else plan, self.parts, self.name)
        return replace(
            plan,
            settings={**plan.settings, **self.settings},
            workload={**plan.workload, **SAME_SETTINGS, **self.workload},
            limits={**plan.limits, **self.limits},
        ).plus(self.scene)


def nothing(*args: Any, **kwargs: Any) -> None:
    return None


def yes(*args: Any, **kwargs: Any) -> bool:
    return True


def no(*args: Any, **kwargs: Any) -> bool:
    return False


async def never(self: Any) -> None:
    return None


def hunt(mutation: Mutation, first: int, most: int) -> tuple[int, Result | None]:
    """Run schedules from a seed on until one of them shows the mutation; how many that took.

    AssertionError if that schedule fails without the mutation as well: then it has shown something else.
    """
    found: Result | None = None
    with mutation.applied() as lua:
        for tried in range(1, most + 1):
            found = run(mutation.plan(first + tried - 1), lua=lua)
            if found.violations:
                break
        else:
            return most, None
    clean = run(mutation.plan(found.seed))
    assert not clean.violations, f"seed {found.seed} fails without the mutation: {clean.violations[0]}"
    return tried, found
