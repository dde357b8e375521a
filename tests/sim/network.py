"""The simulated network: connections with delays, stalls and breaks, and the server's end of each.

A connection is a stream in each direction: what is sent arrives in order, later, or never. A partition holds data
back until it is over (as TCP does, which sends again) or until an end is closed; what was sent before a client
closed its end may still arrive, and be executed.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from evercache.errors import ConnectionFailed, DeadlineExceeded, Loading, ServerChanged, UnavailableError
from evercache.wire.types import HASTE, Address, Command, ConnectionOptions, Expectation, Greeting, Reply
from tests.sim.loop import SimHandle, SimLoop, Tag
from tests.sim.preemption import Points, command_name

__all__ = ["Network", "Server", "Session", "SimEndpoint", "SimWire"]


class Server(Protocol):
    """What listens at an address: a node or a sentinel."""

    alive: bool
    frozen_until: float
    sessions: set[Session]

    def execute(self, session: Session, words: list[bytes]) -> Any: ...


class Network:
    """Who reaches whom, and how fast. Everything is drawn from one random source."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.servers: dict[Address, Any] = {}
        #: (begin, end, from, to): names of processes and servers, None for all; nothing passes meanwhile.
        self.walls: list[tuple[float, float, str | None, str | None]] = []
        #: (begin, end, process): everything takes long.
        self.slow: list[tuple[float, float, str, float]] = []
        self.breaking = 0.0  # share of requests whose connection breaks
        self._numbers = 0
        #: Where messages and scripts can be held back, and who is told of one; None: nowhere.
        self.points: Points | None = None
        self.held: Callable[..., None] = lambda *_: None

    def __repr__(self) -> str:
        return f"<Network servers={len(self.servers)} walls={len(self.walls)}>"

    def wall(self, source: str, target: str) -> float:
        """Until when nothing passes from one to the other (0: it passes)."""
        now, until = self.loop.time(), 0.0
        for begin, end, a, b in self.walls:
            if begin <= now < end and a in (None, source) and b in (None, target):
                until = max(until, end)
        return until

    def delay(self, source: str, target: str, process: str) -> float:
        """Seconds until something sent now arrives."""
        draw = self.rng.random()
        seconds = 0.0001 + draw * 0.0012
        if draw > 0.97:
            seconds = 0.003 + (draw - 0.97) * 0.6
        now = self.loop.time()
        for begin, end, name, more in self.slow:
            if name == process and begin <= now < end:
                seconds += more * self.rng.random()
        until = self.wall(source, target)
        if until:
            seconds += until - now + self.rng.random() * 0.05
        return seconds

    def hold(self, way: str, what: str | list[bytes], connection: Connection) -> float:
        """Seconds for which this message is held back, and with it what follows on its connection."""
        what = f"{way} {what if isinstance(what, str) else command_name(what)}"
        fault = self.points.at("message", what) if self.points is not None else None
        if fault is None:
            return 0.0
        self.held(fault, what, process=connection.tag.name, server=connection.server)
        return float(fault.args["for_"])

    def number(self) -> int:
        self._numbers += 1
        return self._numbers


