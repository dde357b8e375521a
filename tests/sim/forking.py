"""A fork: the child's memory is a copy of the parent's, and both go on."""

from __future__ import annotations

import copy
import copyreg
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from evercache.engine.engine import Engine
from evercache.engine.flights import Alive, Owner
from evercache.process import THREADS
from evercache.protocol.landing import Landing
from tests.sim.threads import SimLock

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["inherit"]

#: Of the state: made anew for the child, or put there by the simulator.
_OWN = {"settings", "now", "rng", "_token", "lock", "change", "_readiness", "begin", "acknowledged", "hear_line"}
_OWN |= {"hear_former", "given_up"}
#: And reads under way, whose futures are the parent's, and where they go: `after_fork` of the library forgets them.
_OWN |= {"reading", "joining", "route", "turn"}
#: What the topologies learn: by sentinels; from a list of nodes; of one server.
_LEARNT = {"_book", "view", "_nodes", "_life", "_confirmed", "_master_seen", "_resolved_at"}
#: Copied as new ones: what a fork leaves behind is replaced by the library's own `after_fork`.
_NEW = {
    type(threading.Lock()): lambda _: (threading.Lock, ()),
    type(threading.RLock()): lambda _: (threading.RLock, ()),
    SimLock: lambda _: (THREADS.lock, ()),
    Landing: lambda _: (Landing, ()),
}


def _copied(thing: Any, frames: list[Owner]) -> Any:
    """Copy it. `frames` gets the owners of the calls under way: a fork copies their frames, which never go on or
    end."""

    def alive(theirs: Alive) -> tuple[Callable[[], Alive], tuple[()]]:
        owner = Owner()
        if theirs():
            frames.append(owner)
        return partial(Alive, owner), ()  # an argument would be copied

    with mock.patch.dict(copyreg.dispatch_table, {**_NEW, Alive: alive}):
        return copy.deepcopy(thing)


def inherit(child: Process, parent: Process) -> None:
    """Give a process that was just made all that another one knows, as a fork does."""
    mine, theirs = child.engine, parent.engine
    memory = {name: value for name, value in vars(theirs.state).items() if name not in _OWN}
    for name, value in _copied(memory, child.frames).items():
        setattr(mine.state, name, value)
    # Bound methods are not copied: in a real fork they lead to the child's own dicts.
    near = mine.state.near
    near.look, near.by_arguments = near._entries.get, near._by_arguments.get
    for client in (child.clients.asynchronous, child.clients.sync):
        client.hits.serving.attach(mine)
    _topology(child, mine, theirs)
    mine.monitor.table = _copied(theirs.monitor.table, child.frames)
    child.epoch = parent.epoch


def _topology(child: Process, mine: Engine, theirs: Engine) -> None:
    for name, value in vars(theirs.topology).items():
        if name in _LEARNT:
            setattr(mine.topology, name, _copied(value, child.frames))
    mine.deployment.view = theirs.view
    mine.replicas.keep([replica.address for replica in theirs.replicas.members])
