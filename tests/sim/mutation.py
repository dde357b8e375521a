"""One wrong change: how it is made, and how it is hunted for.

A change of a script is made in its text in memory, a change of Python in a copy of the function; the files stay as
they are. `rule` is the number of the rule, or 0 for a slip.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from tests.sim.lua import LuaHost
from tests.sim.plan import Plan, make_plan
from tests.sim.world import Result, run

__all__ = ["Mutation", "edit", "hunt", "never", "no", "nothing", "put", "yes"]

Change = Callable[[], contextlib.AbstractContextManager[Any]]


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
    #: Faults on top of those of the schedule: (kind, seconds from the end of the writes, arguments).
    scene: tuple[tuple[str, float, dict[str, Any]], ...] = ()

    @contextlib.contextmanager
    def applied(self) -> Iterator[LuaHost | None]:
        """While it is applied; gives the interpreter with the changed scripts."""
        with contextlib.ExitStack() as stack:
            for change in self.python:
                stack.enter_context(change())
            yield LuaHost({name: _swaps(pairs) for name, pairs in self.lua.items()}) if self.lua else None

    def plan(self, seed: int) -> Plan:
        """A schedule in which it may show."""
        plan = make_plan(seed, self.focus)
        return replace(
            plan,
            settings={**plan.settings, **self.settings},
            workload={**plan.workload, **self.workload},
            limits={**plan.limits, **self.limits},
        ).plus(self.scene)


def _swaps(pairs: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    def change(text: str) -> str:
        for old, new in pairs:
            if old not in text:
                raise LookupError(f"the script has changed: {old!r} is not in it; bring this mutation up to date")
            text = text.replace(old, new)
        return text

    return change


def put(owner: Any, name: str, function: Any) -> Change:
    """Another function in the place of a method."""
    return lambda: mock.patch.object(owner, name, function)


def edit(owner: Any, name: str, *pairs: tuple[str, str]) -> Change:
    """A method with some of its text changed."""

    def apply() -> contextlib.AbstractContextManager[Any]:
        function = inspect.unwrap(getattr(owner, name))
        text = _swaps(pairs)(textwrap.dedent(inspect.getsource(function)))
        scope: dict[str, Any] = {}
        exec(compile(text, f"<mutated {owner.__name__}.{name}>", "exec"), function.__globals__, scope)
        return mock.patch.object(owner, name, scope[name])

    return apply


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
