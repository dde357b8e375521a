"""The simulated network: messages with delays, stalls and breaks, and the server's end of each connection.

The client's end is in `wire.py`.

A connection is a stream in each direction: what is sent arrives in order, later, or never. A partition holds data
back until it is over (as TCP does, which sends again) or until an end is closed; what was sent before a client
closed its end may still arrive, and be executed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from evercache.errors import UnavailableError
from evercache.protocol.types import Address
from tests.sim.loop import SimHandle, SimLoop, Tag, tag_of_task
from tests.sim.preemption import Points, command_name

if TYPE_CHECKING:
    from tests.sim.shares import Shares
    from tests.sim.wire import Connection

__all__ = ["Network", "Request", "Server", "Session"]


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
        #: Told of what is sent, answered or late; None: nobody is.
        self.shares: Shares | None = None
        #: Asked whenever something is sent, while a fault waits for that: who sends, to which server, and what.
        self.sending: list[Callable[[Tag | None, Any, list[bytes]], None]] = []

    def __repr__(self) -> str:
        return f"<Network servers={len(self.servers)} walls={len(self.walls)}>"

    def wall(self, source: str, target: str) -> float:
        """Until when nothing passes from one to the other (0: it passes)."""
        now, until = self.loop.now, 0.0
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
        if self.slow or self.walls:
            now = self.loop.now
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


class Request:
    """What was asked and the replies so far; an `AsyncExchange` as well."""

    __slots__ = ("commands", "deadline", "first", "future", "heard", "replies", "sent", "tag", "timer")

    def __init__(
        self,
        commands: list[list[bytes]],
        deadline: float = inf,
        future: asyncio.Future[Any] | None = None,
        heard: int = 0,
    ) -> None:
        self.commands, self.deadline, self.heard = commands, deadline, heard
        #: None: its replies are read from a socket.
        self.future: Any = future
        #: Who waits for it.
        self.tag = tag_of_task.get()
        self.replies: list[Any] = []
        #: When the client sent it.
        self.sent = 0.0
        self.first: Callable[[Any], None] | None = None
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

    __slots__ = (
        "_arrived",
        "_parking",
        "alive",
        "client",
        "db",
        "network",
        "number",
        "parked",
        "patterns",
        "queue",
        "sent",
        "server",
    )

    def __init__(self, network: Network, server: Any, client: Connection, db: int) -> None:
        self.network, self.server, self.client, self.db = network, server, client, db
        self.number = network.number()
        self._arrived: deque[Request] = deque()
        self.queue: deque[tuple[Request, int]] = deque()
        #: What a blocked command would answer by now; None: nothing yet.
        self.parked: Callable[[], Any] | None = None
        self._parking: SimHandle | None = None
        self.alive = True
        self.patterns = False
        #: When the client sent the command that runs.
        self.sent = 0.0
        server.sessions.add(self)

    def arrive(self, request: Request) -> None:
        """A request reached the server."""
        server, now = self.server, self.network.loop.now
        if not server.alive or not self.alive:
            return
        points = self.network.points
        if points is not None and request.commands[0][0] in (b"EVALSHA", b"EVAL"):
            what = command_name(request.commands[0])
            fault = points.at("script", what)
            if fault is not None:
                server.frozen_until = max(server.frozen_until, now + fault.args["for_"])
                self.network.held(fault, what, process=None, server=server)
        self._arrived.append(request)
        self._take()

    def _take(self) -> None:
        """Read what has arrived, in its order; a server that is frozen does when it wakes, which may be sooner."""
        server, loop = self.server, self.network.loop
        while self._arrived and server.alive and self.alive:
            if server.frozen_until > loop.now:
                loop.call_at(server.frozen_until, self._take, context=loop.neutral)
                return
            request = self._arrived.popleft()
            for index in range(len(request.commands)):
                self.queue.append((request, index))
            self._go_on()

    def _go_on(self) -> None:
        while self.queue and self.parked is None and self.alive:
            request, index = self.queue.popleft()
            self.sent = request.sent
            reply = self.execute(request.commands[index])
            if reply is not self:
                self._answer(request, index, reply)
            else:
                self.queue.appendleft((request, index))
                if request.first is not None and request.replies:
                    self.client.reply_first(request)

    def execute(self, words: list[bytes]) -> Any:
        """One command."""
        return self.server.execute(self, words)

    def _answer(self, request: Request, index: int, reply: Any) -> None:
        request.replies.append(reply)
        if index == len(request.commands) - 1:
            self.client.reply(request)

    def park(self, look: Callable[[], Any], seconds: float, late: Callable[[], Any], every: float = inf) -> None:
        """Until `look` has an answer; or answer what `late` gives. It looks when the log grows, and so often."""
        self.parked = look
        self.server.parked.add(self)
        self._go_on_waiting(look, self.network.loop.now + seconds, late, every)

    def _go_on_waiting(self, look: Callable[[], Any], end: float, late: Callable[[], Any], every: float) -> None:
        loop = self.network.loop
        at = max(min(end, loop.now + every), self.server.frozen_until)

        def go_on() -> None:
            if self.server.frozen_until <= loop.now:
                self.look_again()
            if self.parked is not look:
                return
            if loop.now >= max(end, self.server.frozen_until):
                self.unblock(late())
            else:
                self._go_on_waiting(look, end, late, every)

        self._parking = loop.call_at(at, go_on, context=loop.neutral)

    def look_again(self) -> None:
        """Something has changed."""
        if self.parked is not None and (answer := self.parked()) is not None:
            self.unblock(answer)

    def unblock(self, reply: Any) -> None:
        """The parked command ends with this reply."""
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
        self._arrived.clear()
        self.queue.clear()

    def client_closed(self) -> None:
        """The client's end is gone: a parked read is dropped, what is queued runs (it was read already)."""
        if self.alive:
            self._end()
