"""The chores of the background beside the tail: leases, holds, pending invalidations, forgetting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evercache.engine.holds import Holds
from evercache.engine.idleness import SELDOM
from evercache.engine.state import HeldLease
from evercache.errors import NoScript, ServerChanged, ServerError, UnavailableError
from evercache.observe import events
from evercache.protocol.commands import ScriptCall, in_full
from evercache.protocol.journal import Pending
from evercache.protocol.lease import RENEW_EVERY
from evercache.protocol.replies import parse_invalidate, parse_renew
from evercache.protocol.types import Reply

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["Chores"]

#: Seconds between two visits, and while nothing is under way.
_TICK, _QUIET_TICK = 0.1, 0.2
#: Leases that are being given back at one time, and for how long that is tried (seconds).
_RELEASES, _RELEASING = 200, 5.0
#: Leases that wait for that: an error can end a thousand computations, one inside the other, at one moment.
_UNRELEASED = 10_000


class Chores:
    """Owned by the background; runs on its loop only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = asyncio.Event()
        self._releases: set[asyncio.Task[None]] = set()
        self._unreleased: list[tuple[str, str]] = []
        self.holds = Holds(engine, self._run)

    def attach(self) -> None:
        """Begin on another loop: the tasks ended with the last one."""
        self._wake = asyncio.Event()
        self._releases = set()

    @property
    def busy(self) -> bool:
        """Whether leases or holds are to be released."""
        return bool(self._unreleased or self._releases or self.holds.busy)

    def release_later(self, leases: Sequence[tuple[str, str]]) -> None:
        """Give back leases (key, token) of a computation that came to nothing. On the background's loop only."""
        self._unreleased += leases[: _UNRELEASED - len(self._unreleased)]
        self._release_more()

    def _release_more(self, ended: asyncio.Task[None] | None = None) -> None:
        """Release what waits, with what else came meanwhile, unless that is being done too often already."""
        if ended is not None:
            self._releases.discard(ended)
        if self._unreleased and len(self._releases) < _RELEASES:
            leases, self._unreleased = self._unreleased, []
            task = asyncio.get_running_loop().create_task(self._release(leases))
            self._releases.add(task)
            task.add_done_callback(self._release_more)

    async def _release(self, leases: Sequence[tuple[str, str]]) -> None:
        state = self._engine.state
        end = state.now() + _RELEASING
        pause = 0.02
        while state.now() < end:
            if state.ready and not state.master_down:
                release, replid, newest = self._engine.commands.release, state.generation, state.marks.newest
                calls = [release(key, replid=replid, newest=newest, token=token) for key, token in leases]
                with contextlib.suppress(UnavailableError):
                    await self._run(calls, state.now() + 0.5)
                    return
                pause = min(2.0 * pause, 0.5)
            await asyncio.sleep(pause * (0.5 + state.rng.random()))
        # It ends by itself, one lease length after its last renewal.

    def wake(self) -> None:
        """There is something to bring. On the background's loop only."""
        self._wake.set()

    async def renew(self) -> None:
        """Keep the leases of computations under way alive (rule 13), and reclaim what interrupted calls left."""
        state, idleness = self._engine.state, self._engine.idleness
        while True:
            await idleness.pause(_TICK if idleness.busy else _QUIET_TICK, SELDOM)
            now = state.now()
            self._reclaim()
            self._engine.watch.look(now)
            self._engine.replica_logs.visit()
            for endpoint in self._engine.sync_endpoints.all():
                endpoint.sweep()
            for lease in list(state.leases.values()):
                lease.visit(now)
            due = [lease for lease in list(state.leases.values()) if self._renewable(lease, now)]
            if due:
                await asyncio.gather(*(self._renew(lease) for lease in due))
            await self.holds.visit()
            idleness.look(now)

    def _reclaim(self) -> None:
        leases, holds, unsent = self._engine.state.reclaim()
        if leases:
            self.release_later(leases)
        for hold in holds:
            self.holds.let_go_later(hold)
        if unsent:
            self._wake.set()

    def _renewable(self, lease: HeldLease, now: float) -> bool:
        if lease.lost or not lease.running or now - lease.granted > self._engine.settings.max_compute:
            return False
        return now - lease.renewed >= RENEW_EVERY - _TICK / 2

    async def _renew(self, lease: HeldLease) -> None:
        engine = self._engine
        sent = engine.state.now()
        call = engine.commands.renew(
            lease.key,
            replid=engine.state.generation,
            newest=engine.state.marks.newest,
            token=lease.token,
            lease_ms=int(lease.lease * 1000),
        )
        try:
            reply = parse_renew((await self._run([call], sent + RENEW_EVERY))[0])
        except UnavailableError:
            return  # tried again at the next tick; the tail notices a dead master
        if reply.status == "ok":
            lease.renewed = sent
        elif reply.status == "lost":
            lease.lost = True
            engine.events.emit(events.LeaseLost(lease.key))

    def take_spooled(self) -> None:
        """What earlier processes left in the file of `spool=` is pending from now on."""
        left, state = self._engine.spool.load(), self._engine.state
        with state.lock, state.change:
            for item in left:
                state.journal.pending[item.id] = item
                state.near.hear(item.scope)
                state.flights.detach(item.scope)
            state.marks.version += 1  # what was found fresh may be outdated by them
            state.reading = {}
            state.leave_route()

    async def bring(self) -> None:
        """Bring pending invalidations to the master as soon as there is one (rule 4)."""
        state, spool = self._engine.state, self._engine.spool
        pause = 0.02
        while True:
            if spool.late:
                self.take_spooled()
            spool.settle(state.journal.pending.values())
            if not state.journal.pending:
                if self._engine.events.open:
                    self._engine.events.emit(events.QueueEmptied())
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), 2 * SELDOM if state.idle else 0.5)
                except TimeoutError:
                    continue
            if not state.ready or self._engine.view.master is None:
                await asyncio.sleep(0.01)
                continue
            due = state.journal.due(state.now())
            for item in due:
                try:
                    await self._bring(item)
                    pause = 0.02
                except UnavailableError as error:
                    count = len(state.journal.pending)
                    self._engine.events.emit(events.InvalidationQueued(count, str(error)))
                    pause = min(pause * 2, 0.5)
                    break
            await asyncio.sleep(pause * (0.5 + state.rng.random()))

    async def _bring(self, item: Pending) -> None:
        engine = self._engine
        state = engine.state
        if item.id not in state.journal.pending:
            return  # heard meanwhile: somebody else brought it
        call = engine.commands.invalidate(
            item.scope,
            replid=state.generation,
            newest=state.marks.newest,
            id=item.id,
            function=item.function,
        )
        reply = parse_invalidate((await self._run([call], state.now() + 0.5))[0])
        if reply.status == "GEN":
            engine.changed_generation(reply.replid)
            raise ServerChanged("the master's data began another life")
        state.acknowledged(item, reply.stamp, reply.replid)

    async def forget(self) -> None:
        """Forget marks and journal lines that are safe to forget."""
        while True:
            await asyncio.sleep(2 * SELDOM if self._engine.state.idle else 1.0)
            self._engine.state.expire()

    async def _run(self, calls: Sequence[ScriptCall], deadline: float) -> list[Reply]:
        master = self._engine.view.master
        if master is None:
            raise UnavailableError("no master is known")
        endpoint, book = self._engine.async_endpoints.get(master), self._engine.bookkeeping
        replies = await endpoint.execute([call.evalsha() for call in calls], deadline)
        if any(isinstance(reply, NoScript) for reply in replies):
            replies = await endpoint.execute(in_full(calls), deadline)
        self._engine.still_kept_in(book)
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies
