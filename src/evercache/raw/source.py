"""Where the raw clients find their servers: the view of one cache, which may be given after they were made."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from evercache.clock import monotonic
from evercache.errors import ConfigurationError, MasterUnknown, UnavailableError
from evercache.net.types import ConnectionOptions
from evercache.process import living, new_lock, reset_after_fork
from evercache.protocol.topology import ELECTION, LONGEST_WAIT
from evercache.protocol.types import Address
from evercache.raw.errors import ClientsClosed, NotAttached, NotSent
from evercache.raw.scans import Cursors
from evercache.raw.writes import Writes

if TYPE_CHECKING:
    from evercache.engine.engine import Engine
    from evercache.url import Location

__all__ = ["Linked", "RawOptions", "Source"]

#: For so long (seconds) a process that has just begun waits until its view is confirmed by the servers.
_CONFIRMING = 1.0
_ATTACH = (
    "these Redis clients have no cache yet: call `.attach(cache)` on the RawClients that they are from, "
    "before the first command"
)
_CLOSED = "the cache of these Redis clients was closed"


class Home(Protocol):
    """What a source needs of a cache."""

    location: Location

    def _raw_engine(self) -> Engine:
        """The engine, whether or not the cache is switched off; ConfigurationError when it is closed."""
        ...


class Linked(Protocol):
    """A connection that follows the view."""

    pid: int

    def recheck(self) -> None:
        """Break, from any thread, where it leads to a server that is the wrong one now."""
        ...

    def sever(self) -> None:
        """Break, from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class RawOptions:
    """How raw clients behave. Times are in seconds."""

    #: How long a command may wait for a server that takes it: through a failover. None: as the sentinels are set.
    wait: float | None = None
    read_your_writes: bool = False

    def __post_init__(self) -> None:
        if self.wait is not None and not self.wait >= 0:
            raise ConfigurationError(f"wait={self.wait!r}: give seconds, 0 for none")


