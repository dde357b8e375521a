"""What a connection of either kind keeps in mind: where it leads, and what is under way on it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from redis.exceptions import AuthenticationError, BusyLoadingError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from evercache.clock import monotonic
from evercache.protocol.shapes import to_fields
from evercache.protocol.types import Address
from evercache.raw.commands import CURSORS, KeyTable, blocks, only_reads, words
from evercache.raw.errors import ClientsClosed, NotAttached, NotSent, Stale
from evercache.raw.routes import Route, waive
from evercache.raw.scans import Life, Scan

__all__ = ["BROKEN", "ERRORS", "Guard", "Patience", "connection_options", "not_meant"]

#: How redis-py says that a connection failed.
BROKEN = (RedisConnectionError, RedisTimeoutError)
#: All that reading an answer raises.
ERRORS = (ResponseError, *BROKEN)
#: Error replies after which the command has certainly not run, and another server may take it.
_ELSEWHERE = ("UNBLOCKED", "MASTERDOWN", "LOADING")
#: After these the entries of the cache are gone, perhaps its bookkeeping too: it need not find that out.
_FLUSHES = frozenset({"FLUSHALL", "FLUSHDB", "SWAPDB"})
#: Whoever tries again sooner (seconds) than this after having waited in vain, a retry above all, waits no more.
_AGAIN = 1.0
#: After so many seconds a subscription tries less often to reach a master.
_SOON = 30.0


class Guard:
    """Guarded by: used by whoever has the connection; `address` and `route` are read by the view's thread too."""

    def __init__(self, route: Route) -> None:
        self.route = route
        #: Where the connection leads, or is about to.
        self.address: Address | None = None
        #: It belongs to a PubSub: what comes is no answer, and nothing is lost when it is read anew.
        self.subscriber = False
        self.greeting = False
        #: What the next packed command consists of.
        self.packed: Sequence[tuple[Any, ...]] = ()
        #: A pipeline without MULTI: a part of it may have run when another part failed.
        self.batch = False
        #: An earlier try of the command under way may have run.
        self.doubt = False
        #: The server said that it is a replica.
        self.suspect = False
        #: For a pool that spreads: for which server, and by which pool of its own, it was lent.
        self.lent: tuple[Address | None, Any] = (None, None)
        #: The process that was greeted.
        self.life: Life | None = None
        #: The page of a scan that is under way, of a single command.
        self.page: Scan | None = None
        #: When (monotonic) it last gave up to reach a server.
        self.gave_up = -inf
        #: Until when (monotonic) a subscription tries to reach a master; None: as long as a command does.
        self.until: float | None = None
        #: What is under way changes nothing, so it may run twice.
        self.reads = True
        self._unanswered = 0
        self._allowance = 0.0
        self._wrote: set[bytes] | None = set()
        self._flushes = False

    def __repr__(self) -> str:
        return f"<Guard {self.address} unanswered={self._unanswered}>"

    def stale(self) -> bool:
        """Whether not one more command may be sent on the connection."""
        return not self.greeting and (self.suspect or self.address is None or self.route.left(self.address))

    def sending(self) -> None:
        """What was packed is about to be sent."""
        commands, self.packed = self.packed, ()
        if self.greeting or self.subscriber or not commands:
            return
        first = words(commands[0])
        self.batch = len(commands) > 1 and first[0] != "MULTI"
        if self.batch or len(commands) == 1:
            self._allowance += sum(blocks(words(command)) for command in commands)
        self._unanswered += len(commands)
        # A scan that went on at another server would begin anew there.
        self.reads = self.reads and (self.page is not None or all(only_reads(words(c)) for c in commands))
        self._flushes = self._flushes or any(words(command)[0] in _FLUSHES for command in commands)
        writes = self.route.source.writes
        if writes is not None and self.route.writes and self._wrote is not None:
            keys = writes.keys_of(commands)
            self._wrote = None if keys is None else self._wrote | keys

    def paged(self, page: Scan, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The command for a page, on a connection that lives: a scan that another server began is begun anew."""
        if page.begins or self.life is None:
            return arguments
        if not self.route.source.cursors.begins_anew(page, self.life):
            return arguments
        place = CURSORS[page.name]
        return (*arguments[:place], 0, *arguments[place + 1 :])

    def turned(self, response: Any) -> None:
        """A page of a scan was answered."""
        page, self.page = self.page, None
        if (
            page is not None
            and self.life is not None
            and isinstance(response, (list, tuple))
            and len(response) == 2
        ):
            self.route.source.cursors.gave(page, response[0], self.life)

    @property
    def unanswered(self) -> bool:
        """Whether answers have still to come, so that the next command would get them."""
        return self._unanswered > 0

    def answered(self) -> None:
        """One answer came."""
        if self._unanswered > 0:
            self._unanswered -= 1
            if self._unanswered == 0:
                self._over()

    def _over(self) -> None:
        self._allowance = 0.0
        self._unanswered = 0
        self.reads = True
        if self._flushes:
            self._flushes = False
            self.route.source.flushed()
        if self._wrote is None or self._wrote:
            writes, keys = self.route.source.writes, self._wrote
            self._wrote = set()
            if writes is not None:
                writes.wrote(None if keys is None else frozenset(keys), monotonic())

    def broken(self) -> None:
        """The connection is closed; what was not answered may have run."""
        self._over()
        self.suspect = self.batch = False
        self.address = None

    def time_out(self, usual: float | None) -> float | None:
        """For how long to wait for the next answer (None: for ever)."""
        if usual is None or self.subscriber or self._allowance == inf:
            return None
        return usual + self._allowance

    def stale_error(self, message: str) -> RedisConnectionError:
        """What to raise where this try of a command did not run: `Stale`, unless an earlier one may have."""
        return RedisConnectionError(message) if self.doubt else Stale(message)

    def verdict(self, error: Exception, address: Address | None, reads: bool) -> Exception:
        """What to raise for an error in reading an answer: `Stale` where the client's retry may begin anew.

        `address`: where the connection led when the answer was waited for; `reads`: it only read.
        """
        source = self.route.source
        if isinstance(error, BusyLoadingError) or not isinstance(error, BROKEN):
            self.answered()
            if isinstance(error, ReadOnlyError):
                if not self.route.writes:
                    return error
            elif not str(error).startswith(_ELSEWHERE) and not isinstance(error, BusyLoadingError):
                return error
            source.failed(address, error)
            if self.batch:
                self.suspect = True
                return error
            return self.stale_error(f"{address} did not run the command: {error}")
        # A server that is only slow would be given the same work again and again.
        slow = isinstance(error, RedisTimeoutError) and not source.replaces_master()
        if reads and self.route.writes and not slow:
            source.failed(address, error)
            return self.stale_error(f"{address} did not answer a read: {error}")
        self.doubt = self.route.writes
        if address is not None and self.route.left(address):
            role = "the master" if self.route.writes else "in use"
            return RedisConnectionError(f"{address} is not {role} any more; the command may have run there")
        source.failed(address, error)
        return error

    def resumes(self, error: Exception) -> bool:
        """Whether a subscription goes on after an error, at the next master."""
        cause = error.__cause__ if isinstance(error.__cause__, NotSent) else error
        if not isinstance(error, RedisConnectionError) or isinstance(cause, (ClientsClosed, AuthenticationError)):
            return False
        if not isinstance(cause, NotSent):
            self.route.source.failed(self.address, error)
        return self.subscriber

    def may_miss(self) -> bool:
        """Whether what was packed is a subscription's PING, which tells nothing that reading does not."""
        return self.subscriber and len(self.packed) == 1 and words(self.packed[0])[0] == "PING"

    # -- the greeting

    def accepts(self, reply: Any) -> bool:
        """Whether the process is the one that is meant, by its answer to INFO."""
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
        facts = to_fields(text)
        address = self.address
        meant = address is not None and self.route.accepts(address, facts)
        if address is not None:
            self.life = address, facts.get("run_id") or facts.get("master_replid", "")
        if meant and self.route.writes:
            self.route.source.reached()
        return meant

    def wants_table(self) -> bool:
        """Whether the positions of keys must be learnt from this server."""
        writes = self.route.source.writes
        return self.route.writes and writes is not None and writes.table is None

    def learn(self, reply: Any) -> None:
        """Take over the answer to COMMAND; an error makes every command one that writes anything."""
        writes = self.route.source.writes
        if writes is not None:
            writes.table = KeyTable.of(reply)


class Patience:
    """How long one attempt to connect may go on: through a failover."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._began: float | None = None
        #: Whether the same connection waited in vain just now.
        self._again = False
        self._pause = 0.005
        self._late = False

    def __repr__(self) -> str:
        return f"<Patience since {self._began}>"

    def pause(self, error: Exception) -> float:
        """Seconds to wait before the next try; raises what ends it."""
        cause = error.__cause__
        if isinstance(cause, (NotSent, NotAttached)):
            error = cause  # redis-py wraps what its asyncio connections meet
        if isinstance(error, (ClientsClosed, NotAttached, AuthenticationError)):
            raise error
        guard, now = self._guard, monotonic()
        source = guard.route.source
        if self._began is None:
            self._began, self._again = now, now - guard.gave_up < _AGAIN
        end = self._end(self._began)
        # Many connections at once are late in a busy process; if each counted, that would take every replica out of
        # use. One that is gone is late again. (After a failed greeting redis-py has disconnected: no address.)
        late = isinstance(error, RedisTimeoutError) and guard.address is not None
        forgiven = late and not self._late and not guard.route.writes and now < end
        if not forgiven:
            source.failed(guard.address, error)
        self._late = late
        if now < end:
            least = self._pause
            self._pause = min(least * 1.5, 0.05 if now - self._began < _SOON else 0.5)
            return min(least, end - now)
        if guard.until is None:
            guard.gave_up = now
            if waive():  # what this process wrote is not to be had: better what there is than nothing
                return 0.0
        waited = "" if self._again or guard.until is not None else f"; {source.waited(now - self._began)}"
        raise (RedisConnectionError if guard.doubt else NotSent)(f"{error}{waited}") from error

    def _end(self, began: float) -> float:
        if self._guard.until is not None:
            return self._guard.until
        route = self._guard.route
        return began if self._again else route.source.until(began, writes=route.writes)


def connection_options(route: Route) -> dict[str, Any]:
    """What redis-py's connections are told, from the URL of the cache."""
    options = route.source.node_options
    told: dict[str, Any] = {
        "username": options.credentials.username,
        "password": options.credentials.password,
        "db": options.db,
        "client_name": options.client_name,
        "socket_connect_timeout": options.connect_timeout,
    }
    if options.tls is not None:
        told.update(
            ssl_ca_certs=options.tls.ca_certs,
            ssl_certfile=options.tls.certfile,
            ssl_keyfile=options.tls.keyfile,
            ssl_cert_reqs="required" if options.tls.verify else "none",
            ssl_check_hostname=options.tls.check_hostname and options.tls.verify,
        )
    return told


def not_meant(address: Address | None) -> NotSent:
    """The error for a process that is not the one that was meant."""
    return NotSent(f"{address} is not the server that was meant: it was restarted, or has another role now")
