"""Leading: the trip to the master for one key, and refreshes in the background."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from msgspec import Struct

from evercache.client import telling
from evercache.client._async.computing import AsyncComputing
from evercache.client._async.link import AsyncLink, Build
from evercache.client._async.writes import AsyncWrites
from evercache.client.request import Request

# sync-only:
# from evercache.client.waits import drive
# end sync-only
from evercache.client.waits import AsyncSpawner, AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.flights import PROMPT, Flight, Outcome, Owner
from evercache.errors import CorruptEnvelope, MasterUnknown, UnavailableError
from evercache.observe import events
from evercache.protocol.canonical import shown
from evercache.protocol.commands import Ask
from evercache.protocol.envelope import Envelope, own_id, unpack
from evercache.protocol.lease import Waiting, wait_limit
from evercache.protocol.replies import LeaseReply, parse_lease
from evercache.protocol.scope import Subject

__all__ = ["Answer", "AsyncLeads"]


class Answer(Struct, frozen=True):
    """What an answer of the lease script is good for.

    `useless`: an entry of a later version, neither read nor overwritten. `damaged`: an entry of this version that
    cannot be read; ask again, as one who has `seen` it. `outdated`: a mark was heard while it was on its way; ask
    again, with what is `known`. `hit`, `stale`: the entry may be served. `none`: compute or wait.
    """

    verdict: Literal["useless", "damaged", "outdated", "hit", "stale", "none"]
    known: int
    entry: Envelope | None = None
    seen: str = ""


class AsyncLeads(AsyncComputing):
    """Background refreshes under way are in `State.refreshing`."""

    def __init__(self, engine: Engine, link: AsyncLink, writes: AsyncWrites) -> None:
        super().__init__(engine, link)
        self.writes = writes
        self.spawner = AsyncSpawner()

    def __repr__(self) -> str:
        return f"<AsyncLeads of {self._engine!r} refreshing={len(self._state.refreshing)}>"

    def after_fork(self) -> None:
        """In the child: the parent's refreshes are not here."""
        self.spawner.forget()

    async def lead(self, request: Request, need: int, deadline: float, flight: Flight) -> Outcome | None:
        """Fetch or compute one key for everybody in this process; None: begin again."""
        state, subject, policy = self._state, request.subject, request.policy
        token = state.ask_for(flight)
        waiting = Waiting()
        waited, seen = 0.0, ""
        left: float | None = None
        # A lease came with an answer that proved nothing: it is ours, and others would wait for it to run out.
        granted = False
        while True:
            if state.journal.covers(subject) and not await self._uncovered(subject, deadline):
                break  # nothing a server says can be believed, and nothing can be stored
            resyncs, asked = state.resyncs, state.now()
            try:
                reply = await self._ask(request, need, token, deadline, seen)
            except UnavailableError as error:
                self._engine.failed(error, request.counters)
                if policy.on_error == "raise":
                    self._release(request, token, granted)
                    raise
                break
            if resyncs != state.resyncs:
                granted = granted or reply.status == "lead"
                continue  # an answer to a question from before a resync proves nothing (rule 5)
            answer = self._weigh(request, reply)
            if answer.verdict == "useless":
                break
            if answer.verdict == "outdated":
                need = max(need, answer.known)
                continue
            if answer.verdict == "damaged":
                seen = answer.seen
                continue
            entry = answer.entry
            if answer.verdict == "hit" and entry is not None:
                return self._hit(request, entry, resyncs, reply.marks.tip)
            if reply.status == "lead":
                if answer.verdict == "stale" and entry is not None:
                    self._refresh_under(request, token, reply)
                    return self._stale(request, entry)
                request.counters.misses += 1
                left = deadline - state.now()
                return await self.compute_leased(request, token, reply.stamp, left, entry, reply, flight)
            if answer.verdict == "stale" and entry is not None:
                return self._stale(request, entry)
            if reply.status == "held":
                return await self.compute_plain(request, flight, held=True)
            expected = max(reply.expected_ms / 1e3, request.usual.seconds)
            if waited > wait_limit(expected, self._engine.settings.max_compute) or state.waits_for_itself(flight):
                break
            pause = waiting.pause(
                lease_left=reply.left_ms / 1e3,
                elapsed=reply.elapsed_ms / 1e3,
                expected=expected,
                draw=state.rng.random(),
            )
            began = state.now()
            # To wait for a computation is the function's own time, not the cache's: each later question, and then
            # the store, has what the first one left of the budget, and what later ones were late by is gone too.
            late = began - asked
            if left is None:
                left = deadline - began
            else:
                left -= max(0.0, late - PROMPT)
                flight.spent += min(late, PROMPT)
            flight.waits(began + pause)
            await AsyncWaits.pause(pause)
            now = state.now()
            waited += now - began
            flight.asks(now, now - began)
            deadline = now + left
            need = max(need, state.marks.need(subject))
        self._release(request, token, granted)
        return await self.without_master(request, flight)

    async def _uncovered(self, subject: Subject, deadline: float) -> bool:
        """Whether nothing outdates what servers say of a subject once all has been read anew: until then all that
        was recorded does (rule 5), and a resync takes less time than most functions."""
        state = self._state
        if state.journal.suspended and not state.ready and not state.master_down:
            await AsyncWaits.result(state.when_ready(), (deadline - state.now()) * 0.8)
        return not state.journal.covers(subject)

    def _release(self, request: Request, token: str, granted: bool) -> None:
        if granted:
            self._engine.release_soon((request.subject.key, token))

    async def _ask(self, request: Request, need: int, token: str, deadline: float, seen: str = "") -> LeaseReply:
        state, subject = self._state, request.subject
        try:
            raw = await self._link.run(self._lease_call([(request, need, token, seen)], deadline), deadline)
        except BaseException as error:
            # Given up or cancelled: it may have been granted (a frozen master does so when it thaws), and nobody
            # need wait for it to run out.
            if not isinstance(error, UnavailableError) or error.maybe_run:
                self._engine.release_soon((subject.key, token))
            raise
        reply = parse_lease(raw)
        state.learn(subject, reply.marks)
        if reply.status == "late":
            state.clock_was_wrong(reply.now_us, reply.replid)
            raise MasterUnknown("the request for the lease arrived too late and was refused")
        return reply

    def _lease_call(self, asked: Sequence[tuple[Request, int, str, str]], deadline: float) -> Build:
        """The question for entries of one function: each with the mark that it must be as new as, the token, and
        the id of an entry that is of no use."""
        state, commands, request = self._state, self._engine.commands, asked[0][0]
        return lambda replid, newest: commands.lease_many(
            [
                Ask(one.subject, max(need, state.marks.need(one.subject)), token, seen)
                for one, need, token, seen in asked
            ],
            replid=replid,
            newest=newest,
            lease_ms=self._lease_ms(request),
            expected_ms=int(request.usual.seconds * 1000),
            # 0, no limit, where the master's time is not known yet.
            not_after_us=state.clock.server_us(deadline) or 0,
        )

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

    def _weigh(self, request: Request, reply: LeaseReply) -> Answer:
        """What a caller may do with an answer of the lease script, by all that is known here now."""
        state, subject = self._state, request.subject
        entry = self._readable(request, reply)
        tags = () if entry is None else entry.tags
        covered = state.journal.covers(subject, tags) or not self._engine.routing.may_serve(state.now())
        known = state.marks.need(subject, tags)
        if entry is not None and not state.marks.remembers(entry.stamp, reply.marks.tip):
            known = max(known, state.marks.horizon)  # a mark came after the answer, and was forgotten
        if reply.status == "entry":
            if entry is None and (seen := own_id(reply.entry or b"")):
                return Answer("damaged", known, seen=seen)
            if entry is None or covered:
                return Answer("useless", known)
            return Answer("outdated" if entry.stamp < known else "hit", known, entry)
        alive = entry is not None and not covered and entry.stamp >= known
        usable = alive and entry is not None and self._stale_for(entry, reply) <= request.policy.stale
        return Answer("stale" if usable else "none", known, entry)

    def _hit(self, request: Request, entry: Envelope, resyncs: int, obeyed: int) -> Outcome:
        request.counters.master_hits += 1
        if request.policy.near:
            self._state.put_near(request.subject, entry, request.policy.near, resyncs, obeyed)
        return Outcome(entry.stamp, "master", entry)

    def _stale(self, request: Request, entry: Envelope) -> Outcome:
        request.counters.stale_served += 1
        return Outcome(entry.stamp, "master", entry, stale=True)

    async def without_master(self, request: Request, flight: Flight) -> Outcome | None:
        """No master can be asked: the gutter, or the function, once per key in this process.

        None: begin again, and join who runs the function already.
        """
        kept = self._from_gutter(request)
        if kept is not None:
            return kept
        if self._state.overtaken(flight):
            return None
        outcome = await self.compute_plain(request, flight)
        self._into_gutter(request, outcome)
        return outcome

    def _from_gutter(self, request: Request) -> Outcome | None:
        """What was computed a moment ago, while no server could be reached."""
        state, subject = self._state, request.subject
        kept = None
        if self._engine.settings.consistency == "available":  # strict: others may have invalidated it, unheard
            with state.lock, state.change:
                kept = state.gutter.get(subject.key, state.now())
        if kept is None or not state.acceptable(kept, subject, state.marks.need(subject)):
            return None
        request.counters.gutter_hits += 1
        self._engine.events.emit(events.GutterUsed())
        return Outcome(kept.stamp, "gutter", kept.envelope, sequence=kept.sequence)

    def _into_gutter(self, request: Request, outcome: Outcome) -> None:
        state = self._state
        if outcome.envelope is not None and (state.master_down or not state.ready):
            with state.lock, state.change:
                state.gutter.put(request.subject, outcome, state.now())

    # -- refreshing

    def refresh_in_background(self, request: Request, seen: Envelope) -> None:
        """Recompute a key while its present value is served; one refresh per key and process."""
        self.in_background(request, partial(self._refresh, request, seen))

    def in_background(self, request: Request, work: Any) -> None:
        """Refresh a key by `work()`, unless somebody in this process does so."""
        claimant = AsyncWaits.owner()
        if self._state.ready and self._claim([request.subject.key], claimant):
            self._spawn([request], claimant, work)

    def _claim(self, keys: Sequence[str], claimant: Owner) -> set[str]:
        """Those of the keys that nobody refreshes here; from now on the claimant does."""
        self.spawner.sweep()
        return self._state.claim(keys, claimant)

    def _spawn(self, requests: Sequence[Request], claimant: Owner, work: Any) -> bool:
        """Refresh in the background what was claimed; the job keeps the claimant. False if it will not run."""
        keys, label = [request.subject.key for request in requests], requests[0].subject.label

        async def job() -> None:
            try:
                await work()
            except (CancelledError, GeneratorExit):  # its loop ends
                raise
            except BaseException as error:
                # A mistake in cache_if=, ttl= or tags_from=, or the function ends its thread: no caller sees it.
                self._engine.events.emit(events.RefreshFailed(label, keys[0], shown(error)))
                if not isinstance(error, Exception):
                    raise

        def over() -> None:
            claimant.over = True
            self._state.refreshed(keys)

        return self.spawner.spawn(job, over)

    async def _refresh(self, request: Request, seen: Envelope) -> None:
        state = self._state
        token, caller = state.new_id(), AsyncWaits.owner()
        need = state.marks.need(request.subject)
        deadline = state.now() + request.policy.budget
        try:
            held = state.hold(request.subject.key, token, caller.alive)
            try:
                reply = await self._ask(request, need, token, deadline, seen.id.hex())
            except UnavailableError as error:
                self._engine.failed(error, request.counters)
            else:
                if reply.status == "lead":
                    await self._compute_refresh(request, token, reply.stamp)
            state.let_go(held)
        finally:
            caller.over = True

    def _refresh_under(self, request: Request, token: str, reply: LeaseReply) -> None:
        """The lease came with a stale value that may be served: compute in the background."""
        claimant = AsyncWaits.owner()
        self._state.hold(request.subject.key, token, claimant.alive)
        self._claim([request.subject.key], claimant)
        if not self._spawn([request], claimant, lambda: self._compute_refresh(request, token, reply.stamp)):
            self._engine.release_soon((request.subject.key, token))

    async def _compute_refresh(self, request: Request, token: str, stamp: int) -> None:
        request.counters.refreshed += 1
        # async-only
        outcome = await self.compute_leased(request, token, stamp, request.policy.budget)
        # end async-only
        # sync-only:
        # outcome = drive(self.compute_leased, request, token, stamp, request.policy.budget)
        # end sync-only
        if outcome.error is not None:
            subject = request.subject
            self._engine.events.emit(events.RefreshFailed(subject.label, subject.key, shown(outcome.error)))

    async def refresh_now(self, request: Request) -> Outcome:
        """Compute now and store, whatever is cached; the caller gets what the function returned."""
        if not self._engine.start():
            return await self.compute_plain(request)
        token, caller = self._state.new_id(), AsyncWaits.owner()
        try:
            held = self._state.hold(request.subject.key, token, caller.alive)
            outcome = await self._refresh_now(request, token)
            self._state.let_go(held)
            return outcome
        finally:
            caller.over = True

    async def _refresh_now(self, request: Request, token: str) -> Outcome:
        state, subject = self._state, request.subject
        deadline = state.now() + request.policy.budget
        need, seen, waited = state.marks.need(subject), "", 0.0
        waiting = Waiting()
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
                seen = own_id(reply.entry or b"") if entry is None else entry.id.hex()
                if not seen or waited > self._engine.settings.max_compute:
                    return await self.compute_plain(request)
                continue
            if reply.status == "held":
                return await self.compute_plain(request, held=True)
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
