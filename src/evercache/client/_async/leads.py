"""Leading: the trip to the master for one key, and refreshes in the background."""

from __future__ import annotations

from typing import Any

from evercache.client import telling
from evercache.client._async.computing import AsyncComputing
from evercache.client._async.link import AsyncLink
from evercache.client._async.writes import AsyncWrites
from evercache.client.request import Request
from evercache.client.waits import AsyncSpawner, AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.flights import Flight, Outcome
from evercache.errors import CorruptEnvelope, MasterUnknown, UnavailableError
from evercache.observe import events
from evercache.protocol.envelope import Envelope, unpack
from evercache.protocol.lease import Waiting, wait_limit
from evercache.protocol.replies import LeaseReply, parse_lease

__all__ = ["AsyncLeads"]


class AsyncLeads(AsyncComputing):
    """Background refreshes under way are in `_refreshing`, under the lock of the state."""

    def __init__(self, engine: Engine, link: AsyncLink, writes: AsyncWrites) -> None:
        super().__init__(engine, link)
        self.writes = writes
        self.spawner = AsyncSpawner()
        self._refreshing: set[str] = set()

    def __repr__(self) -> str:
        return f"<AsyncLeads of {self._engine!r} refreshing={len(self._refreshing)}>"

    def after_fork(self) -> None:
        """In the child: the parent's refreshes are not here."""
        self._refreshing = set()
        self.spawner.forget()

    async def lead(self, request: Request, need: int, deadline: float, flight: Flight) -> Outcome | None:
        """Fetch or compute one key for everybody in this process; None: begin again."""
        state, subject, policy = self._state, request.subject, request.policy
        token = state.new_id()
        waiting = Waiting()
        waited = 0.0
        left: float | None = None
        while True:
            if state.journal.covers(subject):
                break  # nothing a server says can be believed, and nothing can be stored
            resyncs = state.resyncs
            try:
                reply = await self._ask(request, need, token, deadline)
            except UnavailableError as error:
                self._engine.failed(error, request.counters)
                if policy.on_error == "raise":
                    raise
                break
            if resyncs != state.resyncs:
                continue  # an answer to a question from before a resync proves nothing (rule 5)
            entry = self._readable(request, reply)
            tags = () if entry is None else entry.tags
            covered = state.journal.covers(subject, tags) or not self._engine.may_serve(state.now())
            known = state.marks.need(subject, tags)
            if reply.status == "entry":
                if entry is None or covered:
                    break  # of a later version: neither read nor overwritten
                if entry.stamp < known:  # heard while the answer was on its way
                    need = max(need, known)
                    continue
                return self._hit(request, entry, resyncs)
            alive = entry is not None and not covered and entry.stamp >= known
            usable = entry if alive and entry and self._stale_for(entry, reply) <= policy.stale else None
            if reply.status == "lead":
                if usable is not None:
                    self._refresh_under(request, token, reply, usable)
                    return self._stale(request, usable)
                request.counters.misses += 1
                left = deadline - state.now()
                return await self.compute_leased(request, token, reply.stamp, left, entry, reply, flight)
            if usable is not None:
                return self._stale(request, usable)
            expected = max(reply.expected_ms / 1e3, request.usual.seconds)
            if waited > wait_limit(expected, self._engine.settings.max_compute):
                break
            pause = waiting.pause(
                lease_left=reply.left_ms / 1e3,
                elapsed=reply.elapsed_ms / 1e3,
                expected=expected,
                draw=state.rng.random(),
            )
            began = state.now()
            # To wait for a computation is the function's own time, not the cache's: each later question, and then
            # the store, has what the first one left of the budget.
            left = deadline - began if left is None else left
            await AsyncWaits.pause(pause)
            waited += state.now() - began
            flight.spent += state.now() - began
            deadline = state.now() + left
            need = max(need, state.marks.need(subject))
        return await self._without_master(request, flight)

    async def _ask(self, request: Request, need: int, token: str, deadline: float, seen: str = "") -> LeaseReply:
        state, commands, subject = self._state, self._engine.commands, request.subject
        try:
            raw = await self._link.run(
                lambda replid, newest: commands.lease(
                    subject,
                    replid=replid,
                    newest=newest,
                    least=max(need, state.marks.need(subject)),
                    token=token,
                    lease_ms=self._lease_ms(request),
                    seen=seen,
                    expected_ms=int(request.usual.seconds * 1000),
                    # 0, no limit, where the master's time is not known yet.
                    not_after_us=state.clock.server_us(deadline) or 0,
                ),
                deadline,
            )
        except BaseException as error:
            # Given up or cancelled: it may have been granted (a frozen master does so when it thaws), and nobody
            # need wait for it to run out.
            if not isinstance(error, UnavailableError) or error.maybe_run:
                self._engine.release_soon(subject.key, token)
            raise
        reply = parse_lease(raw)
        state.learn(subject, reply.marks)
        if reply.status == "late":
            state.clock_was_wrong(reply.now_us)
            raise MasterUnknown("the request for the lease arrived too late and was refused")
        return reply

    def _lease_ms(self, request: Request) -> int:
        if self._state.local:  # one process: nobody else would take over
            return int(self._engine.settings.max_compute * 1000)
        return int(request.usual.lease * 1000)

    def _readable(self, request: Request, reply: LeaseReply) -> Envelope | None:
        if reply.entry is None:
            return None
        try:
            envelope = unpack(reply.entry)
        except CorruptEnvelope as error:
            telling.corrupt(self._engine, request.subject, request.counters, error)
            return None
        if not envelope.readable:
            telling.newer(self._engine, request.subject, request.counters)
            return None
        return envelope

    def _hit(self, request: Request, entry: Envelope, resyncs: int) -> Outcome:
        request.counters.master_hits += 1
        if request.policy.near:
            self._state.put_near(request.subject, entry, request.policy.near, resyncs)
        return Outcome(entry.stamp, "master", entry)

    def _stale(self, request: Request, entry: Envelope) -> Outcome:
        request.counters.stale_served += 1
        return Outcome(entry.stamp, "master", entry, stale=True)

    async def _without_master(self, request: Request, flight: Flight) -> Outcome:
        """No master can be asked: the gutter, or the function, once per key in this process."""
        state, subject = self._state, request.subject
        kept = None
        if self._engine.settings.consistency == "available":  # strict: others may have invalidated it, unheard
            with state.lock:
                kept = state.gutter.get(subject.key, state.now())
        if kept is not None and state.acceptable(kept, subject, state.marks.need(subject)):
            request.counters.gutter_hits += 1
            self._engine.events.emit(events.GutterUsed())
            return Outcome(kept.stamp, "gutter", kept.envelope, sequence=kept.sequence)
        outcome = await self.compute_plain(request, flight)
        if outcome.envelope is not None and (state.master_down or not state.ready):
            with state.lock:
                state.gutter.put(subject, outcome, state.now())
        return outcome

    # -- refreshing

    def refresh_in_background(self, request: Request, seen: Envelope) -> None:
        """Recompute a key while its present value is served; one refresh per key and process."""
        key = request.subject.key
        with self._state.lock:
            if key in self._refreshing or not self._state.ready:
                return
            self._refreshing.add(key)
        self._spawn(request, lambda: self._refresh(request, seen))

    def _spawn(self, request: Request, work: Any) -> None:
        key = request.subject.key

        async def job() -> None:
            try:
                await work()
            except Exception as error:  # a mistake in cache_if=, ttl= or tags_from=: no caller sees it
                self._engine.events.emit(events.RefreshFailed(request.subject.label, key, repr(error)))
            finally:
                with self._state.lock:
                    self._refreshing.discard(key)

        try:
            self.spawner.spawn(job)
        except RuntimeError:  # the interpreter or the loop is ending
            with self._state.lock:
                self._refreshing.discard(key)

    async def _refresh(self, request: Request, seen: Envelope) -> None:
        state = self._state
        token = state.new_id()
        need = state.marks.need(request.subject)
        deadline = state.now() + request.policy.budget
        try:
            reply = await self._ask(request, need, token, deadline, seen.id.hex())
        except UnavailableError as error:
            self._engine.failed(error, request.counters)
            return
        if reply.status == "lead":
            await self._compute_refresh(request, token, reply.stamp)

    def _refresh_under(self, request: Request, token: str, reply: LeaseReply, stale: Envelope) -> None:
        """The lease came with a stale value that may be served: compute in the background."""
        with self._state.lock:
            self._refreshing.add(request.subject.key)
        self._spawn(request, lambda: self._compute_refresh(request, token, reply.stamp))

    async def _compute_refresh(self, request: Request, token: str, stamp: int) -> None:
        request.counters.refreshed += 1
        outcome = await self.compute_leased(request, token, stamp, request.policy.budget)
        if outcome.error is not None:
            subject = request.subject
            self._engine.events.emit(events.RefreshFailed(subject.label, subject.key, repr(outcome.error)))

    async def refresh_now(self, request: Request) -> Outcome:
        """Compute now and store, whatever is cached; the caller gets what the function returned."""
        state, subject = self._state, request.subject
        if not self._engine.start():
            return await self.compute_plain(request)
        deadline = state.now() + request.policy.budget
        need, seen, waited = state.marks.need(subject), "", 0.0
        waiting = Waiting()
        token = state.new_id()
        while True:
            try:
                reply = await self._ask(request, need, token, deadline, seen)
            except UnavailableError as error:
                self._engine.failed(error, request.counters)
                if request.policy.on_error == "raise":
                    raise
                return await self.compute_plain(request)
            if reply.status == "lead":
                return await self.compute_leased(request, token, reply.stamp, deadline - state.now())
            if reply.status == "entry":
                entry = self._readable(request, reply)
                if entry is None or waited > self._engine.settings.max_compute:
                    return await self.compute_plain(request)
                seen = entry.id.hex()
                continue
            # Somebody computes now, but may have begun before what this caller wants to see.
            began = state.now()
            await AsyncWaits.pause(
                waiting.pause(
                    lease_left=reply.left_ms / 1e3,
                    elapsed=reply.elapsed_ms / 1e3,
                    expected=reply.expected_ms / 1e3,
                    draw=state.rng.random(),
                )
            )
            waited += state.now() - began
            if waited > wait_limit(request.usual.seconds, self._engine.settings.max_compute):
                return await self.compute_plain(request)
            deadline = state.now() + request.policy.budget
