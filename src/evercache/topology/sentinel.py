"""The master as the sentinels know it: polling is the truth, pub/sub on all sentinels makes it fast."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

from msgspec.structs import replace

from evercache.clock import monotonic
from evercache.errors import DeadlineExceeded, ServerError, UnavailableError
from evercache.net.types import AsyncConnection, AsyncWire, ConnectionOptions
from evercache.observe import Emit, EventHub, events
from evercache.protocol.topology import RoleReport, SentinelAnswer, SentinelBook, View
from evercache.protocol.types import Address, Command
from evercache.topology.answers import (
    BRIEF,
    CHANNELS,
    concerns,
    parse_answer,
    parse_role,
    parse_vote,
    question,
    repeated,
)
from evercache.topology.base import GAP, IDLE, INTERVAL, AddressMap, Bell, Clock, Endpoints, SharedEndpoints, mapper

__all__ = ["SentinelTopology"]

#: Pub/sub connections are made again after a pause that doubles from the first to the second (seconds).
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: A replica that has been chosen is asked this often (seconds) whether it is master by now; after the first
#: half second, a tenth as often.
CLOSELY, CLOSELY_FOR = 0.02, 0.5
#: A subscribed connection that is silent for so long (seconds) is tried with PING.
SILENCE = 15.0
#: For the reply to that PING, and to each question (seconds): the connection is not given up before.
PATIENCE = 2.0
#: Where nothing seems to change, most questions are brief: each is asked in full after so many seconds.
IN_FULL = 5.0
#: Earlier servers take no question on a connection that is subscribed.
RESP3 = (6,)


class SentinelTopology:
    """Follows one service on all its sentinels.

    Guarded by: written on the loop of `run` only; `view` and `confirmed_since` are safe for any thread.
    """

    local = False

    def __init__(
        self,
        wire: AsyncWire,
        service: str,
        sentinels: Iterable[Address],
        sentinel_options: ConnectionOptions,
        node_options: ConnectionOptions,
        *,
        address_map: AddressMap | None = None,
        interval: float = INTERVAL,
        timeout: float = 0.2,
        clock: Clock = monotonic,
        emit: Emit | None = None,
    ) -> None:
        self._book = SentinelBook(service, sentinels)
        self._wire = wire
        self._sentinel_options, self._node_options = sentinel_options, node_options
        self._mapped = mapper(address_map)
        self._interval, self._timeout, self._clock = interval, timeout, clock
        self._bell = Bell()
        self._listeners: dict[Address, asyncio.Task[None]] = {}
        #: The subscribed connections, and since when each has brought every event.
        self._followed: dict[Address, tuple[AsyncConnection, float]] = {}
        #: What each server is being asked. An answer that is late is taken in all the same.
        self._questions: dict[Address, asyncio.Task[None]] = {}
        #: The servers that did not answer their last question in time.
        self._silent: set[Address] = set()
        #: Whether the master must be confirmed all the time.
        self._confirm = True
        #: When each sentinel was last asked in full.
        self._in_full: dict[Address, float] = {}
        self._emit = emit or EventHub(clock).emit
        #: Questions in a row that a sentinel did not answer.
        self._missed: dict[Address, int] = {}
        self._changed: Callable[[View], None] = lambda view: None
        self._told = self._book.view

    def __repr__(self) -> str:
        return f"<SentinelTopology {self._book!r}>"

    @property
    def view(self) -> View:
        """Who is who now."""
        return self._book.view

    def nudge(self) -> None:
        """Ask now."""
        self._bell.ring()

    def confirmed_since(self) -> float:
        """The newest strict confirmation (rule 17) of the master of the view; -inf without one."""
        return self._book.confirmed_since(self._book.view.master)

    def down_after(self) -> float | None:
        """See `Topology`."""
        return self._book.down_after

    def discovered(self, replicas: Iterable[Address]) -> None:
        """Replicas that the master lists; they are in the view at once."""
        self._book.discovered(self._mapped(a) for a in replicas)
        self._tell()

    def describe(self) -> dict[str, Any]:
        """For health reports."""
        return {
            "kind": "sentinel",
            "service": self._book.service,
            "sentinels": [str(a) for a in self._book.sentinels],
            "listening": sorted(str(a) for a in self._followed),
            "errors": {str(a): str(e) for a, e in self._book.errors.items()},
        }

    def rest(self, idle: bool, confirm: bool) -> None:
        """See `Topology`: the subscriptions go on, and what the sentinels publish is asked about at once."""
        self._bell.rest(idle)
        self._confirm = confirm

    async def run(self, changed: Callable[[View], None], nodes: SharedEndpoints | None = None) -> None:
        """Poll every second and at each event or nudge, listen all the time; until cancelled."""
        self._bell.attach()
        self._changed = changed
        self._told = self._book.view
        # After a fork: those of the parent's loop are not ours.
        self._listeners, self._followed, self._questions = {}, {}, {}
        self._silent.clear()
        sentinels = Endpoints(SharedEndpoints(self._wire, self._sentinel_options))
        watched = Endpoints(nodes or SharedEndpoints(self._wire, self._node_options))
        rung = True
        try:
            while True:
                self._listen_to(self._book.sentinels)
                await self._round(sentinels, watched, quiet=not rung)
                rung = await self._promoted(watched) or await self._bell.pace(self._interval)
        except GeneratorExit:  # the loop was dropped with its tasks: nothing can be awaited any more
            self._listeners, self._questions = {}, {}
            raise
        finally:
            ending = [*self._listeners.values(), *self._questions.values()]
            self._listen_to(())
            for question in self._questions.values():
                question.cancel()
            if ending:
                await asyncio.gather(*ending, return_exceptions=True)
            sentinels.close()
            watched.close()

    def _tell(self) -> None:
        view = self._book.view
        if view is self._told:
            return
        self._told = view
        self._changed(view)

    # -- polling

    async def _round(self, sentinels: Endpoints, nodes: Endpoints, *, quiet: bool) -> None:
        """Ask all sentinels, and the nodes for their roles.

        Where it is `quiet`, and all agree, the sentinels are asked whether anything has changed. The nodes are
        asked only if that is so, or if the master must be confirmed all the time.
        """
        quiet = quiet and self._book.agreed
        sentinels.keep([a for a in self._book.sentinels if self._subscribed(a) is None])
        for gone in [a for a in self._missed if a not in self._book.sentinels]:
            del self._missed[gone]
            self._emit(events.SentinelRemoved(str(gone)))
        nodes.keep(self._book.nodes)
        self._silent &= {*self._book.sentinels, *self._book.nodes}
        asked = [self._ask(a, partial(self._ask_sentinel, sentinels, a, quiet)) for a in self._book.sentinels]
        if quiet and not self._confirm:
            await asyncio.gather(*asked)
            asked = []
        if asked or not self._book.agreed:
            roles = [self._ask(a, partial(self._ask_role, nodes, a)) for a in self._book.nodes]
            await asyncio.gather(*asked, *roles)
        self._book.round_over(self._clock())
        self._tell()

    async def _promoted(self, nodes: Endpoints) -> bool:
        """Until a replica that a sentinel has chosen says that it is master, or the next round is due; True when
        there was one to wait for. The sentinels would say so up to a second later."""
        began = self._clock()
        if not self._book.promotions(began):
            return False
        while (now := self._clock()) - began < self._interval:
            gap = CLOSELY if now - began < CLOSELY_FOR else CLOSELY * 10
            if await self._bell.wait(gap * (0.75 + random.random() / 2)):
                await asyncio.sleep(CLOSELY)
                break
            waiting = self._book.promotions(now)
            await asyncio.gather(*(self._ask_role(nodes, a) for a in waiting))
            if not waiting:
                break
        return True

    async def _ask(self, server: Address, question: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ask one server, unless it still has to answer the last question.

        A server that did not answer last time delays the round by `GAP` only: the answers of the others confirm the
        master, and a confirmation must not be older than `max_staleness`.
        """
        asking = self._questions.get(server)
        if asking is None or asking.done():
            asking = self._questions[server] = asyncio.ensure_future(question())
        # Most questions end by their own deadline, which is a little earlier.
        patience = GAP if server in self._silent else self._timeout + GAP
        await asyncio.wait((asking,), timeout=patience)
        if asking.done():
            asking.result()
        elif server in self._book.sentinels:
            late = DeadlineExceeded(f"{server} did not answer before the deadline")
            self._heard(SentinelAnswer(server, self._clock(), error=late))

    async def _ask_sentinel(self, endpoints: Endpoints, sentinel: Address, brief: bool) -> None:
        """Ask on the connection that is subscribed, or on another one while there is none."""
        sent = self._clock()
        subscribed = self._subscribed(sentinel)
        if subscribed is not None:
            until = self._in_full.get(sentinel, -inf) + IN_FULL * (IDLE if self._bell.idle else 1.0)
            await self._ask_subscribed(sentinel, *subscribed, sent, brief=brief and sent < until)
            return
        try:
            replies = await endpoints.get(sentinel).execute(question(self._book.service), sent + self._timeout)
        except UnavailableError as error:
            self._heard(SentinelAnswer(sentinel, sent, error=error))
        else:
            self._heard(parse_answer(self._book.service, sentinel, sent, replies, self._mapped))

    async def _ask_subscribed(
        self, sentinel: Address, connection: AsyncConnection, since: float, sent: float, *, brief: bool
    ) -> None:
        """It does not tell its own vote to a client that asks. It publishes the vote, ahead of its reply."""
        service, last = self._book.service, self._book.last(sentinel) if brief else None
        commands = question(service)
        try:
            replies = await connection.execute(commands if last is None else commands[:BRIEF], sent + PATIENCE)
        except UnavailableError as error:
            self._heard(SentinelAnswer(sentinel, sent, error=error))
            return
        for message in connection.pushes():
            self._take(sentinel, message)
        if last is None:
            answer = parse_answer(service, sentinel, sent, replies, self._mapped)
            self._in_full[sentinel] = sent
        elif (again := repeated(service, last, sent, replies, self._mapped)) is None:
            await self._ask_subscribed(sentinel, connection, since, self._clock(), brief=False)
            return
        else:
            answer = again
        self._heard(replace(answer, followed_since=since))

    def _subscribed(self, sentinel: Address) -> tuple[AsyncConnection, float] | None:
        """The connection that brings its events, if it takes questions too."""
        followed = self._followed.get(sentinel)
        return followed if followed is not None and followed[0].greeting.version >= RESP3 else None

    def _heard(self, answer: SentinelAnswer) -> None:
        self._answered(answer.sentinel, answer.error is None)
        self._book.heard(answer, self._clock())
        self._note(answer.sentinel, answer.error)
        self._tell()

    def _answered(self, server: Address, answered: bool) -> None:
        (self._silent.discard if answered else self._silent.add)(server)

    def _note(self, sentinel: Address, error: UnavailableError | None) -> None:
        """Tell of a sentinel in trouble. One answer that is late is none; and where all say the same (that they
        do not know the service, perhaps), the view has it as its problem."""
        missed = self._missed[sentinel] = 0 if error is None else self._missed.get(sentinel, 0) + 1
        if error is None:
            self._emit(events.SentinelAnswers(str(sentinel)))
        elif missed > 1 and self._book.view.problem is None:
            self._emit(events.SentinelSilent(str(sentinel), str(error)))

    async def _ask_role(self, endpoints: Endpoints, node: Address) -> None:
        sent = self._clock()
        commands: list[Command] = [("ROLE",)]
        try:
            (reply,) = await endpoints.get(node).execute(commands, sent + self._timeout)
            role = parse_role(reply)
        except UnavailableError:
            role = ""  # whoever uses the node meets the error, and the monitor reports it
        self._answered(node, bool(role))
        self._book.role(RoleReport(node, sent, role), self._clock())
        self._tell()

    # -- listening

    def _listen_to(self, sentinels: Iterable[Address]) -> None:
        wanted = tuple(sentinels)
        for address in [a for a in self._listeners if a not in wanted]:
            self._listeners.pop(address).cancel()
        for address in wanted:
            task = self._listeners.get(address)
            if task is None or task.done():
                self._listeners[address] = asyncio.ensure_future(self._listen(address))

    async def _listen(self, sentinel: Address) -> None:
        """Stay subscribed to one sentinel; for ever."""
        pause = FIRST_PAUSE
        while True:
            try:
                limit = self._clock() + self._sentinel_options.connect_timeout + self._timeout
                connection = await self._wire.connect(sentinel, self._sentinel_options, limit)
                try:
                    await connection.execute([("PSUBSCRIBE", *CHANNELS)], limit)
                    self._followed[sentinel] = connection, self._clock()
                    self._emit(events.SentinelHeard(str(sentinel)))
                    pause = FIRST_PAUSE
                    self._bell.ring()  # for what it said before anybody listened
                    await self._follow(sentinel, connection)
                finally:
                    connection.close()
                    self._followed.pop(sentinel, None)
            except UnavailableError as error:
                if isinstance(error, ServerError):  # its silence is noticed by asking
                    self._emit(events.SentinelMute(str(sentinel), str(error)))
            # Jitter: many processes lose the same sentinel at the same moment.
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _follow(self, sentinel: Address, connection: AsyncConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    message = await connection.next_push()
            except TimeoutError:
                await connection.execute([("PING",)], self._clock() + PATIENCE)
                continue
            self._take(sentinel, message)

    def _take(self, sentinel: Address, message: Sequence[Any]) -> None:
        vote = parse_vote(message)
        if vote is not None:
            self._book.voted(sentinel, *vote, self._clock())
        elif concerns(message, self._book.service):
            self._bell.ring()
