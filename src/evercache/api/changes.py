"""What is being changed: the answer of `changing`, and the scopes that its arguments name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from evercache.api.core import as_tags
from evercache.api.function import CallableFace
from evercache.api.keyspace import Keyspace
from evercache.errors import ConfigurationError
from evercache.policy import Seconds, seconds
from evercache.protocol.canonical import shown
from evercache.protocol.scope import Scope
from evercache.results import Ack

if TYPE_CHECKING:
    from evercache.engine.state import Hold, State

__all__ = ["AT_MOST", "Change", "Changed", "longest", "scopes_of"]

#: What can be changed: a key, as `f.key(7)` or as in `cache.get(key)`, or a cached function with all its entries.
Changed = str | CallableFace[..., Any]

#: Seconds for which fills are refused by default, if nobody says that the change is over; and at most.
AT_MOST: Final = 30
_LONGEST: Final = 600.0


def scopes_of(keyspace: Keyspace, what: Iterable[Changed], tag: str | Iterable[str]) -> list[Scope]:
    """What a change covers; TypeError for nothing at all, `WrongCache` for keys and functions of another cache."""
    what = tuple(what)
    for item in what:
        if isinstance(item, CallableFace):
            keyspace._check_own(f"the function {item._core.name}", item._core.cache)
    scopes = [
        Scope.of_function(item._core.name)
        if isinstance(item, CallableFace)
        else Scope.of_key(keyspace._subject(item, ()).key)
        for item in what
    ]
    scopes += map(Scope.of_tag, as_tags(tag))
    if not scopes:
        raise TypeError("name what is being changed: keys (f.key(7)), cached functions (f), or tag=")
    return list(dict.fromkeys(scopes))


def longest(at_most: Seconds) -> float:
    """`at_most` in seconds; ConfigurationError for more than ten minutes."""
    found = seconds(at_most, "at_most")
    if not 0 < found <= _LONGEST:
        raise ConfigurationError(
            f"at_most={shown(at_most)}: fills can be refused for up to {_LONGEST:.0f} s; use less"
        )
    return found


class Change:
    """A change under way, or over. Used by one thread or task."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self._state: State | None = None
        #: Of the marks at its end; empty before it.
        self.acks: list[Ack] = []

    def __repr__(self) -> str:
        return f"<Change held={self.held} done={self.done}>"

    def begun(self, hold: Hold, state: State) -> None:
        """Its begin was told to the master, or was tried to."""
        self.hold, self._state = hold, state

    @property
    def held(self) -> bool:
        """Whether the master refuses fills now: false without a master, and once `at_most` is over."""
        return self.hold is not None and self._state is not None and self._state.holding(self.hold)

    @property
    def done(self) -> bool:
        """After the end: whether the master has all marks; else they are queued."""
        return bool(self.acks) and all(ack.done for ack in self.acks)
