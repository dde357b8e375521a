"""A planned failover that loses no write: the master hands over, instead of going on while another is promoted.

A plain `SENTINEL FAILOVER` promotes a replica while the old master takes writes for up to ten more seconds, which
are lost. Two ways avoid that. Valkey 9 has `SENTINEL FAILOVER name COORDINATED`: the master itself lets writes
wait, and hands over once the replica has everything. On other servers, `CLIENT PAUSE … WRITE` lets writes wait at
the master until its replicas have caught up and one of them is promoted; then the old master is made its replica,
so that what waited is refused there (`READONLY`) instead of being acknowledged and lost.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from evercache.clock import monotonic
from evercache.errors import (
    DeploymentError,
    EvercacheError,
    FailoverRefused,
    NotWhole,
    ServerError,
    UnavailableError,
)
from evercache.net.blocking import BlockingWire
from evercache.ops.handover import Facts, obstacles
from evercache.ops.replies import text
from evercache.ops.survey import Targets, ask, survey
from evercache.protocol.types import Address
from evercache.topology.facts import parse_replication

__all__ = ["Failover", "HandedOver", "harmless"]

Say = Callable[[str], None]
Tell = Callable[..., None]

#: Writes wait at most so long (seconds); a promotion takes one to three.
_PAUSE = 10.0
#: For so long the replicas may take to get what the master had when its writes began to wait.
_CATCH_UP = 2.0
_POLL = 0.01
#: Until the sentinels agree and the old master follows the new one.
_WHOLE = 45.0
_COORDINATED, _PAUSED = "coordinated by the servers", "writes paused at the master"


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What a planned failover was like. Times are in seconds."""

    old: Address
    new: Address
    way: str
    #: From the moment at which writes had to wait to that at which the new master took them.
    stood_still: float
    #: From the beginning until every sentinel named the new master and every node followed it.
    whole_after: float


