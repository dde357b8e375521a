"""The client's end of the simulated network: connections, endpoints, and the wire that a process uses."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from evercache.errors import ConnectionFailed, DeadlineExceeded, Loading, ServerChanged, UnavailableError
from evercache.net.types import HASTE, ConnectionOptions, Expectation, Greeting
from evercache.protocol.types import Address, Command, Reply
from tests.sim.loop import Tag, tag_of_task
from tests.sim.network import Network, Request, Session

__all__ = ["Connection", "SimEndpoint", "SimWire"]


class Connection:
    """The client's end of one connection; used through an endpoint, or alone (`AsyncConnection`)."""

    def __init__(self, network: Network, tag: Tag, address: Address, options: ConnectionOptions) -> None:
        self.network, self.tag, self.address, self.options = network, tag, address, options
        self._name, self._host = tag.name, address.host
        self.server = network.servers[address]
        self.greeting: Greeting
        self.session: Session | None = None
        self.inflight: deque[Request] = deque()
        self.failure: UnavailableError | None = None
        self.retired = False
        #: Something that was sent never arrives: the connection is breaking.
        self._lost = False
        self._heard = 0
        #: Seconds that all messages on it took so far.
        self.delayed = 0.0
        self._last_out = self._last_in = 0.0
        #: Nothing comes in on this connection before then.
        self.stalled_until = 0.0
        self._messages: deque[list[Any]] = deque()
        self._reader: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.failure else "retired" if self.retired else "open"
        return f"<Connection {self.tag.name}->{self.address} {state} waiting={len(self.inflight)}>"

    def _out(self, what: str | list[bytes] = "connect") -> float:
        seconds = self.network.delay(self._name, self._host, self._name)
        self.delayed += seconds
        when = self.network.loop.now + seconds
        if self.network.points is not None:
            when += self.network.hold("to", what, self)
        self._last_out = max(self._last_out + 1e-7, when)
        return self._last_out

    def _in(self, what: str | list[bytes] = "connected") -> float:
        seconds = self.network.delay(self._host, self._name, self._name)
        self.delayed += seconds
        when = self.network.loop.now + seconds
        if self.network.points is not None:
            when += self.network.hold("from", what, self)
        self._last_in = max(self._last_in + 1e-7, when, self.stalled_until)
        return self._last_in

    def busy_until(self) -> float:
        """When the latest message that is under way arrives."""
        return max(self._last_out, self._last_in)

    # -- making it

    async def open(self, limit: float) -> None:
        """Connect and greet before `limit`."""
        loop, server = self.network.loop, self.server
        done: asyncio.Future[Any] = loop.create_future()

        def knock() -> None:
            if server.frozen_until > loop.now:
                loop.call_at(server.frozen_until, knock, context=loop.neutral)
                return
            refused = ConnectionFailed(f"{self.address}: connection refused")
            answer: Any = self._greet() if server.alive else refused
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
        self.greeting = Greeting(run_id, role, replid, "valkey", (9, 1, 2), time_us, loop.now - self.tag.behind())
        self.session = self._accept()

    def _accept(self) -> Session:
        return Session(self.network, self.server, self, self.options.db)

    def _greet(self) -> Any:
        node = self.server
        if hasattr(node, "greet"):
            return node.greet()
        node.pull()
        if node.loading:
            return Loading("LOADING Valkey is loading the dataset in memory (at INFO server)")
        return node.run_id, node.role, node.replid, node.now_us()

    # -- using it

    async def request(
        self, commands: Sequence[Command], deadline: float, first: Callable[[Any], None] | None = None
    ) -> list[Any]:
        """Send, and wait for the replies."""
        request = self.send(commands, deadline)
        request.first = first
        try:
            return await request.future  # type: ignore[no-any-return]
        finally:
            assert request.timer is not None
            request.timer.cancel()

    def send(self, commands: Sequence[Command], deadline: float) -> Request:
        loop = self.network.loop
        if not self.tag.alive:
            raise ConnectionFailed("the process is dead")
        if self.failure is not None:
            raise ConnectionFailed(str(self.failure))
        if deadline <= loop.now:
            raise DeadlineExceeded(f"the deadline had passed before {self.address} was asked")
        words = [[w if type(w) is bytes else str(w).encode() for w in command] for command in commands]
        request = Request(words, deadline, loop.create_future(), self._heard)
        self.inflight.append(request)
        self.travel(request)
        request.timer = loop.call_at(deadline, self._late, request, context=loop.neutral)
        if self.network.shares is not None:
            self.network.shares.sent(self, request)
        return request

    def travel(self, request: Request) -> None:
        """It is on its way to the server."""
        loop, words = self.network.loop, request.commands
        request.sent = loop.now
        assert self.session is not None
        if self._lost:
            return  # what is sent behind it does not overtake it
        if self.network.breaking and self.network.rng.random() < self.network.breaking:
            # It breaks around this request: before or after the server has it, or with the answer on its way.
            draw = self.network.rng.random()
            if draw < 0.6:
                when = self._out(words[0])
                loop.call_at(when, self.session.arrive, request, context=loop.neutral)
                if draw < 0.3:
                    reset = ConnectionFailed(f"{self.address}: the connection was reset")
                    loop.call_at(when + 1e-6, self.fail, reset, context=loop.neutral)
            else:
                self._lost = True
            loop.call_later(self.network.rng.random() * 0.02, self.session.reset, context=loop.neutral)
        else:
            loop.call_at(self._out(words[0]), self.session.arrive, request, context=loop.neutral)
        for look in list(self.network.sending):
            look(request.tag, self.server, words[0])

    def _late(self, request: Request) -> None:
        if request.future.done():
            return
        tag, loop = request.tag, self.network.loop
        if tag is not None and (again := tag.reads_again()) > loop.now:
            request.timer = loop.call_at(again, self._late, request, context=loop.neutral)
            return
        if self.network.shares is not None:
            self.network.shares.late(self, request)
        request.future.set_exception(
            DeadlineExceeded(f"{self.address} did not answer before the deadline", maybe_run=True)
        )
        if request.heard == self._heard:
            self.fail(ConnectionFailed(f"{self.address} is silent"))
        elif self.retired:
            self.close()

    def reply(self, request: Request) -> None:
        """The server answers: it arrives later."""
        loop = self.network.loop
        loop.call_at(self._in(request.commands[0]), self._arrived, request, context=loop.neutral)

    def reply_first(self, request: Request) -> None:
        """The server answers the first command, and blocks at one behind it."""
        loop = self.network.loop
        loop.call_at(self._in(request.commands[0]), self._first_arrived, request, context=loop.neutral)

    def _first_arrived(self, request: Request) -> None:
        if self.failure is not None:
            return
        self._heard += 1
        if request.first is not None and not request.future.done():
            request.first(request.replies[0])
        request.first = None

    def _arrived(self, request: Request) -> None:
        if request.first is not None:
            self._first_arrived(request)
        if self.failure is not None:
            return
        self._heard += 1
        if self.network.shares is not None:
            self.network.shares.answered(request)
        first = self.inflight.popleft()
        assert first is request
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

    async def execute(
        self, commands: Sequence[Command], deadline: float, *, first: Callable[[Any], None] | None = None
    ) -> list[Any]:
        """See `AsyncConnection.execute`."""
        try:
            return await self.request(commands, deadline + self.tag.behind(), first)
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

    def pushes(self) -> list[list[Any]]:
        """See `AsyncConnection.pushes`."""
        taken = list(self._messages)
        self._messages.clear()
        return taken

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
            when = max(self._last_out + 1e-7, loop.now, self.server.frozen_until + 1e-6)
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
    """An `AsyncEndpoint`: one pipelined connection, with the manners of `evercache.net.pipelined`."""

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
    ) -> list[Reply] | Request:
        """See `AsyncEndpoint.begin`."""
        deadline, until = deadline + self._tag.behind(), until + self._tag.behind()
        self._calls += 1
        loop = self._network.loop
        try:
            connection = self._current()
            if connection is None or (expect is not None and not expect(connection.greeting)):
                if connection is not None:
                    connection.retire()
                ready = deadline if until > loop.now else min(deadline, loop.now + HASTE)
                connection = await self._fresh(ready)
                if expect is not None and not expect(connection.greeting):
                    connection.retire()
                    raise ServerChanged(f"{self.address} is not the server that was verified")
            request = connection.send(commands, deadline)
            if until <= loop.now:
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

    def get(
        self, key: str, now: float, patience: float, expect: Expectation, late: float = inf
    ) -> asyncio.Future[Reply | Request]:
        """See `AsyncEndpoint.get`. A future, as of a connection that is there: others may join it."""
        loop = self._network.loop
        answer: asyncio.Future[Reply | Request] = loop.create_future()

        async def ask() -> None:
            try:
                reply = await self._get(key, now + patience, expect, now + late)
            except UnavailableError as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(reply)

        task = loop.create_task(ask())

        def over(done: asyncio.Future[Any]) -> None:
            if done.cancelled() or done.exception():  # looked at: who asked may be dead
                task.cancel()

        answer.add_done_callback(over)
        return answer

    async def _get(self, key: str, deadline: float, expect: Expectation, until: float) -> Reply | Request:
        answer = await self.begin([("GET", key)], deadline, expect, until)
        return answer[0] if isinstance(answer, list) else answer

    async def _fresh(self, deadline: float) -> Connection:
        connection = self._current()
        if connection is not None:
            return connection
        loop = self._network.loop
        left = deadline - loop.now
        if left <= 0:
            raise DeadlineExceeded(f"no time was left to connect to {self.address}")
        if self._opening is None or self._opening.done():
            context = loop.neutral.copy()
            context.run(tag_of_task.set, self._tag)  # a blocked loop does not stop the others from using it
            self._opening = loop.create_task(self._fill(), context=context)
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
            await connection.open(self._network.loop.now + self._options.connect_timeout)
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
        limit = min(deadline + self.tag.behind(), self._network.loop.now + options.connect_timeout)
        await connection.open(limit)
        return connection

    def forget(self) -> None:
        """After a fork, in the child: nothing of the parent's is here."""
        for it in self._made:
            it.forget()
        self._made.clear()
