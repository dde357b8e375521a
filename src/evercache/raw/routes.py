"""Which server a connection leads to: the master, or one of the replicas that may be read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from evercache.protocol.types import Address
from evercache.raw.source import Source

__all__ = ["Aim", "MasterRoute", "ReplicaRoute", "Route", "aim", "aiming", "waive"]


@dataclass(frozen=True, slots=True)
class Aim:
    """Which replicas may answer the command under way."""

    #: The moment with which they must have caught up.
    need: float = -inf
    #: It is a page of a scan: all pages come from one server.
    scan: bool = False
    #: The server that gave the cursor of the page.
    server: Address | None = None


_ANY = Aim()
_aim: ContextVar[Aim] = ContextVar("evercache_raw_aim", default=_ANY)


@contextmanager
def aiming(aim: Aim) -> Iterator[None]:
    """Within it, in this thread or task, only such replicas are read."""
    token = _aim.set(aim)
    try:
        yield
    finally:
        _aim.reset(token)


def aim() -> Aim:
    """See `aiming`."""
    return _aim.get()


def waive() -> bool:
    """Read replicas that have not caught up as well, until the command is over; False where none is needed."""
    aim = _aim.get()
    if aim.need == -inf:
        return False
    _aim.set(replace(aim, need=-inf))  # `aiming` puts back what was before it
    return True


class Route(Protocol):
    """Chooses the server whenever a connection is made, and says when that has become the wrong one."""

    source: Source
    #: Whether commands go there that change something.
    writes: bool
    #: Of INFO: what `accepts` looks at.
    section: str

    def pick(self) -> Address:
        """The server to connect to now; NotSent when there is none."""
        ...

    def left(self, address: Address) -> bool:
        """Whether not one more command may be sent there."""
        ...

    def accepts(self, address: Address, facts: Mapping[str, str]) -> bool:
        """Whether the process there is the one that is meant, by its answer to INFO."""
        ...


class MasterRoute:
    """To the master of the view. Immutable."""

    writes = True
    section = "replication"

    def __init__(self, source: Source) -> None:
        self.source = source

    def __repr__(self) -> str:
        return "<MasterRoute>"

    def __deepcopy__(self, memo: object) -> MasterRoute:
        return self

    def pick(self) -> Address:
        """See `Route`."""
        return self.source.master()

    def left(self, address: Address) -> bool:
        """See `Route`."""
        return self.source.view_master() != address

    def accepts(self, address: Address, facts: Mapping[str, str]) -> bool:
        """A former master that came back as a replica, and is still named as the master, is not one."""
        return facts.get("role") == "master"


class ReplicaRoute:
    """To one replica while it may be read, else to another one, else to the master. Immutable."""

    writes = False
    section = "server"

    def __init__(self, source: Source, preferred: Address | None = None) -> None:
        self.source = source
        self.preferred = preferred

    def __repr__(self) -> str:
        return f"<ReplicaRoute {self.preferred}>"

    def __deepcopy__(self, memo: object) -> ReplicaRoute:
        return self

    def pick(self) -> Address:
        """See `Route`."""
        wanted = aim()
        fit = self.source.fit_replicas(wanted.need)
        preferred = self.preferred
        if preferred in fit or (
            preferred is not None and self.source.is_master(preferred) and preferred == wanted.server
        ):
            return preferred
        return random.choice(fit) if fit else self.source.master()

    def left(self, address: Address) -> bool:
        """See `Route`."""
        return not self.source.in_view(address)

    def accepts(self, address: Address, facts: Mapping[str, str]) -> bool:
        """A replica that was restarted since it was verified may have lost what it had."""
        verified = self.source.run_id(address)  # empty for the master
        return not verified or facts.get("run_id") == verified
