"""The way of a read: near, one GET at one node, and the master when that does not settle it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from evercache.client import telling
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.link import AsyncLink
from evercache.client.request import SHARE, Request
from evercache.client.serving import NOT_ASKED, Unserved
from evercache.client.waits import AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.flights import ABSENT, Flight, Outcome, Overdue, computes_here
from evercache.engine.state import State
from evercache.errors import CorruptEnvelope, UnavailableError
from evercache.observe import Counters
from evercache.policy import WAITED
from evercache.protocol.envelope import Envelope, unpack
from evercache.protocol.lease import refresh_early, wait_limit
from evercache.protocol.replies import LeaseReply, parse_lease
from evercache.protocol.scope import Subject
from evercache.protocol.types import Address, Command

__all__ = ["ROUNDS", "AsyncReads", "Found"]

#: A call goes round again when what it waited for was invalidated meanwhile; then it computes by itself.
ROUNDS = 8


class Found(Struct, frozen=True):
    """An entry that may be served: where it was, and whether it is past its soft expiry.

    `resyncs` and `obeyed` as in `Unserved`.
    """

    envelope: Envelope
    source: str
    stale: bool
    left: float
    resyncs: int
    obeyed: int


class AsyncReads:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink, leads: AsyncLeads) -> None:
        self._engine = engine
        self._state: State = engine.state
        self._link = link
        self._leads = leads

    def __repr__(self) -> str:
        return f"<AsyncReads of {self._engine!r}>"

    # -- a cached call

    async def fetch(self, request: Request, seen: Unserved = NOT_ASKED) -> Outcome:
        """The outcome of a cached call: served, joined or computed. Raises only what the function raises.

        `seen` is what a first look brought.
        """
        state, subject, policy = self._state, request.subject, request.policy
        if not self._engine.start():
            return await self._leads.compute_plain(request)
        began = state.now() if seen.began is None else seen.began
        deadline = began + policy.budget
        need = state.marks.need(subject)
        overdue: Overdue | None = None
        for turn in range(ROUNDS):
            if state.journal.pending or state.journal.suspended:
                await self.settle(subject, deadline, request.counters)
                need = max(need, state.marks.need(subject))
            if policy.near:
                envelope = self._near(subject, need, request.counters)
                if envelope is not None:
                    return Outcome(envelope.stamp, "near", envelope)
            if turn == 0 and seen.began is not None and seen.tried is None:
                found = self.judge(
                    seen.data, subject, need, seen.resyncs, seen.obeyed, seen.source, request.counters
                )
            else:
                found = await self.look(subject, need, deadline, request.counters, None if turn else seen.tried)
            if found is not None:
                outcome, refresh = self._serve(request, found, early=turn == 0 and seen.early)
                if refresh:
                    self._leads.refresh_in_background(request, found.envelope)
                if outcome is not None:
                    return outcome
            if computes_here(subject.key):
                return await self._leads.compute_plain(request)
            # Who was let down by others asks for itself: the master may have what could not be joined.
            joinable = turn < 2 or overdue is not None
            caller, leads, outcome = AsyncWaits.owner(), False, None
            try:
                flight, leads = state.join_or_lead(subject, need, caller, joinable=joinable, overdue=overdue)
                if leads and overdue is None:
                    outcome = await self._leads.lead(request, need, deadline, flight)
                elif leads:
                    outcome = await self._leads.without_master(request, flight)
            finally:
                caller.over = True
                if leads:
                    state.landed(flight, outcome)
            if leads:
                if outcome is not None:
                    return outcome
            else:
                wait = state.wait_for(flight, AsyncWaits.stops())
                if wait is None:
                    # The flight waits, perhaps through others, for what this caller computes.
                    return await self._leads.compute_plain(request)
                waiting = state.now()
                limit = wait_limit(request.usual.seconds, self._engine.settings.max_compute)
                outcome, own = await self._landing(flight, waiting + limit, deadline)
                del wait
                deadline += own
                if (
                    outcome is not None
                    and not (
                        outcome.error is not None and outcome.batch and len(outcome.batch) > 1
                    )  # others' errors
                    and outcome.value is not ABSENT  # a batch left it out: asked for alone
                    and self._joinable(request, flight, outcome, need, began)
                ):
                    if outcome.error is not None or outcome.envelope is not None:
                        request.counters.joined += 1
                        return Outcome(
                            outcome.stamp,
                            "joined",
                            outcome.envelope,
                            error=outcome.error,
                            sequence=outcome.sequence,
                            stale=outcome.stale,
                        )
                    # What can't be shared is computed by each caller.
                    return await self._leads.compute_plain(request)
                if not flight.done.done:
                    # Waited long enough: compute without a lease (rule 13), one for all who waited here.
                    overdue = Overdue(flight, state.now() >= waiting + limit)
            need = max(need, state.marks.need(subject))
        return await self._leads.compute_plain(request)

    async def _landing(self, flight: Flight, until: float, deadline: float) -> tuple[Outcome | None, float]:
        """What somebody else's flight brings, waited for `until` then at most; and for how long the function ran.

        To wait for a computation, here or in another process, is the function's own time, not the cache's. To wait
        for a leader that waits for a server is not: it ends with the caller's own budget.
        """
        state = self._state
        began, before = state.now(), flight.spent
        while True:
            own = until if flight.phase == "running" else max(deadline + flight.spent - before, flight.idle)
            left = min(own, until) - state.now()
            outcome = await AsyncWaits.result(flight.done, left)
            waited = state.now() - began
            if flight.done.done:
                return outcome, min(waited, flight.spent - before)
            if left <= 0:
                return None, waited if flight.phase == "running" else min(waited, flight.spent - before)

    def _joinable(self, request: Request, flight: Flight, outcome: Outcome, need: int, began: float) -> bool:
        """Whether a caller that came at `began` takes what a flight brought (rule 6, and its own policy)."""
        state, policy = self._state, request.policy
        if not state.acceptable(outcome, request.subject, need):
            return False
        # The tail went blind while the caller waited: what began long before it may have been invalidated unheard.
        if flight.started < began - state.settings.max_staleness and state.blind(state.now()):
            return False
        if not outcome.stale or outcome.envelope is None:
            return True
        server_ms = state.clock.server_ms(state.now())
        late = float("inf") if server_ms is None else (server_ms - outcome.envelope.soft_ms) / 1e3
        return late <= max(policy.stale, policy.stale_if_error)

    def _near(self, subject: Subject, need: int, counters: Counters) -> Envelope | None:
        state = self._state
        if not self._may_serve(state.now()) or not state.sure(state.now()):
            return None
        with state.lock, state.change:
            envelope = state.near.get(subject.key, state.now())
        if envelope is None or envelope.stamp < need or state.journal.covers(subject, envelope.tags):
            return None
        if not state.marks.fresh(envelope.stamp, subject, envelope.tags):
            return None
        counters.near_hits += 1
        return envelope

    def _serve(self, request: Request, found: Found, *, early: bool) -> tuple[Outcome | None, bool]:
        """What a node had as an outcome, or None when it must be recomputed; and whether it must be refreshed."""
        state, policy, envelope = self._state, request.policy, found.envelope
        if found.stale:
            if -found.left > policy.stale:
                return None, False
            request.counters.stale_served += 1
            return Outcome(envelope.stamp, found.source, envelope, stale=True), True
        if not early and envelope.compute_seconds and policy.beta:
            # 1 - random() is in (0, 1]: the logarithm of it is finite.
            early = refresh_early(found.left, envelope.compute_seconds, policy.beta, 1.0 - state.rng.random())
        if found.source == "master":
            request.counters.master_hits += 1
        else:
            request.counters.replica_hits += 1
        if policy.near:
            state.put_near(request.subject, envelope, policy.near, found.resyncs, found.obeyed)
        return Outcome(envelope.stamp, found.source, envelope), early

    # -- plain reads

    async def look(
        self, subject: Subject, need: int, deadline: float, counters: Counters, tried: Address | None = None
    ) -> Found | None:
        """One GET at a node that may serve, and at another one when the first (or what was `tried`) fails."""
        state = self._state
        for _ in range(1 if tried else 2):
            obeyed = state.marks.horizon  # before a node is chosen
            now = state.now()
            reader = self._engine.routing.reader(now, tried)
            if reader is None or now >= deadline or state.journal.covers(subject):
                return None
            resyncs = state.resyncs
            until = min(deadline, now + max(0.01, (deadline - now) * SHARE))
            answer = await self._link.read(reader, [("GET", subject.key)], until, counters)
            if answer is not None:
                replies, reader = answer
                return self.judge(replies[0], subject, need, resyncs, obeyed, reader.role, counters)
            counters.replica_failures += 1
            tried = reader.address
        return None

    def judge(
        self,
        data: bytes | None,
        subject: Subject,
        need: int,
        resyncs: int,
        obeyed: int,
        source: str,
        counters: Counters,
    ) -> Found | None:
        """Whether what a node answered may be served; None: ask the master.

        `resyncs` and `obeyed` as in `Unserved`.
        """
        state = self._state
        if data is None:
            return None
        try:
            envelope = unpack(data)
        except CorruptEnvelope as error:
            telling.corrupt(self._engine, subject, counters, error)
            return None
        if not envelope.readable:
            telling.newer(self._engine, subject, counters)
            return None
        now = state.now()
        server_ms = state.clock.server_ms(now)
        if server_ms is None or envelope.hard_ms <= server_ms or envelope.counter:
            return None
        # A stamp from the future means that the node was promoted (rule 15); the answer to a question from
        # before a resync proves nothing (rule 5).
        if (
            envelope.stamp > state.marks.newest
            or resyncs != state.resyncs
            or not self._engine.routing.may_read(now)
            or state.journal.covers(subject, envelope.tags)
        ):
            return None
        if envelope.stamp < need or not state.marks.fresh(envelope.stamp, subject, envelope.tags):
            counters.replica_outdated += 1
            return None
        if envelope.stamp < state.marks.key_floor and source != "master":
            return None
        if not state.marks.remembers(envelope.stamp, obeyed):
            return None
        if not self._may_serve(now):
            return None
        if not state.sure(now):
            telling.unconfirmed(self._engine, counters)
        left = (envelope.soft_ms - server_ms) / 1e3
        return Found(envelope, source, left <= 0, left, resyncs, obeyed)

    def _may_serve(self, now: float) -> bool:
        return self._engine.routing.may_serve(now)

    async def peek(self, subject: Subject, budget: float, counters: Counters) -> Found | None:
        """The entry, computing nothing. Raises UnavailableError when no node could say."""
        state = self._state
        if not self._engine.start():
            return None
        deadline = state.now() + budget
        if state.journal.pending or state.journal.suspended:
            await self.settle(subject, deadline, counters)
        need = state.marks.need(subject)
        found = await self.look(subject, need, deadline, counters)
        for _ in range(2):
            if found is not None:
                break
            resyncs = state.resyncs
            reply = await self.ask(subject, need, deadline)
            if resyncs == state.resyncs:  # else its answer proves nothing (rule 5)
                return self.from_master(reply, subject, resyncs, counters)
        return found

    async def ask_master(self, command: Command) -> list[Any]:
        """The reply of the master to a plain command. Raises UnavailableError."""
        return await self._link.ask([command], self._state.now() + WAITED * self._engine.settings.budget)

    async def ask(self, subject: Subject, need: int, deadline: float) -> LeaseReply:
        """The read-only form of the lease script: what the master has, by the marks it knows (rule 2)."""
        state, commands = self._state, self._engine.commands
        reply = parse_lease(
            await self._link.run(
                lambda replid, newest: commands.peek(
                    subject, replid=replid, newest=newest, least=max(need, state.marks.need(subject))
                ),
                deadline,
            )
        )
        state.learn(subject, reply.marks)
        return reply

    def from_master(self, reply: LeaseReply, subject: Subject, resyncs: int, counters: Counters) -> Found | None:
        """What a reply of the master holds for the caller."""
        state = self._state
        if reply.entry is None:
            return None
        if not self._may_serve(state.now()):
            return None
        try:
            envelope = unpack(reply.entry)
        except CorruptEnvelope as error:
            telling.corrupt(self._engine, subject, counters, error)
            return None
        if not envelope.readable:
            telling.newer(self._engine, subject, counters)
            return None
        # The master looked at the marks when it answered; this process may have heard of another one since, and may
        # even have forgotten it.
        if state.journal.covers(subject, envelope.tags) or not state.marks.holds(
            envelope.stamp, reply.marks.tip, subject, envelope.tags
        ):
            return None
        left = (envelope.soft_ms - reply.now_us / 1e3) / 1e3
        return Found(envelope, "master", left <= 0, left, resyncs, reply.marks.tip)

    async def until_ready(self, seconds: float) -> None:
        """Wait for the first resync, so long at most."""
        await AsyncWaits.result(self._state.when_ready(), seconds)

    # -- pending

    async def settle(self, subject: Subject, deadline: float, counters: Counters) -> None:
        """Bring what is pending for a subject to the master before reading it (rule 4)."""
        state = self._state
        if state.journal.suspended and not state.ready and not state.master_down:
            await AsyncWaits.result(state.when_ready(), (deadline - state.now()) / 2)
        for item in state.journal.covering(subject):
            if item.due is None:
                await AsyncWaits.result(item.settled, (deadline - state.now()) / 2)
            elif state.ready and not state.master_down:
                if not self._engine.may_retry():  # the background brings it
                    counters.retries_refused += 1
                    return
                try:
                    await self._leads.writes.bring(item, deadline)
                except UnavailableError:
                    return
