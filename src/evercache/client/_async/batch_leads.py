"""Leading many keys at once: one trip to the master for the leases, one call of the function, one trip to store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evercache.client._async.batch_computing import AsyncBatchComputing, Grant
from evercache.client.request import Batch
from evercache.client.waits import AsyncWaits
from evercache.engine.flights import PROMPT, Flight, Outcome
from evercache.errors import MasterUnknown, UnavailableError
from evercache.observe import events
from evercache.protocol.canonical import shown
from evercache.protocol.envelope import Envelope, own_id
from evercache.protocol.lease import Waiting, wait_limit
from evercache.protocol.replies import LeaseReply, parse_leases
from evercache.protocol.scripts import chunks

__all__ = ["AsyncBatchLeads"]

#: As often a forced refresh asks for a lease over an entry that somebody else keeps renewing.
_ROUNDS = 8


class AsyncBatchLeads(AsyncBatchComputing):
    """As its base, for batches. Indexes are those of `batch.requests`; results go into `outcomes`."""

    async def lead_many(
        self,
        batch: Batch,
        flights: Mapping[int, Flight],
        needs: list[int],
        deadline: float,
        outcomes: dict[int, Outcome],
    ) -> float:
        """Fetch or compute the keys of these flights for everybody in this process.

        Returns the deadline, later by the function's own time. A key without an outcome is to be begun again.
        """
        state, requests = self._state, batch.requests
        policy, counters = requests[0].policy, requests[0].counters
        tokens = {index: state.ask_for(flight) for index, flight in flights.items()}
        waiting, waited, seen = Waiting(), 0.0, dict[int, str]()
        rest = list(flights)
        # As in `lead`: those whose lease came with an answer that proved nothing.
        ours: set[int] = set()
        while rest:
            covered = [
                index
                for index in rest
                if state.journal.covers(requests[index].subject)
                and not await self._uncovered(requests[index].subject, deadline)
            ]
            asked = [index for index in rest if index not in covered]
            alone = covered  # nothing a server says of these can be believed, and nothing can be stored
            replies: dict[int, LeaseReply] = {}
            resyncs, sent = state.resyncs, state.now()
            if asked:
                try:
                    replies = await self._ask_many(batch, asked, needs, tokens, deadline, seen)
                except UnavailableError as error:
                    self._engine.failed(error, counters)
                    if policy.on_error == "raise":
                        self._release_many(batch, tokens, ours)
                        raise
                    alone = rest
                if resyncs != state.resyncs and replies:
                    ours |= {index for index, reply in replies.items() if reply.status == "lead"}
                    continue  # an answer to a question from before a resync proves nothing (rule 5)
            again: list[int] = []
            waits: dict[int, LeaseReply] = {}
            granted: dict[int, Grant] = {}
            renewed: dict[int, Grant] = {}
            held: set[int] = set()
            for index, reply in replies.items():
                request, answer = requests[index], self._weigh(requests[index], reply)
                grant = Grant(tokens[index], reply, answer.entry)
                if answer.verdict == "useless":
                    alone = [*alone, index]
                elif answer.verdict == "outdated":
                    needs[index] = max(needs[index], answer.known)
                    again.append(index)
                elif answer.verdict == "damaged":
                    seen[index] = answer.seen
                    again.append(index)
                elif answer.verdict == "hit" and answer.entry is not None:
                    outcomes[index] = self._hit(request, answer.entry, resyncs, reply.marks.tip)
                elif answer.verdict == "stale" and answer.entry is not None:
                    outcomes[index] = self._stale(request, answer.entry)
                    if reply.status == "lead":
                        renewed[index] = grant
                elif reply.status == "lead":
                    counters.misses += 1
                    granted[index] = grant
                elif reply.status == "held":
                    alone = [*alone, index]
                    held.add(index)
                else:
                    waits[index] = reply
            if renewed:
                self._refresh_many_under(batch, renewed)
            self._release_many(batch, tokens, ours.intersection(alone))
            for index in alone:
                kept = self._from_gutter(requests[index])
                if kept is not None:
                    outcomes[index] = kept
            self._land(flights, outcomes)
            # Begun again: those that are computed already, for a caller whose budget ended before this one's.
            overtaken = [index for index in alone if index not in held and state.overtaken(flights[index])]
            alone = [index for index in alone if index not in outcomes and index not in overtaken]
            if granted or alone:
                # Who waits for a key that others compute need not wait for this call's function.
                for index in (*again, *waits, *overtaken):
                    state.landed(flights[index], None)
                left = deadline - state.now()
                deadline += await self.compute_many(batch, granted, alone, outcomes, flights, left, held)
                for index in alone:
                    self._into_gutter(requests[index], outcomes[index])
                return deadline
            if waits:
                soonest = min(waits.values(), key=lambda reply: reply.expected_ms - reply.elapsed_ms)
                expected = max(soonest.expected_ms / 1e3, requests[0].usual.seconds)
                stuck = any(state.waits_for_itself(flights[index]) for index in waits)
                if stuck or waited > wait_limit(expected, self._engine.settings.max_compute):
                    return deadline + await self.compute_many(batch, {}, list(waits), outcomes, flights)
                # As in `lead`: this is the function's own time, not the cache's.
                began = state.now()
                prompt = min(began - sent, PROMPT) if waited else 0.0
                pause = self._pause(waiting, soonest, min(r.left_ms for r in waits.values()), expected)
                for index in waits:
                    flights[index].waits(began + pause)
                await AsyncWaits.pause(pause)
                now = state.now()
                took = prompt + now - began
                waited, deadline = waited + now - began, deadline + took
                for index in waits:
                    flights[index].asks(now, took)
                    needs[index] = max(needs[index], state.marks.need(requests[index].subject))
            rest = [*again, *waits]
        return deadline

    def _release_many(self, batch: Batch, tokens: Mapping[int, str], indexes: Iterable[int]) -> None:
        self._engine.release_soon(*((batch.requests[index].subject.key, tokens[index]) for index in indexes))

    def _land(self, flights: Mapping[int, Flight], outcomes: Mapping[int, Outcome]) -> None:
        """Let those go who wait for what is settled, while the rest is not."""
        for index, flight in flights.items():
            if index in outcomes and not flight.done.done:
                self._state.landed(flight, outcomes[index])

    def _pause(self, waiting: Waiting, soonest: LeaseReply, left_ms: float, expected: float) -> float:
        return waiting.pause(
            lease_left=left_ms / 1e3,
            elapsed=soonest.elapsed_ms / 1e3,
            expected=expected,
            draw=self._state.rng.random(),
        )

    async def _ask_many(
        self,
        batch: Batch,
        indexes: Sequence[int],
        needs: Sequence[int],
        tokens: Mapping[int, str],
        deadline: float,
        seen: Mapping[int, str] | None = None,
    ) -> dict[int, LeaseReply]:
        state, requests = self._state, batch.requests
        leases = [(requests[index].subject.key, tokens[index]) for index in indexes]
        parts = list(chunks((requests[i], needs[i], tokens[i], (seen or {}).get(i, "")) for i in indexes))
        try:
            raw = await self._link.run_many([self._lease_call(part, deadline) for part in parts], deadline)
        except BaseException as error:
            # As in `_ask`. What ran before an error reply to another has run, too.
            if not isinstance(error, UnavailableError) or error.maybe_run or len(leases) > 1:
                self._engine.release_soon(*leases)
            raise
        answers = [reply for one, part in zip(raw, parts, strict=True) for reply in parse_leases(one, len(part))]
        replies = dict(zip(indexes, answers, strict=True))
        for index, reply in replies.items():
            state.learn(requests[index].subject, reply.marks)
        late = next((reply for reply in replies.values() if reply.status == "late"), None)
        if late is not None:
            state.clock_was_wrong(late.now_us, late.replid)
            self._engine.release_soon(*leases)
            raise MasterUnknown("the request for the leases arrived too late and was refused")
        return replies

    # -- refreshing

    def refresh_many_in_background(self, batch: Batch, seen: Mapping[int, Envelope]) -> None:
        """Recompute keys in one call while their present values are served; one refresh per key and process."""
        if not self._state.ready:
            return
        claimant = AsyncWaits.owner()
        mine = self._state.claim([batch.requests[index].subject.key for index in seen], claimant)
        indexes = [index for index in seen if batch.requests[index].subject.key in mine]
        if indexes:
            self._spawn(
                [batch.requests[index] for index in indexes],
                claimant,
                lambda: self._refresh_many(batch, {index: seen[index].id.hex() for index in indexes}),
            )

    async def _refresh_many(self, batch: Batch, seen: Mapping[int, str]) -> None:
        state, requests, caller = self._state, batch.requests, AsyncWaits.owner()
        tokens = {index: state.new_id() for index in seen}
        needs = [state.marks.need(request.subject) for request in requests]
        deadline = state.now() + requests[0].policy.budget
        try:
            held = [state.hold(requests[i].subject.key, token, caller.alive) for i, token in tokens.items()]
            try:
                replies = await self._ask_many(batch, list(seen), needs, tokens, deadline, seen)
            except UnavailableError as error:
                self._engine.failed(error, requests[0].counters)
                replies = {}
            granted = {i: Grant(tokens[i], reply) for i, reply in replies.items() if reply.status == "lead"}
            if granted:
                await self._compute_refreshes(batch, granted)
            state.let_go(*held)
        finally:
            caller.over = True

    def _refresh_many_under(self, batch: Batch, granted: Mapping[int, Grant]) -> None:
        """The leases came with stale values that may be served: compute in the background, in one call."""
        requests, claimant = [batch.requests[index] for index in granted], AsyncWaits.owner()
        for index, grant in granted.items():
            self._state.hold(batch.requests[index].subject.key, grant.token, claimant.alive)
        self._claim([request.subject.key for request in requests], claimant)
        if not self._spawn(requests, claimant, lambda: self._compute_refreshes(batch, granted)):
            self._engine.release_soon(
                *((batch.requests[index].subject.key, grant.token) for index, grant in granted.items())
            )

    async def _compute_refreshes(self, batch: Batch, granted: Mapping[int, Grant]) -> None:
        first = batch.requests[next(iter(granted))]
        first.counters.refreshed += 1
        outcomes: dict[int, Outcome] = {}
        await self.compute_many(batch, granted, (), outcomes, left=first.policy.budget)
        error = next((outcome.error for outcome in outcomes.values() if outcome.error is not None), None)
        if error is not None:
            self._engine.events.emit(events.RefreshFailed(first.subject.label, first.subject.key, shown(error)))

    async def refresh_many_now(self, batch: Batch, indexes: Iterable[int]) -> dict[int, Outcome]:
        """Compute now and store, whatever is cached, in one call but for what others are computing."""
        state, requests = self._state, batch.requests
        outcomes, rest = dict[int, Outcome](), list(indexes)
        if not self._engine.start():
            await self.compute_many(batch, {}, rest, outcomes)
            return outcomes
        caller = AsyncWaits.owner()
        tokens = {index: state.new_id() for index in rest}
        try:
            held = [state.hold(requests[i].subject.key, token, caller.alive) for i, token in tokens.items()]
            await self._refresh_tokens(batch, rest, tokens, outcomes)
            state.let_go(*held)
        finally:
            caller.over = True
        return outcomes

    async def _refresh_tokens(
        self, batch: Batch, rest: list[int], tokens: Mapping[int, str], outcomes: dict[int, Outcome]
    ) -> None:
        state, requests = self._state, batch.requests
        policy = requests[0].policy
        deadline = state.now() + policy.budget
        needs = [state.marks.need(request.subject) for request in requests]
        waiting, waited, seen = Waiting(), 0.0, dict[int, str]()
        granted: dict[int, Grant] = {}
        alone: list[int] = []
        held: set[int] = set()
        limit = wait_limit(requests[0].usual.seconds, self._engine.settings.max_compute)
        renewed = 0
        while rest:
            waits: dict[int, LeaseReply] = {}
            entries: list[int] = []
            try:
                replies = await self._ask_many(batch, rest, needs, tokens, deadline, seen)
            except UnavailableError as error:
                self._engine.failed(error, requests[0].counters)
                if policy.on_error == "raise":
                    raise  # the leases of this caller are reclaimed
                replies, alone = {}, [*alone, *rest]
            for index, reply in replies.items():
                if reply.status == "lead":
                    granted[index] = Grant(tokens[index], reply)
                elif reply.status == "entry":
                    entry = self._readable(requests[index], reply)
                    seen[index] = own_id(reply.entry or b"") if entry is None else entry.id.hex()
                    if not seen[index] or renewed >= _ROUNDS:
                        alone.append(index)
                    else:
                        entries.append(index)
                elif reply.status == "held" or waited > limit:
                    held |= {index} if reply.status == "held" else set()
                    alone.append(index)
                else:
                    waits[index] = reply  # computed now, but perhaps begun before what this caller wants to see
            rest = [*entries, *waits]
            if entries:
                renewed += 1
                continue
            if granted or alone:
                left = deadline - state.now()
                await self.compute_many(batch, granted, alone, outcomes, left=left, changing=held)
                granted, alone = {}, []
            if waits:
                soonest = min(waits.values(), key=lambda reply: reply.expected_ms - reply.elapsed_ms)
                left_ms = min(reply.left_ms for reply in waits.values())
                began = state.now()
                await AsyncWaits.pause(self._pause(waiting, soonest, left_ms, soonest.expected_ms / 1e3))
                waited += state.now() - began
            deadline = state.now() + policy.budget
