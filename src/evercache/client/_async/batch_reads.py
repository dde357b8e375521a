"""The way of a read of many keys at once: as few round trips as for one, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from evercache.client._async.batch_leads import AsyncBatchLeads
from evercache.client._async.link import AsyncLink, Build
from evercache.client._async.reads import ROUNDS, AsyncReads, Found
from evercache.client.request import Batch, Plan
from evercache.client.serving import NOT_ASKED, Serving, Unserved
from evercache.client.waits import AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.flights import ABSENT, UNSET, Flight, Outcome, Overdue, computes_here
from evercache.observe import Counters
from evercache.protocol.commands import Ask
from evercache.protocol.envelope import Envelope
from evercache.protocol.lease import wait_limit
from evercache.protocol.replies import parse_leases
from evercache.protocol.scope import Subject
from evercache.protocol.scripts import chunks
from evercache.protocol.types import Address

__all__ = ["AsyncBatchReads"]

#: As `SHARE`, for many keys at once.
_SHARE_OF_MANY = 0.6


class AsyncBatchReads(AsyncReads):
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink, leads: AsyncBatchLeads, serving: Serving) -> None:
        super().__init__(engine, link, leads)
        self._batch_leads = leads
        self._serving = serving

    # -- plain reads

    async def look_many(
        self,
        subjects: Sequence[Subject],
        needs: Sequence[int],
        deadline: float,
        counters: Counters,
        plan: Plan | None = None,
        served: dict[int, Any] | None = None,
        tried: Address | None = None,
    ) -> list[Found | None]:
        """What one node has of many keys, in one round trip; another one is asked when it fails.

        With a `plan`, plain hits are decoded at once and go into `served` by their index.
        """
        state, engine = self._state, self._engine
        results: list[Found | None] = [None] * len(subjects)
        command = ("MGET", *(subject.key for subject in subjects))
        for _ in range(1 if tried else 2):
            obeyed = state.marks.horizon  # before a node is chosen
            now = state.now()
            reader = engine.routing.reader(now, tried)
            if reader is None or now >= deadline:
                break
            resyncs = state.resyncs
            until = min(deadline, now + max(0.01, (deadline - now) * _SHARE_OF_MANY))
            answer = await self._link.read(reader, [command], until, counters)
            if answer is not None:
                replies, reader = answer
                if isinstance(replies[0], list):
                    arrived, role = state.now(), reader.role
                    if not engine.routing.may_serve(arrived):
                        plan = None  # nothing is served as it comes (rule 17)
                    for index, data in enumerate(replies[0][: len(subjects)]):
                        if plan is not None and served is not None and type(data) is bytes:
                            subject = subjects[index]
                            value = self._serving.value(
                                plan, subject.key, subject.tags, data, role, resyncs, now, arrived, obeyed
                            )
                            if type(value) is not Unserved:
                                served[index] = value
                                continue
                        results[index] = self.judge(
                            data, subjects[index], needs[index], resyncs, obeyed, reader.role, counters
                        )
                break
            counters.replica_failures += 1
            tried = reader.address
        return results

    async def peek_many(
        self,
        subjects: list[Subject],
        budget: float,
        counters: Counters,
        plan: Plan | None = None,
        served: dict[int, Any] | None = None,
        seen: Unserved = NOT_ASKED,
    ) -> list[Found | None]:
        """The entries of many keys: one round trip to one node, and one to the master for what that lacks.

        `plan` and `served` as in `look_many`; `seen` is what a first look at the one key brought. Raises
        UnavailableError when the master could not be asked.
        """
        state = self._state
        if not subjects or not self._engine.start():
            return [None] * len(subjects)
        deadline = (state.now() if seen.began is None else seen.began) + budget
        await self._settle_many(subjects, deadline, counters)
        needs = [state.marks.need(subject) for subject in subjects]
        if seen.began is not None and seen.tried is None:
            results = [
                self.judge(seen.data, subjects[0], needs[0], seen.resyncs, seen.obeyed, seen.source, counters)
            ]
        else:
            results = await self.look_many(subjects, needs, deadline, counters, plan, served, seen.tried)
        missing = [
            index for index, found in enumerate(results) if found is None and (not served or index not in served)
        ]
        if not missing:
            return results
        missing.sort(key=lambda index: subjects[index].function)
        functions = [list(each) for _, each in groupby(missing, lambda index: subjects[index].function)]
        parts = [part for each in functions for part in chunks(each)]
        for _ in range(2):
            resyncs = state.resyncs
            raw = await self._link.run_many([self._peek_call(subjects, needs, part) for part in parts], deadline)
            if resyncs == state.resyncs:
                break
        else:
            return results  # two resyncs while it was asked: nothing is known (rule 5)
        answers = [reply for one, part in zip(raw, parts, strict=True) for reply in parse_leases(one, len(part))]
        for index, parsed in zip(missing, answers, strict=True):
            state.learn(subjects[index], parsed.marks)
            results[index] = self.from_master(parsed, subjects[index], resyncs, counters)
        return results

    def _peek_call(self, subjects: Sequence[Subject], needs: Sequence[int], indexes: Sequence[int]) -> Build:
        commands, asks = self._engine.commands, [Ask(subjects[index], needs[index]) for index in indexes]
        return lambda replid, newest: commands.peek_many(asks, replid=replid, newest=newest)

    async def _settle_many(self, subjects: Sequence[Subject], deadline: float, counters: Counters) -> None:
        state = self._state
        for subject in subjects:
            if not state.journal.pending and not state.journal.suspended:
                return
            await self.settle(subject, deadline, counters)

    # -- a cached call

    async def fetch_many(self, batch: Batch) -> list[Outcome]:
        """The outcomes of a batch: each key served, joined or computed, as `fetch` does it for one.

        What this call leads is over, and nobody waits for it any more, before the call waits for others: so two
        batches that overlap cannot wait for each other.
        """
        state, requests = self._state, batch.requests
        everything = range(len(requests))
        outcomes: dict[int, Outcome] = {}
        if not self._engine.start():
            await self._batch_leads.compute_many(batch, {}, everything, outcomes)
            return [outcomes[index] for index in everything]
        policy, counters = requests[0].policy, requests[0].counters
        deadline = state.now() + policy.budget
        began = state.now()
        needs = [state.marks.need(request.subject) for request in requests]
        overdue: dict[int, Overdue] = {}
        rest = list(everything)
        for turn in range(ROUNDS):
            await self._settle_many([requests[index].subject for index in rest], deadline, counters)
            for index in rest:
                needs[index] = max(needs[index], state.marks.need(requests[index].subject))
            await self._look_at_all(batch, rest, needs, deadline, outcomes)
            missing = [index for index in rest if index not in outcomes]
            nested = [index for index in missing if computes_here(requests[index].subject.key)]
            caller = AsyncWaits.owner()
            flights: dict[int, Flight] = {}
            theirs: dict[int, Flight] = {}
            try:
                for index in missing:
                    if index not in nested:
                        late = overdue.get(index)
                        joinable = turn < 2 or late is not None
                        flight, leads = state.join_or_lead(
                            requests[index].subject,
                            needs[index],
                            caller,
                            joinable=joinable,
                            overdue=late,
                            at_once=False,  # after what it leads
                        )
                        (flights if leads else theirs)[index] = flight
                led = {index: flight for index, flight in flights.items() if index not in overdue}
                alone = [*nested, *(index for index in flights if index in overdue)]
                if led:
                    deadline = await self._batch_leads.lead_many(batch, led, needs, deadline, outcomes)
                if alone:
                    deadline += await self._batch_leads.compute_many(batch, {}, alone, outcomes, flights)
            finally:
                caller.over = True
                for index, flight in flights.items():
                    state.landed(flight, outcomes.get(index))
            if any(outcome.error is not None for outcome in outcomes.values()):
                break  # the caller raises it: nothing else is of use
            deadline = await self._join(batch, theirs, needs, began, deadline, outcomes, overdue)
            rest = [index for index in rest if index not in outcomes]
            if not rest:
                break
        else:
            await self._batch_leads.compute_many(batch, {}, rest, outcomes)
        return [outcomes[index] for index in sorted(outcomes)]

    async def _look_at_all(
        self,
        batch: Batch,
        indexes: Sequence[int],
        needs: Sequence[int],
        deadline: float,
        outcomes: dict[int, Outcome],
    ) -> None:
        """What this process or a node has; what is to be refreshed is, in one call, in the background."""
        requests = batch.requests
        policy, counters = requests[0].policy, requests[0].counters
        if policy.near:
            for index in indexes:
                envelope = self._near(requests[index].subject, needs[index], counters)
                if envelope is not None:
                    outcomes[index] = Outcome(envelope.stamp, "near", envelope)
        asked = [index for index in indexes if index not in outcomes]
        if not asked:
            return
        founds = await self.look_many(
            [requests[index].subject for index in asked], [needs[index] for index in asked], deadline, counters
        )
        refresh: dict[int, Envelope] = {}
        for index, found in zip(asked, founds, strict=True):
            if found is None:
                continue
            outcome, again = self._serve(requests[index], found, early=False)
            if outcome is not None:
                outcomes[index] = outcome
            if again:
                refresh[index] = found.envelope
        if refresh:
            self._batch_leads.refresh_many_in_background(batch, refresh)

    async def _join(
        self,
        batch: Batch,
        flights: dict[int, Flight],
        needs: list[int],
        began: float,
        deadline: float,
        outcomes: dict[int, Outcome],
        overdue: dict[int, Overdue],
    ) -> float:
        """Wait for what others fetch or compute; the deadline that is left after that."""
        state, requests = self._state, batch.requests
        keys = frozenset(request.subject.key for request in requests)
        start = state.now()
        unshared: list[int] = []
        for index, flight in flights.items():
            request = requests[index]
            limit = wait_limit(request.usual.seconds, self._engine.settings.max_compute)
            wait = state.wait_for(flight, AsyncWaits.stops())
            if wait is None:
                unshared.append(index)  # it would wait for itself, as in `fetch`
                continue
            outcome, own = await self._landing(flight, start + limit, deadline)
            del wait
            deadline += own
            if not flight.done.done:
                overdue[index] = Overdue(flight, state.now() >= start + limit)
                continue
            if outcome is None or not self._joinable(request, flight, outcome, needs[index], began):
                continue
            if outcome.error is not None and not (outcome.batch or keys) <= keys:
                continue  # of a batch with other ids too, which may be to blame: asked without them
            if outcome.error is None and outcome.envelope is None and outcome.value is not ABSENT:
                unshared.append(index)  # what can't be shared is computed by each caller
                continue
            request.counters.joined += 1
            outcomes[index] = Outcome(
                outcome.stamp,
                "joined",
                outcome.envelope,
                ABSENT if outcome.value is ABSENT else UNSET,
                error=outcome.error,
                sequence=outcome.sequence,
                stale=outcome.stale,
            )
        if unshared:
            deadline += await self._batch_leads.compute_many(batch, {}, unshared, outcomes)
        return deadline
