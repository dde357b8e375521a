"""What the public methods do, for cached functions and for keys that the user named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Final, Literal

from evercache.client import telling
from evercache.client._async.batch_reads import AsyncBatchReads
from evercache.client._async.hits import AsyncHits
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.reads import Found
from evercache.client._async.writes import AsyncWrites, Write
from evercache.client.request import Request
from evercache.client.serving import NOT_ASKED, Unserved
from evercache.client.shortage import ENOUGH_MEMORY
from evercache.client.values import age_of, counter_payload, sealed, value_of

# sync-only:
# from evercache.client.waits import SyncWaits, drive
# end sync-only
# async-only
from evercache.client.waits import AsyncWaits

# end async-only
from evercache.engine.engine import Engine
from evercache.engine.flights import UNSET, Outcome
from evercache.engine.nodes import lag_of, members, undecided, use_of
from evercache.errors import (
    CannotEncode,
    ConfigurationError,
    CorruptEnvelope,
    MasterUnknown,
    ResourceExhausted,
    ServerError,
    UnavailableError,
)
from evercache.observe import Counters, events
from evercache.policy import WAITED, OnError, Policy
from evercache.protocol.scope import Scope, Subject
from evercache.protocol.shapes import to_fields
from evercache.results import Ack, Explanation, NodeHealth

__all__ = ["AsyncOperations"]


#: Pages of a scan: it ends, whatever a server answers.
_MOST_PAGES: Final = 10_000_000
#: For the first look at the replicas a report waits so long (seconds) after the process has begun.
_FIRST_LOOK: Final = 1.0


def _lasting(lifetime: tuple[int, int], name: str, why: str) -> tuple[int, int]:
    if not sum(lifetime):
        raise ConfigurationError(f"{name}(ttl=0) keeps nothing: give more than 0 seconds ({why})")
    return lifetime


class AsyncOperations:
    """No state of its own; safe for threads and tasks."""

    def __init__(
        self, engine: Engine, hits: AsyncHits, reads: AsyncBatchReads, leads: AsyncLeads, writes: AsyncWrites
    ) -> None:
        self._engine = engine
        self._hits = hits
        self._reads = reads
        self._leads = leads
        self._writes = writes

    def __repr__(self) -> str:
        return f"<AsyncOperations of {self._engine!r}>"

    # -- cached calls

    # sync-only:
    # def call(self, request: Request, seen: Unserved | None = None) -> Any:
    #     """The result of a cached call; `seen` is what a first look brought, if there was one."""
    #     return drive(self.steps, request, seen)
    #
    # async def steps(self, request: Request, seen: Unserved | None = None) -> Any:
    # end sync-only
    # async-only
    async def call(self, request: Request, seen: Unserved | None = None) -> Any:
        # end async-only
        """The result of a cached call; `seen` is what a first look brought, if there was one."""
        if self._engine.hot.armed:
            self._engine.hot.take(request)
        try:
            with ENOUGH_MEMORY:
                if seen is None:
                    subject, plan = request.subject, request.plan
                    seen = NOT_ASKED
                    if plan is not None and not plan.near:
                        seen = await self._hits.get(plan, subject.key, subject.tags)
                    if type(seen) is not Unserved:
                        return seen
                outcome = await self._reads.fetch(request, seen)
        except ResourceExhausted as error:
            outcome = await self._uncached(request, error)
        return await self._result(request, outcome)

    async def refresh(self, request: Request) -> Any:
        """Compute now and store."""
        # async-only
        return await self.refreshed(request)
        # end async-only
        # sync-only:
        # return drive(self.refreshed, request)
        # end sync-only

    async def refreshed(self, request: Request) -> Any:
        """See `refresh`."""
        return await self._result(request, await self._recomputed(request))

    async def _recomputed(self, request: Request) -> Outcome:
        try:
            with ENOUGH_MEMORY:
                return await self._leads.refresh_now(request)
        except ResourceExhausted as error:
            return await self._uncached(request, error)

    async def _uncached(self, request: Request, error: ResourceExhausted) -> Outcome:
        """The function runs, as where there are no servers."""
        self._engine.failed(error, request.counters)
        if request.policy.on_error == "raise":
            raise error
        return await self._leads.compute_plain(request)

    async def _result(self, request: Request, outcome: Outcome) -> Any:
        if outcome.error is not None:
            raise outcome.error
        if outcome.value is not UNSET:
            return outcome.value
        assert outcome.envelope is not None
        try:
            with ENOUGH_MEMORY:
                return value_of(request, outcome.envelope)
        except CorruptEnvelope as error:
            telling.corrupt(self._engine, request.subject, request.counters, error)
            outcome = await self._recomputed(request)
        except ResourceExhausted as error:
            outcome = await self._uncached(request, error)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    async def peek(self, request: Request, default: Any) -> Any:
        """The cached value of a call, stale ones within the policy included, or the default."""
        policy = request.policy
        found = await self._peek(request.subject, policy.budget, request.counters, policy.on_error)
        if found is None or (found.stale and -found.left > max(policy.stale, policy.stale_if_error)):
            return default
        try:
            with ENOUGH_MEMORY:
                return value_of(request, found.envelope)
        except CorruptEnvelope as error:
            telling.corrupt(self._engine, request.subject, request.counters, error)
            return default
        except ResourceExhausted as error:
            self._engine.failed(error, request.counters)
            if policy.on_error == "raise":
                raise
            return default

    async def _peek(self, subject: Subject, budget: float, counters: Counters, on_error: OnError) -> Found | None:
        try:
            with ENOUGH_MEMORY:
                return await self._reads.peek(subject, budget, counters)
        except UnavailableError as error:
            self._engine.failed(error, counters)
            if on_error == "raise":
                raise
            return None

    async def explain(self, request: Request) -> Explanation:
        """Why a call hits or misses now; asks the servers, and changes nothing."""
        state, subject = self._engine.state, request.subject
        need = state.marks.need(subject)
        if state.journal.covers(subject):
            return Explanation(subject.key, "miss: an invalidation of it waits for the master", needed=need)
        try:
            found = await self._reads.peek(subject, request.policy.budget, Counters())
        except UnavailableError as error:
            return Explanation(subject.key, f"no server can say: {error}", needed=need)
        need = state.marks.need(subject)
        marks = {
            str(name): stamp
            for name, stamp in (
                ("everything", state.marks.everything),
                ("the key", state.marks.keys.get(subject.key, (0, 0.0))[0]),
                ("the function", state.marks.functions.get(subject.function, 0)),
                *((f"tag {tag.hex()}", state.marks.tags.get(tag, 0)) for tag in subject.tags),
            )
            if stamp
        }
        if found is None:
            return Explanation(
                subject.key, "miss: no entry that is new enough", needed=need, marks=marks,
                tags=tuple(tag.hex() for tag in subject.tags),
            )  # fmt: skip
        envelope = found.envelope
        server_ms = state.clock.server_ms(state.now()) or 0.0
        verdict = "hit"
        if found.stale:
            late = -found.left
            verdict = "stale hit, refreshed in the background" if late <= request.policy.stale else "miss: expired"
        return Explanation(
            subject.key,
            verdict,
            node=found.source,
            age=age_of(request, envelope, found.left),
            stale_in=found.left,
            expires_in=(envelope.hard_ms - server_ms) / 1e3,
            stamp=envelope.stamp,
            needed=need,
            tags=tuple(tag.hex() for tag in envelope.tags),
            marks=marks,
        )

    async def invalidate(
        self,
        scopes: Sequence[Scope],
        counters: Counters,
        *,
        function: str = "",
        on_error: OnError | None = None,
    ) -> list[Ack]:
        """Invalidate; with `raise`, what was queued raises as well (and stays queued)."""
        settings = self._engine.settings
        return await self._writes.invalidate_many(
            list(scopes),
            self._engine.state.now() + WAITED * settings.budget,
            counters,
            function=function,
            strict=settings.consistency == "strict",
            on_error=on_error or settings.on_error,
        )

    # -- keys that the user named

    async def get(self, request: Request, default: Any) -> Any:
        """The value of a key, or the default."""
        plan, subject, seen = request.plan, request.subject, NOT_ASKED
        if plan is not None:
            seen = await self._hits.get(plan, subject.key, subject.tags)
            if type(seen) is not Unserved:
                return seen
        (value,) = await self.get_many([request], default, seen)
        return value

    async def get_many(self, requests: Sequence[Request], default: Any, seen: Unserved = NOT_ASKED) -> list[Any]:
        """The values of many keys, with the default where there is none. `seen`: by a first look at the one."""
        if not requests:
            return []
        counters, policy, plan = requests[0].counters, requests[0].policy, requests[0].plan
        subjects = [request.subject for request in requests]
        if plan is not None and any(subject.function != plan.function for subject in subjects):
            plan = None
        served: dict[int, Any] = {}
        try:
            with ENOUGH_MEMORY:
                founds = await self._reads.peek_many(subjects, policy.budget, counters, plan, served, seen)
        except UnavailableError as error:
            self._engine.failed(error, counters)
            if policy.on_error == "raise":
                raise
            founds = [None] * len(requests)
        values = []
        for index, (request, found) in enumerate(zip(requests, founds, strict=True)):
            if index in served:
                values.append(served[index])
                continue
            value = default
            if found is not None and (not found.stale or found.envelope.renewed) and not found.envelope.error:
                try:
                    with ENOUGH_MEMORY:
                        value = value_of(request, found.envelope)
                    counters.master_hits += found.source == "master"
                    counters.replica_hits += found.source != "master"
                    if found.stale:
                        self._leads.in_background(request, partial(self._renew, request))
                except CorruptEnvelope as error:
                    telling.corrupt(self._engine, request.subject, counters, error)
                    found = None
                except ResourceExhausted as error:
                    self._engine.failed(error, counters)
                    if policy.on_error == "raise":
                        raise
                    found = None
            counters.misses += found is None or (found.stale and not found.envelope.renewed)
            values.append(value)
        return values

    async def _settle(self, subject: Subject, deadline: float, counters: Counters) -> None:
        """Wait for what is pending for a key, before an operation that builds on it (rule 4).

        Raises UnavailableError when the pending one cannot be delivered.
        """
        state = self._engine.state
        if not state.journal.pending and not state.journal.suspended:
            return
        await self._reads.settle(subject, deadline, counters)
        if state.journal.covers(subject):
            raise MasterUnknown("an invalidation of the key waits for the master")

    async def set(
        self,
        request: Request,
        value: Any,
        *,
        mode: Literal["set", "add", "since"] = "set",
        since: int = 0,
    ) -> Ack:
        """Write a value."""
        policy, counters = request.policy, request.counters
        deadline = self._engine.state.now() + policy.budget
        if mode == "add":
            try:
                await self._settle(request.subject, deadline, counters)
            except UnavailableError as error:
                self._engine.failed(error, counters)
                if policy.on_error == "raise":
                    raise
                return Ack(False, queued=True, reason="unavailable")
        return (await self._set([(request, value)], deadline, mode, since))[0]

    async def set_many(self, requests: Mapping[str, tuple[Request, Any]]) -> dict[str, Ack]:
        """Write many values, in one round trip."""
        if not requests:
            return {}
        pairs = list(requests.values())
        deadline = self._engine.state.now() + pairs[0][0].policy.budget
        return dict(zip(requests, await self._set(pairs, deadline), strict=True))

    async def _set(
        self,
        pairs: Sequence[tuple[Request, Any]],
        deadline: float,
        mode: Literal["set", "add", "since"] = "set",
        since: int = 0,
    ) -> list[Ack]:
        """Write what can be written; the keys of the rest are invalidated, in one round trip more."""
        engine, state = self._engine, self._engine.state
        policy, counters = pairs[0][0].policy, pairs[0][0].counters
        writes: dict[int, Write] = {}
        acks: dict[int, Ack] = {}
        mistake: CannotEncode | ResourceExhausted | None = None
        for index, (request, value) in enumerate(pairs):
            subject = request.subject
            try:
                with ENOUGH_MEMORY:
                    envelope = sealed(request, state.new_id(), value)
            except CannotEncode as error:
                counters.uncacheable += 1
                engine.events.emit(events.UncacheableResult(subject.function, subject.key, str(error)))
                acks[index], mistake = Ack(False, reason="uncacheable"), error
                continue
            except ResourceExhausted as error:
                engine.failed(error, counters)
                acks[index], mistake = Ack(False, reason="unavailable"), error
                continue
            lifetime = request.policy.lifetime(value, 0.0)
            if sum(lifetime) > 0:
                writes[index] = Write(subject, envelope, lifetime, mode, since)
            else:
                acks[index] = Ack(False, reason="expired")
        if acks and mode != "add":  # what was there before must not be taken for these values
            scopes = [Scope.of_key(pairs[index][0].subject.key) for index in acks]
            removed = await self._writes.invalidate_many(scopes, deadline, counters)
            for index, ack in zip(list(acks), removed, strict=True):
                if acks[index].reason == "expired":
                    acks[index] = replace(ack, reason="expired")
        if writes:
            done = await self._writes.set_many(
                list(writes.values()),
                deadline,
                counters,
                strict=engine.settings.consistency == "strict",
                on_error=policy.on_error,
            )
            acks |= dict(zip(writes, done, strict=True))
        if mistake is not None and policy.on_error == "raise":
            raise mistake
        return [acks[index] for index in range(len(pairs))]

    async def touch(self, request: Request) -> bool:
        """Give an entry a new time to live; False when there is none (or no master answers)."""
        policy = request.policy
        lifetime = _lasting(policy.lifetime(UNSET, 0.0), "touch", "delete() ends an entry")
        deadline = self._engine.state.now() + policy.budget
        try:
            await self._settle(request.subject, deadline, request.counters)
            return await self._writes.touch(request.subject, lifetime, deadline, renewed=policy.renewed)
        except UnavailableError as error:
            self._engine.failed(error, request.counters)
            if policy.on_error == "raise":
                raise
            return False

    async def _renew(self, request: Request) -> None:
        """Begin the life of an entry anew, if it is still one to which that happens."""
        lifetime = Policy.forever(self._engine.settings.max_ttl).lifetime(UNSET, 0.0)
        deadline = self._engine.state.now() + request.policy.budget
        try:
            done = await self._writes.touch(request.subject, lifetime, deadline, renewed="again")
            request.counters.refreshed += done
        except UnavailableError as error:
            self._engine.failed(error, request.counters)

    async def expires_in(self, request: Request) -> float | None:
        """Seconds until `get` finds an entry no more, `inf` while reads renew it; None: there is none."""
        policy = request.policy
        found = await self._peek(request.subject, policy.budget, request.counters, policy.on_error)
        if found is None or found.envelope.error:
            return None
        return inf if found.envelope.renewed else None if found.stale else found.left

    async def incr(self, request: Request, delta: int, initial: int) -> int | None:
        """Add to a counter; None when no master answers."""
        policy = request.policy
        counter_payload(delta)
        counter_payload(initial)
        lifetime = _lasting(policy.lifetime(0, 0.0), "incr", "a counter has to be kept to count")
        deadline = self._engine.state.now() + policy.budget
        try:
            await self._settle(request.subject, deadline, request.counters)
            return await self._writes.incr(request.subject.key, delta, initial, lifetime, deadline)
        except UnavailableError as error:
            self._engine.failed(error, request.counters)
            if policy.on_error == "raise":
                raise
            return None

    async def stamp(self, budget: float) -> int | None:
        """The newest stamp of the master, for `set(..., since=)`; None when no master answers."""
        try:
            return await self._writes.tip(self._engine.state.now() + budget)
        except UnavailableError as error:
            self._engine.failed(error, Counters())
            if self._engine.settings.on_error == "raise":
                raise
            return None

    async def scan(self, pattern: str, count: int) -> AsyncIterator[list[str]]:
        """Keys at the master that fit a glob pattern, `count` at a time; whole, dead entries included.

        Begins anew at another master, so a key may come twice. Raises UnavailableError.
        """
        state, cursor, generation = self._engine.state, "0", None
        for _ in range(_MOST_PAGES):
            (reply,) = await self._reads.ask_master(("SCAN", cursor, "MATCH", pattern, "COUNT", count))
            if generation not in (None, state.generation):
                generation, cursor = None, "0"
                continue
            generation = state.generation
            cursor = reply[0].decode()
            if reply[1]:
                yield [name.decode(errors="surrogateescape") for name in reply[1]]
            if cursor == "0":
                return

    # -- health

    async def nodes(self) -> list[NodeHealth]:
        """Ask every node for its role and its eviction policy."""
        engine = self._engine
        if engine.topology.local:
            return [NodeHealth("memory://", "master", "writes and reads of this process only", 0.0, None)]
        if engine.start() and not engine.state.ready:
            await self._reads.until_ready(engine.settings.budget * 4)
        # A new process has not looked at its replicas yet, which is no problem to report. No server is asked here:
        # a round takes about 3 µs, and there are a hundred of them at most.
        state, patience = engine.state, min(engine.settings.budget * 4, _FIRST_LOOK)
        while state.ready and state.now() - state.tau < patience and undecided(engine, state.now()):
            await AsyncWaits.pause(0.01)
        # A process that was idle until now reads the log first.
        while state.ready and not state.sure(state.now()) and state.now() - state.awake_since < patience:
            await AsyncWaits.pause(0.01)
        return [await self._node(address, role) for address, role in members(engine)]

    async def _node(self, address: Any, role: str) -> NodeHealth:
        engine = self._engine
        now = engine.state.now()
        eviction = None
        try:
            (reply,) = await engine.endpoint_async(address).execute([("INFO", "memory")], now + 0.3)
            if isinstance(reply, ServerError):
                raise reply
            text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
            facts = to_fields(text)
            eviction = facts.get("maxmemory_policy") if facts.get("maxmemory", "0") != "0" else "noeviction"
        except UnavailableError as error:
            return NodeHealth(str(address), role, f"nothing: {error}")
        return NodeHealth(str(address), role, use_of(engine, address, now), lag_of(engine, address, now), eviction)