class Source:
    """Follows one cache for any number of connections. Safe for threads.

    Guarded by: `_lock` for the set of connections; the rest is swapped as a whole.
    """

    def __init__(self, options: RawOptions, missing: Callable[[], str] | None = None) -> None:
        self.options = options
        self._missing = missing
        self._home: Home | None = None
        self._closed = False
        self._lock = new_lock()
        self._links: weakref.WeakSet[Linked] = weakref.WeakSet()
        #: The engine that is followed.
        self._engine: Engine | None = None
        #: In which process, since when, and whether its view has been confirmed since.
        self._begun = (0, 0.0)
        self._confirmed = False
        self.writes: Writes | None = None
        self.cursors = Cursors()
        #: Since when (monotonic) commands find no master, and when the newest found none.
        self._lost: tuple[float, float] | None = None
        reset_after_fork(self)

    def __repr__(self) -> str:
        state = (
            "closed" if self._closed else "not attached" if self._home is None else self._home.location.redacted()
        )
        return f"<Source {state}>"

    # -- life

    def change_wait(self, seconds: float | None) -> None:
        """Wait for so long from now on; None: as the sentinels are set."""
        self.options = replace(self.options, wait=seconds)

    @property
    def attached(self) -> bool:
        """Whether the cache is known."""
        return self._home is not None

    def follows(self, home: object) -> bool:
        """Whether it is this cache that is followed."""
        return self._home is home

    def attach(self, home: Home) -> None:
        """From now on, the servers of this cache. Connections to others are broken."""
        if home.location.kind == "memory":
            raise ConfigurationError(
                "memory:// has no server, so there are no Redis clients of it: give the cache the URL of one "
                "(redis://, sentinel://), for tests that of a local `evercache up`"
            )
        self._home, self._engine, self._closed = home, None, False
        self._break_all()

    def close(self) -> None:
        """Break every connection; a command from now on is an error."""
        self._closed = True
        self._break_all()

    def _break_all(self) -> None:
        for link in self.links():
            link.sever()

    def after_fork(self) -> None:
        """In the child: the connections are the parent's."""
        self._links = weakref.WeakSet()

    def add(self, link: Linked) -> None:
        """A connection is being made."""
        with self._lock:
            self._links.add(link)

    def links(self) -> list[Linked]:
        """Those that live, of this process."""
        with self._lock:
            links = living(self._links)
        pid = os.getpid()
        return [link for link in links if link.pid == pid]

    # -- the servers

    @property
    def location(self) -> Location:
        """Where the servers are; NotAttached."""
        if self._home is None:
            raise NotAttached(_ATTACH)
        return self._home.location

    def check(self) -> None:
        """Raise NotAttached or ClientsClosed where no command can be sent."""
        if self._home is None:
            why = _ATTACH if self._missing is None else self._missing()
            if self._home is None:
                raise NotAttached(why)
        if self._closed:
            raise ClientsClosed(_CLOSED)

    @property
    def unix(self) -> bool:
        """Whether they are reached by a unix socket."""
        nodes = self.location.nodes
        return bool(nodes) and nodes[0].path is not None

    def wait(self) -> float:
        """How long (seconds) a command waits for a server that takes it."""
        if self.options.wait is not None:
            return self.options.wait
        needed = self._failover_takes()
        return ELECTION if needed is None else min(needed, LONGEST_WAIT)

    def until(self, began: float, *, writes: bool = True) -> float:
        """Until when (monotonic) a command waits that found no server at a moment.

        By default that counts from the loss of the master: long after it, waiting is less likely to help, and would
        only keep every thread of a site busy.
        """
        if self.options.wait is not None:
            return began + self.options.wait
        since, newest = self._lost or (began, began)
        if began - newest > LONGEST_WAIT:
            since = began  # nobody missed it in between
        if writes:  # a replica that is missed says nothing of the master
            self._lost = since, max(newest, began)
        return max(began + ELECTION, since + self.wait())

    def reached(self) -> None:
        """The master was reached."""
        self._lost = None

    def _failover_takes(self) -> float | None:
        """Seconds from the death of a master to the promotion of the next; None where nobody promotes."""
        down_after = None if self._engine is None else self._engine.topology.down_after()
        return None if down_after is None else down_after + ELECTION

    def replaces_master(self) -> bool:
        """Whether the master answers nobody, and another one is to be expected."""
        engine = self._engine
        return engine is not None and engine.state.master_down and engine.topology.down_after() is not None

    def waited(self, seconds: float) -> str:
        """What to say where a command waited in vain."""
        said = f"waited {seconds:.1f} s for a server that takes the command"
        needed = self._failover_takes()
        if needed is None or self.wait() >= needed:
            return said
        silence = (needed - ELECTION) * 1000
        advice = "lower that to 5000" if self.options.wait is None else f"give wait={needed:g} or more"
        return f"{said}; a promotion takes down-after-milliseconds {silence:g} and an election: {advice}"

    @property
    def node_options(self) -> ConnectionOptions:
        """How to talk to them."""
        return self.location.node_options

    def engine(self) -> Engine:
        """The engine with its background running; NotAttached, ClientsClosed, NotSent."""
        if self._closed:
            raise ClientsClosed(_CLOSED)
        engine = self._engine
        if engine is None or engine.closed:
            if self._home is None:
                raise NotAttached(_ATTACH)
            try:
                engine = self._home._raw_engine()
            except ConfigurationError as error:
                raise ClientsClosed(str(error)) from error
            self._follow(engine)
        pid = os.getpid()
        if self._begun[0] != pid:
            self._begun, self._confirmed = (pid, monotonic()), False
        if not engine.start():
            raise NotSent(engine.trouble or "the background of the cache does not run, so no master is known")
        return engine

    def _follow(self, engine: Engine) -> None:
        if self.options.read_your_writes:
            self.writes = Writes(engine.settings.lag_bound)
        engine.deployment.followers.add(self)
        self._begun = (0, 0.0)
        self._engine = engine

    def changed(self) -> None:
        """The view changed: every connection to a server that is the wrong one now is broken."""
        for link in self.links():
            link.recheck()

    def flushed(self) -> None:
        """The servers were emptied through one of these clients: the cache learns everything anew at once."""
        if self._engine is not None and not self._closed:
            self._engine.flushed()

    def view_master(self) -> Address | None:
        """The master of the view; None when closed."""
        return None if self._engine is None or self._closed else self._engine.view.master

    def is_master(self, address: Address) -> bool:
        """Whether a server is the master of the view, and answers as far as is known."""
        return address == self.view_master() and self._engine is not None and not self._engine.state.master_down

    def in_view(self, address: Address) -> bool:
        """Whether a server belongs to the view; False when closed."""
        if self._engine is None or self._closed:
            return False
        view = self._engine.view
        return address == view.master or address in view.replicas

    def fresh_engine(self) -> Engine:
        """The engine, once its view is confirmed in this process; NotSent until then.

        What a fork inherits may be old, and a master that was named long ago may be a replica by now.
        """
        engine = self.engine()
        if not self._confirmed:
            began = self._begun[1]
            self._confirmed = engine.topology.confirmed_since() >= began
            if not self._confirmed and monotonic() - began < _CONFIRMING:
                raise NotSent(f"the servers of {self.location.redacted()} are being asked who is master")
        return engine

    def master(self) -> Address:
        """The master now; NotSent when none is known."""
        engine = self.fresh_engine()
        master = engine.view.master
        if master is None:
            problem = engine.view.problem or MasterUnknown("no master is known")
            raise NotSent(str(problem))
        return master

    def fit_replicas(self, need: float) -> list[Address]:
        """Those that may be read now and have caught up with a moment (rule 7).

        While no master can be asked, however old they are: those that answer, the least outdated.
        """
        engine = self.fresh_engine()
        state, now = engine.state, engine.state.now()
        bound, unlinked = engine.settings.lag_bound, state.master_down
        members = engine.replicas.members
        fit = [
            r.address for r in members if r.admits(need, now, bound, unlinked=unlinked) and not r.standing.loading
        ]
        if fit or not (unlinked or engine.view.master is None):
            return fit
        left = [replica for replica in members if replica.answers and replica.standing.caught >= need]
        newest = max((replica.standing.caught for replica in left), default=0.0)
        return [replica.address for replica in left if replica.standing.caught >= newest - bound]

    def readable(self, need: float) -> list[Address]:
        """The same, or the master where there is none; empty while nothing is known."""
        try:
            return self.fit_replicas(need) or [self.master()]
        except ClientsClosed:
            raise
        except NotSent:
            return []

    def run_id(self, address: Address) -> str:
        """Of the process that was verified at the address of a replica."""
        replica = None if self._engine is None else self._engine.replicas.get(address)
        return "" if replica is None else replica.run_id

    def failed(self, address: Address | None, error: Exception) -> None:
        """A server did not answer: a replica gets no reads until it was probed; for a master, ask who it is."""
        engine = self._engine
        if engine is None or self._closed:
            return
        replica = None if address is None else engine.replicas.get(address)
        if replica is None:
            engine.topology.nudge()
        else:
            replica.fail(engine.state.now(), UnavailableError(str(error)))
