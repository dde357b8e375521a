"""The tail: follows the log of invalidations on the master (rules 5, 14 and 18).

One per process and cache, on the background's event loop, on a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from evercache.engine.state import Why
from evercache.errors import (
    DeadlineExceeded,
    Loading,
    NoScript,
    ProtocolError,
    ReadOnly,
    ServerError,
    UnavailableError,
)
from evercache.net.greeting import parse_time
from evercache.net.types import AsyncConnection
from evercache.observe import events
from evercache.protocol.balance import Share
from evercache.protocol.commands import mark_member
from evercache.protocol.replies import LogLine, parse_log, parse_marks, parse_resync
from evercache.protocol.scope import FUNCTION, TAG, Scope
from evercache.protocol.types import Address, Reply
from evercache.topology.facts import NodeFacts, parse_replication

if TYPE_CHECKING:
    from evercache.engine.engine import Engine
    from evercache.protocol.commands import ScriptCall

__all__ = ["Tail"]

#: Lines asked for in one read, and marks in one page.
COUNT = 500
PAGE = 1_000
#: A read that is late by this much (seconds) is given up: the master is frozen, or cut off.
PATIENCE = 0.3
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.020
#: Lines that are there come right behind the name of the last one, not later than this (seconds).
_BEHIND = 0.010
#: The position before the first line.
_START = "0-0"
#: Resyncs in quick succession: the share of its time that a process spends on them, and how many seconds of them
#: are free after a quiet time. A log that is evicted all the time wants more, and must not load the master.
_SHARE, _FREE = 0.02, 0.05
#: For how long one is put off at most (seconds), and the same while a call waits for it.
_LONGEST_DELAY, _LONGEST_AWAITED = 0.25, 0.02
#: How often it looks whether a call has begun to wait (seconds).
_LOOK = 0.005
#: Between two attempts to reach a master that is dead or loading (seconds, half as much again at most): for so long
#: others may have invalidations acknowledged by it, once it serves, of which this process hears nothing.
_LONGEST_WAIT = 0.06
#: For one page of marks (seconds).
_PAGE_TIME = 0.6


class _Page(Struct, frozen=True):
    """Marks, oldest first; the floors that stand for marks that were dropped, read after them; the next page."""

    marks: tuple[tuple[Scope, int], ...]
    everything: int
    tag_floor: int
    more: tuple[int, int] | None


class Tail:
    """Owned by the background; its state is touched by the background's loop only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        #: Whether the end of the connection is `interrupt`'s doing: no trouble of the master's.
        self._interrupted = False
        self._failures = 0
        #: When the newest request was sent, a read that may block: when its reply was due.
        self._due = float("-inf")
        self._resyncs = Share(_SHARE, _FREE)
        #: Fires where a read waits for lines that are gone.
        self._waits_in_vain: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Tail of {self._engine!r} {'connected' if self._connection else 'not connected'}>"

    def attach(self) -> None:
        """Begin on another loop: the connection ended with the last one."""
        self._connection = self._waits_in_vain = None
        self._give_up_learning(self._engine.state.resyncs)

    def interrupt(self) -> None:
        """What it reads from is not to be relied on: leave it at once. On the background's loop only."""
        if self._connection is not None:
            self._interrupted = True
            self._connection.close()

    async def run(self) -> None:
        """Follow whichever master is the present one, until cancelled."""
        engine = self._engine
        while True:
            address = engine.view.master
            if address is None:
                await engine.view_changed(0.2)
                continue
            try:
                await self._follow(address)
            except UnavailableError as error:
                if not self._interrupted:
                    self._met(address, error)
            pause = min(_LONGEST_WAIT, 0.01 * 2 ** min(self._failures, 5))
            if self._interrupted and engine.view.master == address:
                pause = _SHORTEST_PAUSE  # nothing is wrong with the master
            await engine.view_changed(pause * (0.5 + engine.state.rng.random()))

    def _met(self, address: Address, error: UnavailableError) -> None:
        engine = self._engine
        refused = isinstance(error, ServerError) and not isinstance(error, (ReadOnly, Loading))
        if engine.view.master == address and (refused or not engine.state.ready):
            self._failures += 1
        if refused and engine.state.ready and isinstance(error, ServerError):
            engine.log_refused(address, error)
        elif isinstance(error, DeadlineExceeded) and engine.state.answered > self._due:
            # Others were answered meanwhile: this connection has stalled, and the master serves. Calls that took it
            # for dead would compute what is cached.
            engine.idleness.wake()
        else:
            engine.master_trouble(address, error)

    async def _follow(self, address: Address) -> None:
        engine = self._engine
        state = engine.state
        self._interrupted = False
        self._due = state.now()
        connection = await engine.connect_tail(address)
        self._connection = connection
        end = asyncio.ensure_future(self._notice_end(connection))
        try:
            greeting = connection.greeting
            if greeting.role != "master":
                engine.topology.nudge()
                raise UnavailableError(f"{address} says that it is a {greeting.role}, not a master")
            with state.lock:
                state.observe_time(greeting.time_us, greeting.received)
            if state.generation != greeting.replid:
                self._resyncs = Share(_SHARE, _FREE)  # that of a failover comes at once
                if state.same_data:
                    state.unready(master=True)
            pause = _SHORTEST_PAUSE
            while engine.view.master == address:
                if not state.ready:
                    engine.idleness.wake()
                    await self._may_resync()
                    began, page = await self._resync(connection, address)
                    engine.master_heard(address)
                    if state.unread and not await self._learn(connection, address, began, page):
                        continue
                began = state.now()
                if state.idle:
                    await engine.idleness.pause(0.0, engine.idleness.poll)
                    began = state.now()
                # Just woken: what is logged by now must be known first.
                current = state.covers >= state.awake_since
                busy = await self._read(connection, address, engine.settings.block if current else 0.0)
                engine.master_heard(address)
                self._failures = 0
                if busy:
                    # Under a stream of lines fewer, larger reads: 400 blocked readers are the master's load.
                    often = state.now() - began < _LONGEST_PAUSE
                    pause = min(pause * 1.5, _LONGEST_PAUSE) if often else max(pause / 2, _SHORTEST_PAUSE)
                    await asyncio.sleep(pause * (0.5 + state.rng.random()))
        finally:
            self._connection = None
            connection.close()
            end.cancel()

    async def _notice_end(self, connection: AsyncConnection) -> None:
        """An idle process learns at once that the connection to the master has ended."""
        with contextlib.suppress(UnavailableError):
            while True:
                await connection.next_push()
        self._engine.idleness.wake()

    async def _may_resync(self) -> None:
        """Put a resync off that comes soon after others; not for long while a call waits for it."""
        state = self._engine.state
        while True:
            wait = self._resyncs.wait(state.now(), _LONGEST_AWAITED if state.awaited else _LONGEST_DELAY)
            if not wait or self._interrupted:
                return
            await asyncio.sleep(min(wait, _LOOK) * (0.5 + state.rng.random()))

    async def _read(self, connection: AsyncConnection, address: Address, block: float) -> bool:
        """One read, which waits up to `block` seconds for lines; True when there were lines."""
        engine = self._engine
        state, keys = engine.state, engine.bookkeeping
        # Before it is sent: a call may hear of the first mark of all while the reply, which has none, is under way.
        knew_marks = self._knows_marks()
        commands = [
            ("HMGET", keys.state, "life", "last", "data"),
            engine.commands.tail(state.position, count=COUNT, block_ms=int(block * 1000)),
            ("INFO", "replication"),
        ]
        # The first answer is from before the wait.
        commands.append(("HMGET", keys.state, "life", "data") if block else ("TIME",))
        if knew_marks:
            commands.append(("EXISTS", keys.marks))
        sent = state.now()
        self._due = sent + block
        try:
            first = self._look_ahead if block else None
            replies = await connection.execute(commands, sent + block + PATIENCE, first=first)
        finally:
            if self._waits_in_vain is not None:
                self._waits_in_vain.cancel()
                self._waits_in_vain = None
        (life, last, data), log, info, *more = _checked(replies)
        if block:
            life, data = more[0]
        time_us = None if block else parse_time(more[0])
        arrived = state.now()
        facts = parse_replication(info)
        if facts.role != "master" or facts.replid != state.generation:
            # Another life of the data behind a live connection: what was read covers nothing (rule 5).
            state.unready()
            return False
        if not state.ready:
            return False
        try:
            lines = parse_log(log)
        except ProtocolError:  # a line that cannot be read may have invalidated anything
            state.unready("unreadable")
            return False
        evicted = knew_marks and not more[-1]
        if not self._take(lines):
            state.unready("gap")
            return False
        # Nothing says any more that this is the bookkeeping, and somebody may say so of another one first.
        moved = str(keys.data_db) not in _text(data).split()
        if not self._same_life(life, bool(lines)) or evicted or moved:
            state.unready("life")
            return False
        if not lines and (_text(last) or _START) != state.position:
            state.unready("gap")
            return False
        if not lines:
            covers = min(sent + block, arrived)
        elif len(lines) < COUNT:
            covers = sent
        else:
            return True
        with state.lock:
            if state.ready:
                state.covers = max(state.covers, covers)
        if not block:
            run_id = connection.greeting.run_id
            engine.monitor.told(NodeFacts(address, sent, arrived, facts, run_id, time_us=time_us))
        return bool(lines)

    def _look_ahead(self, named: Reply | ServerError) -> None:
        """What the state names is answered before the read behind it, which may block.

        If the last line is not the one at the position, the read brings it at once, unless the log was evicted
        meanwhile: then nothing but the next line would end it.
        """
        if isinstance(named, list):
            life, last = map(_text, named[:2])
            if (last or _START) != self._engine.state.position:
                why: Why = "gap" if life == self._engine.state.known_life else "life"
                self._waits_in_vain = asyncio.get_running_loop().call_later(_BEHIND, self._evicted, why)

    def _evicted(self, why: Why) -> None:
        """Do not wait with it: the end of the connection ends the read as well."""
        self._engine.state.unready(why)
        self.interrupt()

    def _take(self, lines: tuple[LogLine, ...]) -> bool:
        """Hear the lines in order; False at a gap."""
        state = self._engine.state
        for line in lines:
            if line.previous != state.position:
                return False
            state.hear_line(line)
            state.position = line.log_id
        return True

    def _same_life(self, life: bytes | str | None, any_lines: bool) -> bool:
        """Whether the bookkeeping is still the one that was read (`FLUSHALL` and wiped restarts change it)."""
        state = self._engine.state
        seen = _text(life)
        if not state.known_life and any_lines:
            state.known_life = seen  # the first invalidation created it
        return seen == state.known_life

    def _knows_marks(self) -> bool:
        marks = self._engine.state.marks
        return bool(marks.functions or marks.tags)

    async def _resync(self, connection: AsyncConnection, address: Address) -> tuple[float, _Page]:
        """Learn everything anew. Returns when that began, and the last page of marks that was read."""
        engine = self._engine
        state = engine.state
        # What it knows of the life before: calls may hear of a new one while this is under way.
        before, newest, knew_marks = state.known_life, state.marks.newest, self._knows_marks()
        began = state.now()
        deadline = began + 5.0
        reply = parse_resync(
            await self._run(connection, engine.commands.resync(replid="", newest=newest), deadline)
        )
        if reply.status == "elsewhere":
            engine.use_bookkeeping(reply.book)
            self.interrupt()  # this connection is in the database that others do not use
            raise UnavailableError(f"the bookkeeping is in database {reply.book}")
        with state.lock:
            state.observe_time(reply.now_us, state.now(), began)
        page = await self._page(connection, 0, PAGE, deadline)
        marks = list(page.marks)
        while page.more is not None and engine.settings.consistency == "strict":  # a blind process serves nothing
            page = await self._page(connection, *page.more, deadline)
            marks += page.marks
        another = bool(before) and reply.life != before
        if another or (knew_marks and not marks):
            await self._restore(connection, reply.replid, newest, deadline, knew_another=another)
        # Read since `began`: whatever is logged from then on stands behind the position.
        unread = page.more is not None
        state.hear_marks((), page.everything, page.tag_floor)
        lost = state.resynced(reply, connection.greeting.run_id, marks, began, unread=unread)
        self._resyncs.used(began, state.now())
        engine.resynced(address, lost)
        return began, page

    async def _learn(self, connection: AsyncConnection, address: Address, began: float, first: _Page) -> bool:
        """Read the marks behind the first page while calls ask the master; False if the resync no longer counts.

        A process with 100,000 marks would otherwise keep its first callers waiting for half a second.
        """
        state, page, rest = self._engine.state, first, _LONGEST_PAUSE
        resyncs = state.resyncs
        try:
            while page.more is not None:
                # As long a rest as the work took: the calls of this process have the interpreter in between.
                await asyncio.sleep(rest)
                started = state.now()
                page = await self._page(connection, *page.more, started + _PAGE_TIME)
                if not state.ready or state.resyncs != resyncs:
                    return False
                self._engine.master_heard(address)
                state.hear_marks(page.marks, page.everything, page.tag_floor)
                rest = min(state.now() - started, _LONGEST_PAUSE)
        except BaseException:
            self._give_up_learning(resyncs)
            raise
        state.learnt(began)
        return True

    def _give_up_learning(self, resyncs: int) -> None:
        """Begin with another resync: marks that were not read may have been folded by then."""
        state = self._engine.state
        if state.unread and state.resyncs == resyncs:
            state.unready(state.unready_why)

    async def _page(self, connection: AsyncConnection, start: int, count: int, deadline: float) -> _Page:
        """Up to `count` marks from a stamp on, oldest first: no single command holds the master for long."""
        commands, state = self._engine.commands, self._engine.bookkeeping.state
        self._due = self._engine.state.now()
        asked = [commands.marks_page(start, count=count), ("HMGET", state, "*", "tagfloor")]
        reply, floors = _checked(await connection.execute(asked, deadline))
        marks, (everything, tag_floor) = parse_marks(reply), [int(_text(floor) or 0) for floor in floors]
        more = None
        if len(marks) == count:
            # The next page begins at the last stamp; where a whole page has one stamp, it must reach further.
            more = marks[-1][1], PAGE if marks[-1][1] > start else 2 * count
        return _Page(marks, everything, tag_floor, more)

    async def _restore(
        self, connection: AsyncConnection, replid: str, newest: int, deadline: float, *, knew_another: bool
    ) -> None:
        """The bookkeeping is gone: write back what this process remembers (rule 18)."""
        engine = self._engine
        marks = engine.state.marks
        members = [(mark_member(scope), stamp) for scope, stamp in marks.scopes() if scope.kind in (FUNCTION, TAG)]
        for start in range(0, max(len(members), 1), PAGE):
            call = engine.commands.restore(
                members[start : start + PAGE],
                replid=replid,
                newest=newest,
                everything=marks.everything,
                tagfloor=marks.tag_floor,
                knew_another=knew_another,
            )
            await self._run(connection, call, deadline)
        if engine.state.unready_why != "flush":
            engine.events.emit(events.MarksRestored(len(members)))

    async def _run(self, connection: AsyncConnection, call: ScriptCall, deadline: float) -> Any:
        self._due = self._engine.state.now()
        (reply,) = await connection.execute([call.evalsha()], deadline)
        if isinstance(reply, NoScript):
            (reply,) = await connection.execute([call.eval()], deadline)
        return _checked([reply])[0]


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, ServerError):
            raise reply
    return replies
