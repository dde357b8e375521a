"""Leading: the trip to the master for one key, the computation under its lease, and the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evercache.client._async.link import AsyncLink
from evercache.client._async.writes import AsyncWrites
from evercache.client.request import Request
from evercache.client.waits import AsyncSpawner, AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.flights import Outcome, computing
from evercache.engine.state import State
from evercache.errors import CannotEncode, CorruptEnvelope, UnavailableError
from evercache.protocol.envelope import COMPRESSED, ERROR, MAX_TAGS, TAGGED, VERSION, Envelope, repack, unpack
from evercache.protocol.lease import Waiting, wait_limit
from evercache.protocol.replies import LeaseReply, parse_lease, parse_store

__all__ = ["AsyncLeads"]


class AsyncLeads:
    """Background refreshes under way are in `_refreshing`, under the lock of the state."""

    def __init__(self, engine: Engine, link: AsyncLink, writes: AsyncWrites) -> None:
        self._engine = engine
        self._state: State = engine.state
        self._link = link
        self.writes = writes
        self.spawner = AsyncSpawner()
        self._refreshing: set[str] = set()

    def __repr__(self) -> str:
        return f"<AsyncLeads of {self._engine!r} refreshing={len(self._refreshing)}>"

    def after_fork(self) -> None:
        """In the child: the parent's refreshes are not here."""
        self._refreshing = set()
        self.spawner.forget()

    async def lead(self, request: Request, need: int, deadline: float) -> Outcome | None:
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
            covered = state.journal.covers(subject, tags)
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
                return await self.compute_leased(request, token, reply.stamp, left, entry, reply)
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
            deadline = state.now() + left
            need = max(need, state.marks.need(subject))
        return await self._without_master(request)

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
                ),
                deadline,
            )
        except UnavailableError:
            raise
        except BaseException:
            # Cancelled: it may have been granted, and others need not wait for it to run out.
            self._engine.release_soon(subject.key, token)
            raise
        reply = parse_lease(raw)
        state.learn(subject, reply.marks)
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
        except CorruptEnvelope:
            request.counters.corrupt += 1
            return None
        if not envelope.readable:
            request.counters.newer += 1
            return None
        return envelope

    @staticmethod
    def _stale_for(entry: Envelope, reply: LeaseReply) -> float:
        return (reply.now_us / 1e3 - entry.soft_ms) / 1e3

    def _hit(self, request: Request, entry: Envelope, resyncs: int) -> Outcome:
        request.counters.hits += 1
        request.counters.master_hits += 1
        if request.policy.near:
            self._state.put_near(request.subject, entry, request.policy.near, resyncs)
        return Outcome(entry.stamp, "master", entry)

    def _stale(self, request: Request, entry: Envelope) -> Outcome:
        request.counters.stale_served += 1
        return Outcome(entry.stamp, "master", entry, stale=True)

    # -- computing

    async def compute_leased(
        self,
        request: Request,
        token: str,
        stamp: int,
        left: float,
        stale: Envelope | None = None,
        reply: LeaseReply | None = None,
    ) -> Outcome:
        """Run the function under a lease, and store what it returns; the store may take `left` seconds."""
        state = self._state
        resyncs = state.resyncs
        held = state.hold(request.subject.key, token, request.usual.lease)
        began = state.now()
        try:
            value, error = await self._run(request)
        except BaseException:
            # Cancelled, or told to exit: others need not wait for the lease to run out.
            self._engine.release_soon(request.subject.key, token)
            raise
        finally:
            state.let_go(held)
        now = state.now()
        took, deadline = now - began, now + left
        if held.starved(now) and not state.local:
            request.usual.starved(took, self._engine.settings.max_compute)
        try:
            if error is not None:
                return await self._raised(request, token, stamp, stale, reply, error, took, deadline)
            request.usual.took(took)
            envelope = await self._store(request, token, stamp, value, took, resyncs, deadline)
        except BaseException:
            # Cancelled, or a mistake in cache_if=, ttl= or tags_from=.
            self._engine.release_soon(request.subject.key, token)
            raise
        return Outcome(stamp, "computed", envelope, value)

    async def _run(self, request: Request) -> tuple[Any, Exception | None]:
        request.counters.computed += 1
        with computing(request.subject.key):
            try:
                return await AsyncWaits.call(request.compute), None
            except Exception as error:
                request.counters.raised += 1
                return None, error

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
        lifetime = policy.error_lifetime(error, self._state.rng.random())
        if lifetime is not None:
            envelope = self._wrap(request, token, stamp, error, took, is_error=True)
            if envelope is not None and await self._send(request, token, stamp, envelope, lifetime, deadline):
                return Outcome(stamp, "computed", envelope, error=error)
        self._engine.release_soon(request.subject.key, token)
        if stale is not None and reply is not None:
            late = self._stale_for(stale, reply) + took
            state = self._state
            if (
                late <= policy.stale_if_error
                and state.marks.fresh(stale.stamp, request.subject, stale.tags)
                and not state.journal.covers(request.subject, stale.tags)
            ):
                self._engine.state_log.trouble(
                    f"stale-if-error {request.subject.function}",
                    f"{request.subject.key}: the function raised {error!r}; the stale value is served",
                )
                request.counters.stale_served += 1
                return Outcome(stale.stamp, "master", stale, stale=True)
        return Outcome(stamp, "computed", None, error=error)

    async def _store(
        self,
        request: Request,
        token: str,
        stamp: int,
        value: Any,
        took: float,
        resyncs: int,
        deadline: float,
    ) -> Envelope | None:
        """Bring a result to the master; the envelope in which other callers of this process may share it."""
        policy, counters = request.policy, request.counters
        envelope = self._wrap(request, token, stamp, value, took)
        wanted = envelope is not None and (policy.cache_if is None or policy.cache_if(value))
        lifetime = policy.lifetime(value, self._state.rng.random()) if wanted else (0, 0)
        if envelope is None or lifetime[0] + lifetime[1] <= 0:
            self._engine.release_soon(request.subject.key, token)
            return envelope
        stored = await self._send(request, token, stamp, envelope, lifetime, deadline)
        if stored and policy.near:
            soft = replace(envelope, soft_ms=stored, hard_ms=stored + lifetime[1])
            self._state.put_near(request.subject, soft, policy.near, resyncs, computed=True)
        counters.stored += bool(stored)
        return envelope

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
            self._engine.state_log.trouble(f"uncacheable {request.subject.function or key}", f"{key}: {error}")
            return None
        flags = (COMPRESSED if compressed else 0) | (ERROR if is_error else 0) | (TAGGED if tags else 0)
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
        commands, key = self._engine.commands, request.subject.key
        data = repack(envelope)
        soft_ms, span_ms = lifetime
        try:
            reply = parse_store(
                await self._link.run(
                    lambda replid, newest: commands.store(
                        key,
                        replid=replid,
                        newest=newest,
                        token=token,
                        stamp=stamp,
                        soft_ms=soft_ms,
                        span_ms=span_ms,
                        envelope=data,
                    ),
                    deadline,
                )
            )
        except UnavailableError as error:
            self._engine.failed(error, request.counters)
            if not error.maybe_run:
                self._engine.release_soon(key, token)
            return 0
        if reply.status == "ok":
            return reply.soft_expiry_ms
        request.counters.store_refused += 1
        return 0

    async def compute_plain(self, request: Request) -> Outcome:
        """Run the function with no lease; the result goes to no server (rule 6)."""
        state = self._state
        with state.lock:
            stamp, sequence = state.marks.newest, state.journal.sequence
        request.counters.misses += 1
        request.counters.computed_unleased += 1
        value, error = await self._run(request)
        if error is not None:
            return Outcome(stamp, "computed", error=error, sequence=sequence)
        envelope = self._wrap(request, "0" * 16, stamp, value, 0.0)
        return Outcome(stamp, "computed", envelope, value, sequence=sequence)

    async def _without_master(self, request: Request) -> Outcome:
        """No master can be asked: the gutter, or the function, once per key in this process."""
        state, subject = self._state, request.subject
        with state.lock:
            kept = state.gutter.get(subject.key, state.now())
        if kept is not None and state.acceptable(kept, subject, state.marks.need(subject)):
            request.counters.gutter_hits += 1
            return Outcome(kept.stamp, "gutter", kept.envelope, sequence=kept.sequence)
        outcome = await self.compute_plain(request)
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
                self._engine.state_log.trouble(
                    f"refresh {request.subject.function or key}",
                    f"{key}: a refresh in the background failed with {error!r}",
                )
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
        label = f"refresh {request.subject.function or request.subject.key}"
        if outcome.error is not None:
            self._engine.state_log.trouble(
                label, f"{request.subject.key}: a refresh in the background raised {outcome.error!r}"
            )
        else:
            self._engine.state_log.over(label, f"{request.subject.key}: refreshes succeed again")

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
