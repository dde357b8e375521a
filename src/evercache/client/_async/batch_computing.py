"""Computing many keys at once: one call of the function, and one trip to the master to store what it returned."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from evercache.client import telling
from evercache.client._async.leads import AsyncLeads
from evercache.client._async.link import Build
from evercache.client.request import Batch, Request
from evercache.client.waits import AsyncWaits
from evercache.engine.flights import ABSENT, UNSET, Flight, Outcome, computing
from evercache.engine.state import HeldLease
from evercache.errors import UnavailableError
from evercache.observe import events
from evercache.process import from_signal_handler
from evercache.protocol.commands import Fill
from evercache.protocol.envelope import Envelope, repack
from evercache.protocol.replies import LeaseReply, parse_stores
from evercache.protocol.scripts import chunks

__all__ = ["AsyncBatchComputing", "Grant"]


class Grant(Struct, frozen=True):
    """A lease that this call holds, and the entry that it was granted over, if that may still be of use."""

    token: str
    reply: LeaseReply
    stale: Envelope | None = None


class AsyncBatchComputing(AsyncLeads):
    """As its base, for batches. Indexes are those of `batch.requests`; results go into `outcomes`."""

    async def compute_many(
        self,
        batch: Batch,
        granted: Mapping[int, Grant],
        alone: Iterable[int],
        outcomes: dict[int, Outcome],
        flights: Mapping[int, Flight] | None = None,
        left: float = 0.0,
        changing: Container[int] = (),
    ) -> float:
        """Run the function once, for what was granted and for what is computed without a lease and stored nowhere
        (`alone`, some of it as it is `changing`); the store may take `left` seconds. Returns the seconds that the
        function took."""
        state, requests = self._state, batch.requests
        alone = list(alone)
        with state.lock:
            newest, sequence = state.marks.newest, state.journal.sequence
        if alone:
            subject, meant = requests[alone[0]].subject, all(index in changing for index in alone)
            telling.unleased(self._engine, subject, requests[0].counters, len(alone), held=meant)
        indexes = sorted([*granted, *alone])
        chosen = set(indexes)
        mine = {index: flight for index, flight in (flights or {}).items() if index in chosen}
        resyncs, caller = state.resyncs, AsyncWaits.owner()
        leases = [(requests[index].subject.key, grant.token) for index, grant in granted.items()]
        began, usual = state.now(), requests[0].usual
        try:
            held = [state.hold(key, token, caller.alive, usual.lease, running=True) for key, token in leases]
            values, error = await self._run_many(batch, indexes, mine.values(), held)
        except BaseException:
            caller.over = True
            self._engine.release_soon(*leases)
            raise
        finally:
            for flight in mine.values():
                flight.spent += state.now() - began
        for lease in held:
            lease.running = False
        now = state.now()
        took = now - began
        if not state.local and any(lease.starved(now) for lease in held):
            usual.starved(took, self._engine.settings.max_compute)
        try:
            if error is None:
                usual.took(took)
            for index in indexes:
                if index in granted:
                    outcomes[index] = self._granted(batch, index, values, error, granted[index], took)
                else:
                    outcomes[index] = self._alone(batch, index, values, error, newest, sequence)
            if error is not None:
                keys = frozenset(requests[index].subject.key for index in indexes)
                for index in indexes:
                    outcomes[index] = replace(outcomes[index], batch=keys)
                self._engine.release_soon(*leases)
                state.let_go(*held)
                return took
            if self._engine.events.open:
                self._engine.events.emit(events.FunctionSucceeds(requests[0].subject.label))
            for index in mine:
                if outcomes[index].value is ABSENT:
                    state.landed(mine[index], outcomes[index])  # ended: a call of one key begins its own
                else:
                    mine[index].land(outcomes[index])
            await self._store_many(batch, granted, outcomes, resyncs, now + left)
            state.let_go(*held)
        except MemoryError:
            # None is left to store it; the caller gets what the function gave all the same.
            self._engine.release_soon(*leases)
            requests[0].counters.failures += 1
            for index in indexes:
                value = UNSET if error else values.get(batch.ids[index], ABSENT)
                outcomes.setdefault(index, Outcome(newest, "computed", value=value, error=error))
        except BaseException:
            # Cancelled, or a mistake in cache_if=, ttl= or tags_from=.
            self._engine.release_soon(*leases)
            raise
        finally:
            caller.over = True
        return took

    def _granted(
        self,
        batch: Batch,
        index: int,
        values: Mapping[Any, Any],
        error: Exception | None,
        grant: Grant,
        took: float,
    ) -> Outcome:
        request, stamp, id = batch.requests[index], grant.reply.stamp, batch.ids[index]
        if error is not None:
            instead = self._stale_on_error(request, grant.stale, grant.reply, error, took)
            return instead or Outcome(stamp, "computed", error=error)
        if id not in values:
            return Outcome(stamp, "computed", value=ABSENT)
        envelope = self._wrap(request, grant.token, stamp, values[id], took)
        return Outcome(stamp, "computed", envelope, values[id])

    def _alone(
        self,
        batch: Batch,
        index: int,
        values: Mapping[Any, Any],
        error: Exception | None,
        stamp: int,
        sequence: int,
    ) -> Outcome:
        request, id = batch.requests[index], batch.ids[index]
        if error is not None or id not in values:
            return Outcome(stamp, "computed", value=UNSET if error else ABSENT, error=error, sequence=sequence)
        envelope = self._wrap(request, "0" * 16, stamp, values[id], 0.0)
        return Outcome(stamp, "computed", envelope, values[id], sequence=sequence)

    async def _run_many(
        self, batch: Batch, indexes: Sequence[int], flights: Iterable[Flight], leases: Iterable[HeldLease]
    ) -> tuple[Mapping[Any, Any], Exception | None]:
        counters = batch.requests[0].counters
        counters.computed += 1
        ids = [batch.ids[index] for index in indexes]
        keys = [batch.requests[index].subject.key for index in indexes]
        with computing(keys, AsyncWaits.loop()) as run:
            for flight in flights:
                flight.phase, flight.run = "running", run
            for lease in leases:
                lease.run = run
            try:
                values = await batch.compute(ids)
                if not isinstance(values, Mapping):
                    raise TypeError(
                        f"{batch.requests[0].subject.function} returned {type(values).__name__}: a function under "
                        "cached_many() returns a dict from id to value"
                    )
            except Exception as error:
                if from_signal_handler(error):
                    raise  # for this caller: neither shared nor cached
                counters.raised += 1
                return {}, error
        return values, None

    async def _store_many(
        self,
        batch: Batch,
        granted: Mapping[int, Grant],
        outcomes: Mapping[int, Outcome],
        resyncs: int,
        deadline: float,
    ) -> None:
        """Bring the results to the master; the leases of what is not to be cached end in the same trip."""
        stores: list[tuple[Request, Envelope, tuple[int, int]]] = []
        fills: list[Fill] = []
        unused: list[tuple[str, str]] = []
        for index, grant in granted.items():
            request, outcome = batch.requests[index], outcomes[index]
            key, envelope = request.subject.key, outcome.envelope
            lifetime = self._lifetime(request, envelope, outcome.value)
            if envelope is None or lifetime is None:
                unused.append((key, grant.token))
                continue
            stores.append((request, envelope, lifetime))
            fills.append(Fill(key, grant.token, envelope.stamp, *lifetime, repack(envelope)))
        if not stores:
            self._engine.release_soon(*unused)  # nobody need wait for that
            return
        parts = list(chunks(fills, lambda fill: len(fill.envelope)))
        builds = [self._store_call(part) for part in parts]
        builds += [self._release_call(key, token) for key, token in unused]
        try:
            raw = await self._link.run_many(builds, deadline, at_once=True)
        except UnavailableError as error:
            self._engine.failed(error, batch.requests[0].counters)
            # As in `_send`: whether they arrived or not.
            self._engine.release_soon(*((batch.requests[i].subject.key, g.token) for i, g in granted.items()))
            return
        replies = [reply for one, part in zip(raw, parts, strict=False) for reply in parse_stores(one, len(part))]
        for (request, envelope, lifetime), reply in zip(stores, replies, strict=True):
            self._stored(request, envelope, lifetime, self._taken(request, reply), resyncs)

    def _release_call(self, key: str, token: str) -> Build:
        commands = self._engine.commands
        return lambda replid, newest: commands.release(key, replid=replid, newest=newest, token=token)
