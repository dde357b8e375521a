"""The replicas that reads may go to, as the hot path sees them: no lock, one immutable tuple."""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from evercache.errors import UnavailableError
from evercache.net.types import AsyncEndpoint, Expectation, Greeting, SyncEndpoint
from evercache.process import new_lock
from evercache.protocol.balance import NOISE, Balancer, LatencyScore
from evercache.protocol.breaker import Breaker
from evercache.protocol.caught import NEVER, Standing
from evercache.protocol.types import Address

__all__ = ["Fit", "Replica", "ReplicaSet"]

#: Turns of each replica before their order repeats. A prime number, so that no page reads the same things at the
#: same places each time.
TURNS = 61


def leads_to(run_id: str) -> Expectation:
    """Of connections to that process only."""

    def expected(greeting: Greeting) -> bool:
        return greeting.run_id == run_id

    return expected


class Replica:
    """One replica: its standing, its latency score and its breaker. `_lock` guards the breaker's transitions.

    `standing` is written by the monitor only and immutable. The endpoints are attached by whoever reads.
    """

    __slots__ = (
        "_breaker",
        "_changed",
        "_failed",
        "_lock",
        "_standing",
        "address",
        "endpoint_async",
        "endpoint_sync",
        "expected",
        "score",
    )

    role = "replica"

    def __init__(
        self,
        address: Address,
        failed: Callable[[], None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self._changed = changed
        self._standing = Standing(address)
        #: Whether a connection leads to the process that was verified (rule 7).
        self.expected: Expectation = leads_to("")
        self.score = LatencyScore()
        self.endpoint_sync: SyncEndpoint | None = None
        self.endpoint_async: AsyncEndpoint | None = None
        self._breaker = Breaker()
        self._lock = new_lock()
        self._failed = failed

    def __repr__(self) -> str:
        return (
            f"<Replica {self.address} caught={self.standing.caught:.3f} {self._breaker.state.name} "
            f"{self.score.value * 1e3:.3f} ms outstanding={self.outstanding}>"
        )

    @property
    def standing(self) -> Standing:
        """How far it has got, as the monitor knows it."""
        return self._standing

    @standing.setter
    def standing(self, standing: Standing) -> None:
        if standing.run_id != self._standing.run_id:
            self.expected = leads_to(standing.run_id)  # first: who sees the new standing must expect that process
        self._standing = standing
        self._changed()

    @property
    def outstanding(self) -> int:
        """Requests under way there."""
        count = 0 if self.endpoint_sync is None else self.endpoint_sync.outstanding
        return count if self.endpoint_async is None else count + self.endpoint_async.outstanding

    @property
    def run_id(self) -> str:
        """The process that was verified: a connection to any other must not be used."""
        return self.standing.run_id

    @property
    def open(self) -> bool:
        """Whether the breaker keeps reads away."""
        return not self._breaker.closed

    @property
    def state(self) -> str:
        """Of the breaker: "closed", "open" or "half-open"."""
        return self._breaker.state.name

    def admits(self, tau: float, now: float, lag_bound: float, *, unlinked: bool = False) -> bool:
        """Rule 7: whether a read may go there now; `unlinked`, also without a link to a master."""
        standing = self.standing
        fit = standing.caught >= tau and now - standing.caught <= lag_bound
        return fit and self._breaker.closed and (unlinked or standing.link_up)

    @property
    def answers(self) -> bool:
        """Whether it has data and answers: enough for a read that no freshness is promised for."""
        standing = self.standing
        # A replica that never copied anything reports offset 1 or less.
        return self._breaker.closed and bool(standing.role) and not standing.loading and standing.offset > 1

    def record(self, latency: float, now: float) -> None:
        """A read was answered in so many seconds, at a moment."""
        score = self.score
        quick = score.value < NOISE
        score.record(latency, now)
        if (score.value < NOISE) is not quick:  # whether replicas take turns depends on it
            self._changed()

    def fail(self, now: float, error: UnavailableError | None = None) -> None:
        """A read timed out or its connection failed: no more reads until the monitor has probed it."""
        with self._lock:
            was_closed = self._breaker.closed
            self._breaker.fail(now)
        self._changed()
        if was_closed:
            self._failed()

    # -- for the monitor

    def probe(self, now: float) -> bool:
        """Whether the monitor may ask it now."""
        with self._lock:
            return self._breaker.probe(now)

    def probed(self, sent: float, now: float, answered: bool) -> None:
        """The outcome of the monitor's question that was sent at `sent`."""
        with self._lock:
            if answered:
                self._breaker.succeed(sent, now)
            else:
                self._breaker.probe_failed(now)
        self._changed()


class Fit(Struct, frozen=True):
    """Those that reads may go to, found for one question; good until a moment, and until anything changes."""

    members: tuple[Replica, ...] = ()
    version: int = -1
    tau: float = 0.0
    lag_bound: float = 0.0
    unlinked: bool = False
    until: float = -inf


class ReplicaSet:
    """All replicas of the view.

    Guarded by: `members` and `_fit` are swapped as a whole; readers need no lock. `_version` is raised after each
    change; two raised at once may count as one, and both come before any look that sees it.
    """

    def __init__(
        self,
        random: Callable[[], float] = _random.random,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.members: tuple[Replica, ...] = ()
        self._version = 0
        self._fit = Fit()
        self._balancer = Balancer(random)
        self._random = random
        self._turns: tuple[tuple[Replica, ...], Iterator[Replica]] = ((), iter(()))
        #: Called from any thread when a replica's breaker opens.
        self.on_failure = failed
        #: Called from any thread after each change of what reads may go to, or of how they are shared out.
        self.on_change: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<ReplicaSet {' '.join(map(repr, self.members))}>"

    def choose(
        self,
        tau: float,
        now: float,
        lag_bound: float,
        exclude: Address | None = None,
        *,
        unlinked: bool = False,
    ) -> Replica | None:
        """A replica that has caught up with `tau` and lags by at most `lag_bound` s; None: ask the master.

        `unlinked` takes those without a link too: while the master is dead, no replica has one. `exclude` is the
        one that was tried before in this call. The caller says `record` or `fail`, and uses only a connection to
        `run_id`.
        """
        members = self.fit(tau, now, lag_bound, unlinked=unlinked).members
        if exclude is not None:
            members = tuple([replica for replica in members if replica.address != exclude])
        return self._balancer.choose(members, now) if members else None

    def fit(self, tau: float, now: float, lag_bound: float, *, unlinked: bool = False) -> Fit:
        """All that `choose` chooses from."""
        fit = self._fit
        if (
            now > fit.until
            or fit.version != self._version
            or fit.tau != tau
            or fit.unlinked is not unlinked
            or fit.lag_bound != lag_bound
        ):
            fit = self._fit = self._find(tau, now, lag_bound, unlinked)
        return fit

    def weigh(self, members: tuple[Replica, ...], now: float) -> Replica:
        """The better one of two at random (at least one)."""
        return self._balancer.choose(members, now)

    def turns(self, members: tuple[Replica, ...]) -> Iterator[Replica] | None:
        """Replicas that answer equally quickly, in turns without end: what `weigh` would choose as long as none of
        them has a queue, but drawn beforehand. None where they are not alike."""
        if any(replica.score.value >= NOISE for replica in members):
            return None
        known, turns = self._turns
        if known != members:
            drawn = list(members * TURNS)
            for last in range(len(drawn) - 1, 0, -1):
                other = int(self._random() * (last + 1))
                drawn[last], drawn[other] = drawn[other], drawn[last]
            turns = cycle(drawn)
            self._turns = members, turns
        return turns

    def _find(self, tau: float, now: float, lag_bound: float, unlinked: bool) -> Fit:
        version = self._version
        fit = [replica for replica in self.members if replica.admits(tau, now, lag_bound, unlinked=unlinked)]
        if tau == NEVER:  # those that were never verified pass the comparison: not the empty ones
            fit = [r for r in fit if r.standing.run_id and not r.standing.loading]
        until = min((replica.standing.caught for replica in fit), default=inf) + lag_bound
        return Fit(tuple(fit), version, tau, lag_bound, unlinked, until)

    def _change(self) -> None:
        self._version += 1
        self.on_change()

    def get(self, address: Address) -> Replica | None:
        """The member at an address."""
        return next((r for r in self.members if r.address == address), None)

    def admitted(self, tau: float, now: float, lag_bound: float = inf) -> tuple[Replica, ...]:
        """All that would be chosen from."""
        return tuple(r for r in self.members if r.admits(tau, now, lag_bound))

    def keep(self, addresses: Iterable[Address]) -> None:
        """Make these the members: new ones start unverified, those that stay keep their scores."""
        old = {r.address: r for r in self.members}
        self.members = tuple(old.get(a) or self._make(a) for a in addresses)
        self._change()

    def unverify(self) -> None:
        """Another master: no replica serves before it is verified against that one."""
        for replica in self.members:
            replica.standing = replace(replica.standing, caught=NEVER)

    def after_fork(self) -> None:
        """In the child: the parent's reads under way, and the locks that its threads held, are not here."""
        self.members = tuple(self._make(r.address) for r in self.members)
        self._change()

    def _make(self, address: Address) -> Replica:
        return Replica(address, self._member_failed, self._change)

    def _member_failed(self) -> None:
        self.on_failure()
