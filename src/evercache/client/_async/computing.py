"""Computing: the user's function, under a lease or without one, and the store of what it returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from evercache.client import telling
from evercache.client._async.link import AsyncLink, Build
from evercache.client.request import Request

# async-only
from evercache.client.waits import AsyncWaits

# end async-only
# sync-only:
# from evercache.client.waits import SyncWaits, yielded
# end sync-only
from evercache.engine.engine import Engine
from evercache.engine.flights import UNSET, Flight, Outcome, computing
from evercache.engine.state import HeldLease, State
from evercache.errors import CannotEncode, UnavailableError
from evercache.observe import events
from evercache.process import from_signal_handler
from evercache.protocol.canonical import shown
from evercache.protocol.commands import Fill
from evercache.protocol.envelope import (
    COMPRESSED,
    ERROR,
    MAX_TAGS,
    RENEWED,
    TAGGED,
    VERSION,
    Envelope,
    draw_of,
    repack,
)
from evercache.protocol.replies import LeaseReply, StoreReply, parse_store

__all__ = ["AsyncComputing"]


class AsyncComputing:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink) -> None:
        self._engine = engine
        self._state: State = engine.state
        self._link = link

    def __repr__(self) -> str:
        return f"<AsyncComputing of {self._engine!r}>"

    @staticmethod
    def _stale_for(entry: Envelope, reply: LeaseReply) -> float:
        return (reply.now_us / 1e3 - entry.soft_ms) / 1e3

    async def compute_leased(
        self,
        request: Request,
        token: str,
        stamp: int,
        left: float,
        stale: Envelope | None = None,
        reply: LeaseReply | None = None,
        flight: Flight | None = None,
    ) -> Outcome:
        """Run the function under a lease, and store what it returns; the store may take `left` seconds.

        Who joined the `flight` gets the result before it is stored: a slow master is the leader's matter only.
        """
        state, caller = self._state, AsyncWaits.owner()
        resyncs, began = state.resyncs, state.now()
        try:
            held = state.hold(request.subject.key, token, caller.alive, request.usual.lease, running=True)
            value, error = await self._run(request, flight, held)
        except BaseException:
            # Cancelled, or told to exit: others need not wait for the lease to run out.
            caller.over = True
            self._engine.release_soon((request.subject.key, token))
            raise
        held.running = False
        now = state.now()
        took, deadline = now - began, now + left
        if held.starved(now) and not state.local:
            request.usual.starved(took, self._engine.settings.max_compute)
        try:
            if error is not None:
                outcome = await self._raised(request, token, stamp, stale, reply, error, took, deadline)
                state.let_go(held)
                return outcome
            request.usual.took(took)
            if self._engine.events.open:
                self._engine.events.emit(events.FunctionSucceeds(request.subject.label))
            envelope = self._wrap(request, token, stamp, value, took)
            outcome = Outcome(stamp, "computed", envelope, value)
            if flight is not None:
                flight.land(outcome)
            await self._store(request, token, envelope, value, resyncs, deadline)
            state.let_go(held)
        except MemoryError:
            # None is left to store it; the caller gets what the function gave all the same.
            self._engine.release_soon((request.subject.key, token))
            request.counters.failures += 1
            return Outcome(stamp, "computed", value=UNSET if error else value, error=error)
        except BaseException:
            # Cancelled, or a mistake in cache_if=, ttl= or tags_from=.
            self._engine.release_soon((request.subject.key, token))
            raise
        finally:
            caller.over = True
        return outcome

    async def _run(
        self, request: Request, flight: Flight | None, held: HeldLease | None = None
    ) -> tuple[Any, Exception | None]:
        request.counters.computed += 1
        began = self._state.now()
        with computing([request.subject.key], AsyncWaits.loop()) as run:
            if held is not None:
                held.run = run
            if flight is not None:
                flight.phase, flight.run = "running", run
            try:
                # sync-only:
                # value, error = await yielded(request.compute)
                # if error is not None and from_signal_handler(error):
                #     raise error  # for this caller: neither shared nor cached
                # request.counters.raised += error is not None
                # return value, error
                # end sync-only
                # async-only
                return await request.compute(), None
            except Exception as error:
                if from_signal_handler(error):
                    raise  # for this caller: neither shared nor cached
                request.counters.raised += 1
                return None, error
            # end async-only
            finally:
                if flight is not None:
                    flight.spent += self._state.now() - began

    async def _raised(
        self,
        request: Request,
        token: str,
        stamp: int,
        stale: Envelope | None,
        reply: LeaseReply | None,
        error: Exception,
        took: float,
        deadline: float,
    ) -> Outcome:
        policy = request.policy
        lifetime = policy.error_lifetime(error, draw_of(bytes.fromhex(token)))
        if lifetime is not None:
            envelope = self._wrap(request, token, stamp, error, took, is_error=True)
            if envelope is not None and await self._send(request, token, stamp, envelope, lifetime, deadline):
                return Outcome(stamp, "computed", envelope, error=error)
        self._engine.release_soon((request.subject.key, token))
        instead = self._stale_on_error(request, stale, reply, error, took)
        return instead or Outcome(stamp, "computed", None, error=error)

    def _stale_on_error(
        self, request: Request, stale: Envelope | None, reply: LeaseReply | None, error: Exception, took: float
    ) -> Outcome | None:
        """The old value in the place of an error, where the policy allows it."""
        state = self._state
        if (
            stale is None
            or reply is None
            or self._stale_for(stale, reply) + took > request.policy.stale_if_error
            or not self._engine.routing.may_serve(state.now())
            or state.journal.covers(request.subject, stale.tags)
            or not state.marks.holds(stale.stamp, reply.marks.tip, request.subject, stale.tags)
        ):
            return None
        self._engine.events.emit(events.StaleOnError(request.subject.label, request.subject.key, shown(error)))
        request.counters.stale_served += 1
        return Outcome(stale.stamp, "master", stale, stale=True)

    async def _store(
        self,
        request: Request,
        token: str,
        envelope: Envelope | None,
        value: Any,
        resyncs: int,
        deadline: float,
    ) -> None:
        """Bring a result to the master, if it is to be cached."""
        lifetime = self._lifetime(request, envelope, value)
        if envelope is None or lifetime is None:
            self._engine.release_soon((request.subject.key, token))
            return
        stored = await self._send(request, token, envelope.stamp, envelope, lifetime, deadline)
        self._stored(request, envelope, lifetime, stored, resyncs)

    def _lifetime(self, request: Request, envelope: Envelope | None, value: Any) -> tuple[int, int] | None:
        """How long a result is cached; None: not at all."""
        policy = request.policy
        if envelope is None or (policy.cache_if is not None and not policy.cache_if(value)):
            return None
        lifetime = policy.lifetime(value, draw_of(envelope.id))
        return lifetime if sum(lifetime) > 0 else None

    def _stored(
        self, request: Request, envelope: Envelope, lifetime: tuple[int, int], stored: int, resyncs: int
    ) -> None:
        """The master took a result (`stored` is the soft expiry that it gave it) or refused it (0)."""
        if stored and request.policy.near:
            soft = replace(envelope, soft_ms=stored, hard_ms=stored + lifetime[1])
            self._state.put_near(request.subject, soft, request.policy.near, resyncs, envelope.stamp)
        self._state.reading.pop(request.subject.key, None)  # what was asked before this is not joined after it
        request.counters.stored += bool(stored)

    def _wrap(
        self, request: Request, token: str, stamp: int, value: Any, took: float, *, is_error: bool = False
    ) -> Envelope | None:
        key = request.subject.key
        tags = request.subject.tags
        if request.result_tags is not None and not is_error:
            tags = tuple(dict.fromkeys((*tags, *request.result_tags(value))))
        try:
            if len(tags) > MAX_TAGS:
                raise CannotEncode(f"{len(tags)} tags on one entry: at most {MAX_TAGS} are possible")
            if is_error:
                payload, codec, compressed = request.encoder.encode_error(
                    value, request.policy.cache_errors, key.encode()
                )
            else:
                payload, codec, compressed = request.encoder.encode(value, key.encode())
        except CannotEncode as error:
            request.counters.uncacheable += 1
            self._engine.events.emit(events.UncacheableResult(request.subject.function, key, str(error)))
            return None
        except MemoryError:
            request.counters.failures += 1
            return None
        renewed = request.policy.renewed and not is_error
        flags = (COMPRESSED if compressed else 0) | (ERROR if is_error else 0) | (TAGGED if tags else 0)
        flags |= RENEWED if renewed else 0
        return Envelope(VERSION, flags, stamp, 0, 0, bytes.fromhex(token), took, codec, tags, payload)

    async def _send(
        self,
        request: Request,
        token: str,
        stamp: int,
        envelope: Envelope,
        lifetime: tuple[int, int],
        deadline: float,
    ) -> int:
        """The soft expiry (ms of the server) that the master gave the entry, or 0 when it was refused."""
        build = self._store_call([Fill(request.subject.key, token, stamp, *lifetime, repack(envelope))])
        try:
            # Others wait for the lease to end; what is stored is judged by its stamp, whatever was not heard here.
            raw = await self._link.run(build, deadline, at_once=True)
        except UnavailableError as error:
            self._engine.failed(error, request.counters)
            # Whether it arrived or not: after a store there is no lease any more, and without one others would
            # wait for it to run out, at the next master too.
            self._engine.release_soon((request.subject.key, token))
            return 0
        return self._taken(request, parse_store(raw))

    def _store_call(self, fills: Sequence[Fill]) -> Build:
        commands = self._engine.commands
        return lambda replid, newest: commands.store_many(fills, replid=replid, newest=newest)

    def _taken(self, request: Request, reply: StoreReply) -> int:
        """The soft expiry that the answer to a store tells, or 0 when it was refused."""
        if reply.status == "ok":
            return reply.soft_expiry_ms
        request.counters.store_refused += 1
        return 0

    async def compute_plain(self, request: Request, flight: Flight | None = None, *, held: bool = False) -> Outcome:
        """Run the function with no lease; the result goes to no server (rule 6). `held`: as it is being changed."""
        state = self._state
        with state.lock:
            stamp, sequence = state.marks.newest, state.journal.sequence
        telling.unleased(self._engine, request.subject, request.counters, held=held)
        value, error = await self._run(request, flight)
        if error is not None:
            return Outcome(stamp, "computed", error=error, sequence=sequence)
        envelope = self._wrap(request, "0" * 16, stamp, value, 0.0)
        return Outcome(stamp, "computed", envelope, value, sequence=sequence)