class _Request:
    """What was asked and the replies so far; an `AsyncExchange` as well."""

    __slots__ = ("commands", "deadline", "future", "heard", "replies", "timer")

    def __init__(
        self, commands: list[list[bytes]], deadline: float, future: asyncio.Future[Any], heard: int
    ) -> None:
        self.commands, self.deadline, self.future, self.heard = commands, deadline, future, heard
        self.replies: list[Any] = []
        self.timer: SimHandle | None = None

    def hand_over(self) -> None:
        """Give the exchange itself to whoever waits for its replies."""
        waiting = self.future
        if not waiting.done():
            self.future = waiting.get_loop().create_future()
            self.future.add_done_callback(lambda f: None if f.cancelled() else f.exception())
            waiting.set_result(self)

    def result(self) -> list[Any]:
        replies: list[Any] = self.future.result()
        return replies

    def abandon(self, over: Callable[[UnavailableError | None], None]) -> None:
        def done(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            over(error if isinstance(error, UnavailableError) else None)

        self.future.add_done_callback(done)


class Session:
    """The server's end of a connection: commands run one after the other, a parked one holds up the rest."""

    __slots__ = ("_parking", "alive", "client", "db", "network", "number", "parked", "patterns", "queue", "server")

    def __init__(self, network: Network, server: Any, client: Connection, db: int) -> None:
        self.network, self.server, self.client, self.db = network, server, client, db
        self.number = network.number()
        self.queue: deque[tuple[_Request, int]] = deque()
        self.parked: list[bytes] | None = None
        self._parking: SimHandle | None = None
        self.alive = True
        self.patterns = False
        server.sessions.add(self)

    def arrive(self, request: _Request) -> None:
        """A request reached the server."""
        server, now = self.server, self.network.loop.time()
        if not server.alive or not self.alive:
            return
        points = self.network.points
        if points is not None and request.commands[0][0] in (b"EVALSHA", b"EVAL"):
            what = command_name(request.commands[0])
            fault = points.at("script", what)
            if fault is not None:
                server.frozen_until = max(server.frozen_until, now + fault.args["for_"])
                self.network.held(fault, what, process=None, server=server)
        if server.frozen_until > now:
            self.network.loop.call_at(server.frozen_until, self.arrive, request, context=self.network.loop.neutral)
            return
        for index in range(len(request.commands)):
            self.queue.append((request, index))
        self._go_on()

    def _go_on(self) -> None:
        while self.queue and self.parked is None and self.alive:
            request, index = self.queue.popleft()
            reply = self.server.execute(self, request.commands[index])
            if reply is not self:
                self._answer(request, index, reply)
            else:
                self.queue.appendleft((request, index))

    def _answer(self, request: _Request, index: int, reply: Any) -> None:
        request.replies.append(reply)
        if index == len(request.commands) - 1:
            self.client.reply(request)

    def park(self, words: list[bytes], seconds: float) -> None:
        """Wait for the log to grow."""
        self.parked = words
        self.server.parked.add(self)
        loop = self.network.loop
        self._parking = loop.call_later(seconds, self._park_over, context=loop.neutral)

    def _park_over(self) -> None:
        frozen = self.server.frozen_until
        loop = self.network.loop
        if frozen > loop.time():
            self._parking = loop.call_at(frozen, self._park_over, context=loop.neutral)
            return
        self.unblock(None)

    def look_again(self) -> None:
        """The log has grown."""
        if self.parked is None:
            return
        words = [w for w in self.parked if w.upper() != b"BLOCK"]
        del words[words.index(b"STREAMS") - 1]
        lines = self.server.read_log(self, words)
        if lines is not None:
            self.unblock(lines)

    def unblock(self, reply: Any) -> None:
        """The parked read ends with this reply."""
        if self.parked is None:
            return
        self.parked = None
        self.server.parked.discard(self)
        if self._parking is not None:
            self._parking.cancel()
        request, index = self.queue.popleft()
        self._answer(request, index, reply)
        self._go_on()

    def reset(self) -> None:
        """The server closes the connection, or its process ended."""
        if not self.alive:
            return
        self._end()
        self.client.peer_closed()

    def _end(self) -> None:
        self.alive = False
        self.server.sessions.discard(self)
        if self.parked is not None:
            self.server.parked.discard(self)
            self.parked = None
        if self._parking is not None:
            self._parking.cancel()
        self.queue.clear()

    def client_closed(self) -> None:
        """The client's end is gone: a parked read is dropped, what is queued runs (it was read already)."""
        if self.alive:
            self._end()


class Connection:
    """The client's end of one connection; used through an endpoint, or alone (`AsyncConnection`)."""

    def __init__(self, network: Network, tag: Tag, address: Address, options: ConnectionOptions) -> None:
        self.network, self.tag, self.address, self.options = network, tag, address, options
        self.server = network.servers[address]
        self.greeting: Greeting
        self.session: Session | None = None
        self.inflight: deque[_Request] = deque()
        self.failure: UnavailableError | None = None
        self.retired = False
        self._heard = 0
        self._last_out = self._last_in = 0.0
        #: Nothing comes in on this connection before then.
        self.stalled_until = 0.0
        self._messages: deque[list[Any]] = deque()
        self._reader: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.failure else "retired" if self.retired else "open"
        return f"<Connection {self.tag.name}->{self.address} {state} waiting={len(self.inflight)}>"

    @property
    def names(self) -> tuple[str, str]:
        return self.tag.name, self.address.host

    def _out(self, what: str | list[bytes] = "connect") -> float:
        a, b = self.names
        when = self.network.loop.time() + self.network.delay(a, b, self.tag.name)
        if self.network.points is not None:
            when += self.network.hold("to", what, self)
        self._last_out = max(self._last_out + 1e-7, when)
        return self._last_out

    def _in(self, what: str | list[bytes] = "connected") -> float:
        a, b = self.names
        when = self.network.loop.time() + self.network.delay(b, a, self.tag.name)
        if self.network.points is not None:
            when += self.network.hold("from", what, self)
        self._last_in = max(self._last_in + 1e-7, when, self.stalled_until)
        return self._last_in

    # -- making it

    async def open(self, limit: float) -> None:
        """Connect and greet before `limit`."""
        loop, server = self.network.loop, self.server
        done: asyncio.Future[Any] = loop.create_future()

        def knock() -> None:
            if server.frozen_until > loop.time():
                loop.call_at(server.frozen_until, knock, context=loop.neutral)
                return
            answer: Any
            if not server.alive:
                answer = ConnectionFailed(f"{self.address}: connection refused")
            else:
                answer = server.greet() if hasattr(server, "greet") else self._node_greeting()
            loop.call_at(self._in(), arrived, answer, context=loop.neutral)

        def arrived(answer: Any) -> None:
            if not done.done():
                done.set_result(answer)

        loop.call_at(self._out(), knock, context=loop.neutral)
        timer = loop.call_at(limit, arrived, None, context=loop.neutral)
        try:
            answer = await done
        finally:
            timer.cancel()
        if answer is None:
            raise ConnectionFailed(f"{self.address} did not answer within connect_timeout")
        if isinstance(answer, UnavailableError):
            raise answer
        run_id, role, replid, time_us = answer
        if not server.alive or server.run_id != run_id:
            raise ConnectionFailed(f"{self.address}: the connection was reset")
        self.greeting = Greeting(run_id, role, replid, "valkey", (9, 1, 2), time_us, loop.time())
        self.session = Session(self.network, server, self, self.options.db)

    def _node_greeting(self) -> Any:
        node = self.server
        node.pull()
        if node.loading:
            return Loading("LOADING Valkey is loading the dataset in memory (at INFO server)")
        return node.run_id, node.role, node.replid, node.now_us()

    # -- using it

    async def request(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Send, and wait for the replies."""
        request = self.send(commands, deadline)
        try:
            return await request.future  # type: ignore[no-any-return]
        finally:
            assert request.timer is not None
            request.timer.cancel()

    def send(self, commands: Sequence[Command], deadline: float) -> _Request:
        loop = self.network.loop
        if not self.tag.alive:
            raise ConnectionFailed("the process is dead")
        if self.failure is not None:
            raise ConnectionFailed(str(self.failure))
        if deadline <= loop.time():
            raise DeadlineExceeded(f"the deadline had passed before {self.address} was asked")
        words = [[w if isinstance(w, bytes) else str(w).encode() for w in command] for command in commands]
        request = _Request(words, deadline, loop.create_future(), self._heard)
        self.inflight.append(request)
        assert self.session is not None
        if self.network.breaking and self.network.rng.random() < self.network.breaking:
            # It breaks around this request: before or after the server has it, or with the answer on its way.
            draw = self.network.rng.random()
            if draw < 0.6:
                when = self._out(words[0])
                loop.call_at(when, self.session.arrive, request, context=loop.neutral)
                if draw < 0.3:
                    reset = ConnectionFailed(f"{self.address}: the connection was reset")
                    loop.call_at(when + 1e-6, self.fail, reset, context=loop.neutral)
            loop.call_later(self.network.rng.random() * 0.02, self.session.reset, context=loop.neutral)
        else:
            loop.call_at(self._out(words[0]), self.session.arrive, request, context=loop.neutral)
        request.timer = loop.call_at(deadline, self._late, request, context=loop.neutral)
        return request

    def _late(self, request: _Request) -> None:
        if request.future.done():
            return
        request.future.set_exception(
            DeadlineExceeded(f"{self.address} did not answer before the deadline", maybe_run=True)
        )
        if request.heard == self._heard:
            self.fail(ConnectionFailed(f"{self.address} is silent"))
        elif self.retired:
            self.close()

    def reply(self, request: _Request) -> None:
        """The server answers: it arrives later."""
        loop = self.network.loop
        loop.call_at(self._in(request.commands[0]), self._arrived, request, context=loop.neutral)

    def _arrived(self, request: _Request) -> None:
        if self.failure is not None:
            return
        self._heard += 1
        while self.inflight and self.inflight[0] is not request:
            self.inflight.popleft()
        if self.inflight:
            self.inflight.popleft()
        if not request.future.done():
            request.future.set_result(request.replies)
        if self.retired and not self.inflight:
            self.close()

    def push(self, message: list[Any]) -> None:
        """An out-of-band message of the server."""
        loop = self.network.loop
        loop.call_at(self._in("push"), self._pushed, message, context=loop.neutral)

    def _pushed(self, message: list[Any]) -> None:
        if self.failure is not None:
            return
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def execute(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """See `AsyncConnection.execute`."""
        try:
            return await self.request(commands, deadline)
        except BaseException:
            self.close()
            raise

    async def next_push(self) -> list[Any]:
        """See `AsyncConnection.next_push`."""
        while not self._messages:
            if self.failure is not None:
                raise ConnectionFailed(str(self.failure))
            self._reader = self.network.loop.create_future()
            await self._reader
        return self._messages.popleft()

    # -- its end

    def retire(self) -> None:
        """Take no new call; close when those under way are done."""
        self.retired = True
        if not self.inflight:
            self.close()

    def close(self) -> None:
        self.fail(ConnectionFailed(f"the connection to {self.address} was closed"))

    def fail(self, failure: UnavailableError) -> None:
        """End it here; the server learns of it, or not."""
        if self.failure is not None:
            return
        self.failure = failure
        for request in self.inflight:
            if not request.future.done():
                request.future.set_exception(ConnectionFailed(str(failure), maybe_run=True))
        self.inflight.clear()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        session, loop = self.session, self.network.loop
        # The end travels behind what was sent before, which is executed all the same; a server that is frozen
        # reads it when it wakes.
        if session is not None and not loop.is_closed():
            when = max(self._last_out + 1e-7, loop.time(), self.server.frozen_until + 1e-6)
            loop.call_at(when, session.client_closed, context=loop.neutral)

    def peer_closed(self) -> None:
        """The server's end is gone; the news travels, unless a wall stands between."""
        loop = self.network.loop
        loop.call_at(
            self._in("reset"),
            self.fail,
            ConnectionFailed(f"{self.address} closed the connection"),
            context=loop.neutral,
        )


class SimEndpoint:
    """An `AsyncEndpoint`: one pipelined connection, with the manners of `evercache.wire.pipelined`."""

    def __init__(self, network: Network, tag: Tag, address: Address, options: ConnectionOptions) -> None:
        self._network, self._tag, self.address, self._options = network, tag, address, options
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Any] | None = None
        self._epoch = 0
        self._calls = 0

    def __repr__(self) -> str:
        return f"<SimEndpoint {self._tag.name}->{self.address}>"

    @property
    def outstanding(self) -> int:
        return self._calls

    def _current(self) -> Connection | None:
        c = self._connection
        return c if c is not None and c.failure is None and not c.retired else None

    async def execute(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None
    ) -> list[Reply]:
        """See `AsyncEndpoint.execute`."""
        replies = await self.begin(commands, deadline, expect)
        assert isinstance(replies, list)
        return replies

    async def begin(
        self, commands: Sequence[Command], deadline: float, expect: Expectation | None = None, until: float = inf
    ) -> list[Reply] | _Request:
        """See `AsyncEndpoint.begin`."""
        self._calls += 1
        loop = self._network.loop
        try:
            connection = self._current()
            if connection is None or (expect is not None and not expect(connection.greeting)):
                if connection is not None:
                    connection.retire()
                ready = deadline if until > loop.time() else min(deadline, loop.time() + HASTE)
                connection = await self._fresh(ready)
                if expect is not None and not expect(connection.greeting):
                    connection.retire()
                    raise ServerChanged(f"{self.address} is not the server that was verified")
            request = connection.send(commands, deadline)
            if until <= loop.time():
                return request
            timer = None
            if until < deadline:
                timer = loop.call_at(until, request.hand_over, context=loop.neutral)
            try:
                return await request.future  # type: ignore[no-any-return]
            finally:
                if timer is not None:
                    timer.cancel()
                if request.future.done():
                    assert request.timer is not None
                    request.timer.cancel()
        finally:
            self._calls -= 1

    async def _fresh(self, deadline: float) -> Connection:
        connection = self._current()
        if connection is not None:
            return connection
        loop = self._network.loop
        left = deadline - loop.time()
        if left <= 0:
            raise DeadlineExceeded(f"no time was left to connect to {self.address}")
        if self._opening is None or self._opening.done():
            self._opening = loop.create_task(self._fill())
        opening = self._opening
        await asyncio.wait((opening,), timeout=left)
        if not opening.done():
            raise DeadlineExceeded(f"no connection to {self.address} before the deadline")
        if opening.cancelled():
            raise ConnectionFailed("connecting was cancelled")
        outcome = opening.result()
        if isinstance(outcome, Connection):
            return outcome
        raise copy.copy(outcome)

    async def _fill(self) -> Connection | UnavailableError:
        epoch = self._epoch
        connection = Connection(self._network, self._tag, self.address, self._options)
        try:
            await connection.open(self._network.loop.time() + self._options.connect_timeout)
        except UnavailableError as error:
            return error
        if epoch != self._epoch:
            connection.close()
            return ConnectionFailed(f"{self.address} was disconnected while a connection was made")
        self._connection = connection
        return connection

    def disconnect(self) -> None:
        """See `AsyncEndpoint.disconnect`."""
        self._epoch += 1
        if self._connection is not None:
            self._connection.retire()

    def forget(self) -> None:
        """See `AsyncEndpoint.forget`."""
        self._epoch += 1
        self._connection = self._opening = None


class SimWire:
    """An `AsyncWire` of one process; also the blocking wire, which nobody uses here."""

    def __init__(self, network: Network, tag: Tag) -> None:
        self._network, self.tag = network, tag
        self._made: list[SimEndpoint] = []

    def __repr__(self) -> str:
        return f"<SimWire of {self.tag.name}>"

    def endpoint(self, address: Address, options: ConnectionOptions) -> SimEndpoint:
        endpoint = SimEndpoint(self._network, self.tag, address, options)
        self._made.append(endpoint)
        return endpoint

    async def connect(self, address: Address, options: ConnectionOptions, deadline: float) -> Connection:
        connection = Connection(self._network, self.tag, address, options)
        limit = min(deadline, self._network.loop.time() + options.connect_timeout)
        await connection.open(limit)
        return connection

    def forget(self) -> None:
        """After a fork, in the child: nothing of the parent's is here."""
        for it in self._made:
            it.forget()
        self._made.clear()