class Failover:
    """One planned failover, to be checked and then done. Used by one thread."""

    def __init__(self, targets: Targets, say: Say = lambda text: None) -> None:
        self._targets = targets
        self._say = harmless(say)
        self._service = targets.service or ""
        self._facts = Facts()
        #: When the pause of the writes is over at the earliest, and whether it may be ended before.
        self._until = 0.0
        self._let_go = True

    def __repr__(self) -> str:
        return f"<Failover of {self._service!r} from {self._facts.master}>"

    def check(self) -> Facts:
        """Look at everybody; raises FailoverRefused with every reason why it would do harm or could not work."""
        if not self._targets.sentinels:
            raise FailoverRefused(
                "these servers have no Sentinel, so there is nobody to promote a replica: give a sentinel:// URL"
            )
        self._facts = facts = Facts.gather(self._targets, survey(self._targets))
        found = obstacles(facts)
        if found:
            raise FailoverRefused("no failover now, nothing was changed:\n" + "\n".join(f"  - {o}" for o in found))
        return facts

    def run(self) -> HandedOver:
        """Check, hand over, and wait until it is whole again; FailoverRefused, NotWhole, DeploymentError."""
        facts = self.check()
        began = monotonic()
        done = self._coordinated(facts) or self._paused(facts)
        new, way, since, until = done
        self._say("waiting until every sentinel names it, and every node follows it")
        assert facts.master is not None
        self._wait_whole(facts, new)
        return HandedOver(facts.master, new, way, until - since, monotonic() - began)

    # -- the two ways

    def _coordinated(self, facts: Facts) -> tuple[Address, str, float, float] | None:
        """None where the servers do not know how."""
        master = facts.master
        assert master is not None
        try:
            self._order("COORDINATED")
        except ServerError as error:
            if _refused(error):
                raise FailoverRefused(f"the sentinels refuse: {error}; nothing was changed") from error
            return None
        self._say(f"{master} hands over")
        since, end = monotonic(), monotonic() + _PAUSE
        waiting = False
        while monotonic() < end:
            new = self._promoted(facts)
            if new is not None:
                until = monotonic()
                self._say_done(new, since, until)
                return new, _COORDINATED, since, until
            if not waiting:
                waiting = self._hands_over(master)
                since = monotonic()
            time.sleep(_POLL)
        raise DeploymentError(
            f"the sentinels accepted the failover, but {master} has not handed over within {_PAUSE:.0f} s. "
            "It gives that up by itself; see `evercache status`, and the log of the sentinel"
        )

    def _hands_over(self, master: Address) -> bool:
        with contextlib.suppress(UnavailableError):
            (info,) = ask(master, self._targets.node_options, ("INFO", "replication"), timeout=0.3)
            return "master_failover_state:no-failover" not in text(info)
        return False

    def _paused(self, facts: Facts) -> tuple[Address, str, float, float]:
        master = facts.master
        assert master is not None
        with _undisturbed(self._say), self._pause(master) as tell:
            since = monotonic()
            self._say(f"writes wait at {master}")
            behind = self._behind(facts)
            if not self._begun(facts):
                self._order_in_time(master, behind)
            self._say("the replicas have everything; a sentinel promotes one of them")
            while True:
                new = self._promoted(facts)
                if new is not None:
                    until = monotonic()
                    self._demote(master, new, tell)
                    self._say_done(new, since, until)
                    return new, _PAUSED, since, until
                if monotonic() > self._until - 1:
                    break
                time.sleep(_POLL)
        raise DeploymentError(
            f"no replica was promoted within {_PAUSE - 1:.0f} s, so {master} takes writes again. If a sentinel "
            "still promotes one, what is acknowledged until then is lost. See the log of the sentinels, and "
            "`evercache status`"
        )

    def _order_in_time(self, master: Address, behind: Address | None) -> None:
        """Have a replica promoted; FailoverRefused where writes could be lost."""
        if behind is not None:
            raise FailoverRefused(
                f"{behind} did not catch up with the master in time, and might have been promoted; nothing was "
                "changed. Look at its link and its load"
            )
        if monotonic() > self._until - _PAUSE / 2:
            raise FailoverRefused(
                f"it took so long to let writes wait at {master} that they might go on before a replica is "
                "promoted; nothing was changed. Try again"
            )
        try:
            self._order()
        except ServerError as error:
            # In progress: somebody else's order came first. The writes have to wait for that one as well.
            if error.code != "INPROG":
                raise FailoverRefused(f"the sentinels refuse: {error}; nothing was changed") from error
        except UnavailableError as error:
            if not error.maybe_run:
                raise FailoverRefused(f"no sentinel could be notified: {error}; nothing was changed") from error
            self._say(f"{error}; it may have begun all the same")

    def _begun(self, facts: Facts) -> bool:
        """Whether the sentinels replace the master by themselves.

        They do when its writes wait for long: their greetings are writes, and so their questions wait as well.
        """
        if monotonic() < self._until - _PAUSE + facts.down_after / 2:
            return False
        if self._promoted(facts) is not None:
            return True
        seen = survey(self._targets)
        return not seen.settled or any("o_down" in one.flags for one in seen.sentinels)

    def _demote(self, master: Address, new: Address, tell: Tell) -> None:
        """Before its writes go on: what waited there is refused, not acknowledged and lost."""
        self._let_go = False
        try:
            tell("REPLICAOF", new.host, new.port)
        except UnavailableError as error:
            raise DeploymentError(
                f"{new} is the master, but {master} could not be made its replica ({error}): what it acknowledges "
                "from the end of the pause until a sentinel does that may be lost"
            ) from error
        self._let_go = True
        late = monotonic() - self._until
        if late > 0:
            raise DeploymentError(
                f"{new} is the master, but the pause of the writes at {master} may have been over for {late:.1f} s "
                "before it was made its replica: what it acknowledged then may be lost"
            )

    @contextlib.contextmanager
    def _pause(self, master: Address) -> Iterator[Tell]:
        """Writes wait there, at the longest for `_PAUSE`, also when this process is killed."""
        # One connection all the time: callers that wait open more and more, until the master takes no other.
        endpoint = BlockingWire().endpoint(master, self._targets.node_options)

        def tell(*command: Any) -> None:
            (reply,) = endpoint.execute((command,), monotonic() + 2.0)
            if isinstance(reply, ServerError):
                raise reply

        try:
            self._may_demote(master, tell)
            self._begin_pause(master, tell)
            try:
                yield tell
            finally:
                self._end_pause(master, tell)
        finally:
            endpoint.disconnect()

    def _begin_pause(self, master: Address, tell: Tell) -> None:
        self._let_go, self._until = True, monotonic() + _PAUSE
        try:
            tell("CLIENT", "PAUSE", int(_PAUSE * 1000), "WRITE")
        except ServerError as error:
            raise FailoverRefused(
                f"{master} refuses to let writes wait ({error}); nothing was changed. "
                "It takes Redis 6.2 or Valkey, and a user that may run CLIENT PAUSE"
            ) from error
        except UnavailableError as error:
            raise DeploymentError(
                f"{error}. If {master} got the order, writes wait there for {_PAUSE:.0f} s at most; nothing else "
                "was changed"
            ) from error

    def _end_pause(self, master: Address, tell: Tell) -> None:
        try:
            if self._let_go:
                tell("CLIENT", "UNPAUSE")
        except UnavailableError as error:
            self._say(f"{error}: writes wait at {master} until {_PAUSE:.0f} s after their pause began")

    def _may_demote(self, master: Address, tell: Tell) -> None:
        """FailoverRefused where it does not take the order that ends the pause: asked with a port that is none."""
        try:
            tell("REPLICAOF", master.host, "none")
        except ServerError as error:
            if error.code == "NOPERM" or "unknown command" in str(error):
                raise FailoverRefused(
                    f"{master} would not follow the new master ({error}); nothing was changed. "
                    "It takes a user that may run REPLICAOF there"
                ) from error

    def _behind(self, facts: Facts) -> Address | None:
        """The replica that lacks something, after a while, of what was written before writes began to wait."""
        master = facts.master
        assert master is not None
        wanted = self._offset(master)
        end = monotonic() + min(_CATCH_UP, facts.down_after / 2)
        for replica in facts.candidates:
            while not self._has(replica, wanted):
                if monotonic() > end:
                    return replica
                time.sleep(_POLL)
        return None

    def _has(self, replica: Address, wanted: int) -> bool:
        with contextlib.suppress(UnavailableError):  # it may only be slow
            return self._offset(replica) >= wanted
        return False

    def _say_done(self, new: Address, since: float, until: float) -> None:
        self._say(f"{new} is the master; writes stood still for {until - since:.2f} s")

    # -- asking and telling

    def _offset(self, address: Address) -> int:
        (info,) = ask(address, self._targets.node_options, ("INFO", "replication"))
        return parse_replication(info).offset

    def _order(self, *arguments: str) -> None:
        """Tell the sentinel that was asked before; ServerError when it refuses."""
        assert self._facts.sentinel is not None
        command = ("SENTINEL", "FAILOVER", self._service, *arguments)
        ask(self._facts.sentinel, self._targets.sentinel_options, command, timeout=2.0)

    def _promoted(self, facts: Facts) -> Address | None:
        for replica in facts.candidates:
            with contextlib.suppress(UnavailableError):
                # Not ROLE, which its user may lack: nobody would see the promotion.
                (info,) = ask(replica, self._targets.node_options, ("INFO", "replication"), timeout=0.3)
                if "role:master" in text(info).split():
                    return replica
        return None

    def _wait_whole(self, facts: Facts, new: Address) -> None:
        """Until it is as whole as before: what was down then may be so still."""
        assert facts.seen is not None
        used = {node.address for node in facts.seen.nodes if node.use != "nothing"}
        end = monotonic() + _WHOLE
        while True:
            seen = survey(self._targets)
            idle = [node for node in seen.nodes if node.address in used and node.use == "nothing"]
            if seen.master == new and seen.settled and not idle:
                return
            if monotonic() > end:
                raise NotWhole(
                    f"{new} is the master, but after {_WHOLE:.0f} s not all is whole: {'; '.join(seen.problems)}"
                )
            time.sleep(0.25)


def harmless(say: Say) -> Say:
    """A message that cannot be written (the terminal is closed, a pipe is broken) ends nothing half-way."""

    def tell(text: str) -> None:
        with contextlib.suppress(Exception, SystemExit):  # rich ends the process when its pipe breaks
            say(text)

    return tell


@contextlib.contextmanager
def _undisturbed(say: Say) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal wait until the end: to go away between the pause and the promotion is
    what loses writes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        say("interrupted: the failover is brought to its end first")

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    except EvercacheError as error:
        if came:  # else nobody would hear of it
            say(str(error))
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _refused(error: ServerError) -> bool:
    """Whether a sentinel knows the order, and will not do it now."""
    return error.code in ("INPROG", "NOGOODSLAVE", "NOPERM") or "No such master" in str(error)
