"""Invalidations and explicit writes: pending before they are sent, acknowledged by the master, or queued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from evercache.client._async.link import AsyncLink, Build
from evercache.client.shortage import ENOUGH_MEMORY
from evercache.client.waits import AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.state import State
from evercache.errors import MasterUnknown, NotACounter, UnavailableError
from evercache.observe import Counters
from evercache.policy import OnError
from evercache.protocol.commands import Invalidation, Put
from evercache.protocol.journal import Pending
from evercache.protocol.replies import (
    IncrReply,
    SetReply,
    parse_incr,
    parse_invalidate,
    parse_invalidates,
    parse_sets,
    parse_tip,
    parse_touch,
)
from evercache.protocol.scope import Scope, Subject
from evercache.protocol.scripts import chunks
from evercache.results import Ack

__all__ = ["AsyncWrites", "Beside", "Write"]

#: By so much a server's clock may be slewed between two answers without a write being refused as from the future.
_SLACK_US = 20_000


#: Answers to a write that did not come in time.
_FAILURES = {
    "late": "the write arrived too late and was refused",
    "cancelled": "the write was overtaken by the invalidation queued for it",
}


class Write(Struct, frozen=True):
    """An explicit write of one key. `lifetime`: milliseconds to the soft expiry, and from there to the hard one."""

    subject: Subject
    envelope: bytes
    lifetime: tuple[int, int]
    mode: Literal["set", "add", "since"] = "set"
    since: int = 0


class Beside(Struct):
    """A script that goes with invalidations in one write: before them, or after. Used by one call only."""

    build: Build
    first: bool
    reply: Any = None


class AsyncWrites:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine, link: AsyncLink) -> None:
        self._engine = engine
        self._state: State = engine.state
        self._link = link

    def __repr__(self) -> str:
        return f"<AsyncWrites of {self._engine!r}>"

    async def invalidate(
        self, scope: Scope, deadline: float, counters: Counters, *, function: str = "", strict: bool = False
    ) -> Ack:
        """Invalidate a scope: obeyed here at once, everywhere when the master has it."""
        return (await self.invalidate_many([scope], deadline, counters, function=function, strict=strict))[0]

    async def invalidate_many(
        self,
        scopes: list[Scope],
        deadline: float,
        counters: Counters,
        *,
        function: str = "",
        strict: bool = False,
        on_error: OnError = "absorb",
        beside: Beside | None = None,
    ) -> list[Ack]:
        """The same for several scopes, in one round trip. With "raise" a failure is raised (and still queued)."""
        state = self._state
        if self._engine.inside():
            return self._queue_inside(scopes, counters, function)
        if not self._engine.start():
            return [Ack(False, reason="unavailable") for _ in scopes]
        sender = AsyncWaits.owner()
        items: list[Pending] = []
        try:
            with ENOUGH_MEMORY:
                items += [state.begin(scope, function, sender) for scope in scopes]
                acks = await self._send(items, deadline, strict, beside)
        except UnavailableError as error:
            for item in items:
                state.given_up(item)
            self._engine.wake_bringer(error)
            self._engine.failed(error, counters)
            counters.queued += len(items)
            if on_error == "raise":
                error.add_note("the invalidation is obeyed here and queued for the master")
                raise
            return [Ack(False, queued=True, reason="unavailable") for _ in items]
        except BaseException:
            # The caller was cancelled: its invalidation goes on without it (rule 4).
            sender.over = True
            for item in items:
                state.given_up(item)
            self._engine.wake_bringer()
            raise
        finally:
            sender.over = True
        counters.acknowledged += sum(ack.done for ack in acks)
        counters.queued += sum(ack.queued for ack in acks)
        if self._engine.alone is not None:
            self._engine.alone.invalidated()
        return acks

    def _queue_inside(self, scopes: Sequence[Scope], counters: Counters, function: str = "") -> list[Ack]:
        """Invalidate where nothing can be waited for (`Engine.inside`): obeyed here, and sent by the background."""
        for scope in scopes:
            self._state.begin_inside(scope, function)
        self._engine.wake_bringer()
        counters.queued += len(scopes)
        return [Ack(False, queued=True, reason="unavailable") for _ in scopes]

    async def _send(self, items: list[Pending], deadline: float, strict: bool, beside: Beside | None) -> list[Ack]:
        state, parts = self._state, list(chunks(items))
        builds = [self._invalidate_call(part) for part in parts]
        if beside is not None:
            builds.insert(0 if beside.first else len(builds), beside.build)
        raw = await self._link.run_many(builds, deadline, replicated=strict)
        if beside is not None:
            beside.reply = raw.pop(0 if beside.first else len(parts))
        answers = zip(raw, parts, strict=False)
        replies = [reply for one, part in answers for reply in parse_invalidates(one, len(part))]
        if strict and not await self._safe(raw[-1], deadline):
            raise MasterUnknown("the master could not be confirmed", maybe_run=True)
        for item, reply in zip(items, replies, strict=True):
            state.acknowledged(item, reply.stamp, reply.replid)
            if item.scope.kind == "k":
                state.supersedes(item)
        return [Ack(True, reply.stamp, reply.existed) for reply in replies]

    def _invalidate_call(self, items: Sequence[Pending]) -> Build:
        commands = self._engine.commands
        asked = [Invalidation(item.scope, item.id, item.function) for item in items]
        return lambda replid, newest: commands.invalidate_many(asked, replid=replid, newest=newest)

    async def _safe(self, replicated: bool, deadline: float) -> bool:
        """Strict: the replicas in sync have it, and the master was confirmed after it answered (rule 17)."""
        state, topology = self._state, self._engine.topology
        replied = state.now()
        if not replicated:
            return False
        topology.nudge()
        while not topology.local and topology.confirmed_since() < replied:
            if state.now() >= deadline:
                return False
            await AsyncWaits.pause(0.003)
        return True

    async def bring(self, item: Pending, deadline: float) -> None:
        """Send one that was given up; raises UnavailableError when it still cannot be brought."""
        reply = parse_invalidate(await self._link.run(self._invalidate_call([item]), deadline))
        self._state.acknowledged(item, reply.stamp, reply.replid)

    async def set_many(
        self,
        writes: Sequence[Write],
        deadline: float,
        counters: Counters,
        *,
        strict: bool = False,
        on_error: OnError = "absorb",
    ) -> list[Ack]:
        """Write values, all in the same mode, in one round trip; each write counts for itself.

        On failure an invalidation of its key is queued, never the value (rule 4). With "raise" the failure is
        raised as well.
        """
        state = self._state
        if self._engine.inside():
            return self._queue_inside([Scope.of_key(write.subject.key) for write in writes], counters)
        if not self._engine.start():
            return [Ack(False, reason="unavailable") for _ in writes]
        sender = AsyncWaits.owner()
        items: list[Pending] = []
        replies: list[SetReply] = []
        acks: list[Ack] = []
        failure: UnavailableError | None = None
        try:
            with ENOUGH_MEMORY:
                items += [state.begin(Scope.of_key(write.subject.key), sender=sender) for write in writes]
                await self._know_time(deadline)
                parts = list(chunks(zip(writes, items, strict=True), lambda pair: len(pair[0].envelope)))
                raw = await self._link.run_many(
                    [self._set_call(part, deadline) for part in parts], deadline, repeat=False, replicated=strict
                )
                answers = zip(raw, parts, strict=False)
                replies = [reply for one, part in answers for reply in parse_sets(one, len(part))]
                if strict and not await self._safe(raw[-1], deadline):
                    raise MasterUnknown("the master could not be confirmed", maybe_run=True)
        except BaseException as error:
            sender.over = True
            for item in items:
                state.given_up(item)
            self._engine.wake_bringer(error)
            if not isinstance(error, UnavailableError):
                raise
            if error.maybe_run and not replies:
                for item in items:
                    await self._out_of_the_way(item, deadline)
            return self._queued(error, len(items), counters, on_error)
        else:
            for item, reply in zip(items, replies, strict=True):
                if reply.status in _FAILURES:
                    if reply.status == "late":
                        state.clock_was_wrong(reply.now_us, reply.replid)
                    failure = MasterUnknown(_FAILURES[reply.status])
                    state.given_up(item)
                    self._engine.wake_bringer(failure)
                    acks += self._queued(failure, 1, counters, "absorb")
                elif reply.status != "ok":
                    state.withdrawn(item)
                    acks.append(Ack(False, existed=reply.status == "exists", reason=reply.status))
                else:
                    state.acknowledged(item, reply.stamp, reply.replid)
                    state.supersedes(item)
                    counters.acknowledged += 1
                    acks.append(Ack(True, reply.stamp, reply.existed))
        finally:
            sender.over = True
        if self._engine.alone is not None and any(ack.existed for ack in acks):
            self._engine.alone.invalidated()
        if failure is not None and on_error == "raise":
            failure.add_note("an invalidation of the key is queued for the master")
            raise failure
        return acks

    def _queued(self, error: UnavailableError, keys: int, counters: Counters, on_error: OnError) -> list[Ack]:
        """The answers to writes in whose place invalidations are queued."""
        self._engine.failed(error, counters)
        counters.queued += keys
        if on_error == "raise":
            error.add_note("an invalidation of the key is queued for the master")
            raise error
        return [Ack(False, queued=True, reason="unavailable") for _ in range(keys)]

    def _set_call(self, writes: Sequence[tuple[Write, Pending]], deadline: float) -> Build:
        state, commands, mode = self._state, self._engine.commands, writes[0][0].mode

        def least(subject: Subject) -> int:
            # After a flush the log alone cannot show what was lost: the horizon does.
            return max(state.marks.need(subject), state.marks.horizon if mode == "since" else 0)

        return lambda replid, newest: commands.set_many(
            [
                Put(write.subject, item.id, *write.lifetime, write.envelope, write.since, least(write.subject))
                for write, item in writes
            ],
            replid=replid,
            newest=newest,
            **self._window(deadline),
            mode=mode,
        )

    async def _out_of_the_way(self, item: Pending, deadline: float) -> None:
        """A write whose connection ended may still lie in a socket. Nobody who writes after this call may be
        overwritten by it: wait until the invalidation in its place has cancelled it, or its time is over."""
        state = self._state
        while (left := deadline - state.now()) > 0:
            # It may be another item by now, of the same id: a master had it, and the present one lacks it (rule 3).
            waiting = state.journal.pending.get(item.id)
            if waiting is not None:
                await AsyncWaits.result(waiting.settled, left)
            elif item.had:
                return
            else:
                # Another invalidation stands for it, and cancels nothing, since it has another id.
                await AsyncWaits.pause(left)

    async def _know_time(self, deadline: float) -> None:
        """Wait until the master's time is known: without it no write can be sent safely (rule 11)."""
        state = self._state
        if state.clock.offset_us is None:
            await AsyncWaits.result(state.when_ready(), deadline - state.now())
        if state.clock.offset_us is None:
            await self.tip(deadline)  # any script brings the master's time

    def _window(self, deadline: float) -> dict[str, int]:
        """From the send to its deadline, in the time of the master that it is sent to: asked anew for each try,
        since another master may have another clock (rule 11)."""
        clock = self._state.clock
        sent, last = clock.server_us(self._state.now()), clock.server_us(deadline)
        if sent is None or last is None:
            raise MasterUnknown("the master's time is not known, so no write can be sent safely")
        return {"not_before_us": sent - _SLACK_US, "not_after_us": last}

    async def touch(
        self,
        subject: Subject,
        lifetime: tuple[int, int],
        deadline: float,
        *,
        renewed: bool | Literal["again"] = False,
    ) -> bool:
        """Change the expiry of a live entry, and whether reads renew it. Raises UnavailableError."""
        state, commands = self._state, self._engine.commands
        if not self._engine.start():
            return False
        await self._know_time(deadline)
        reply = parse_touch(
            await self._link.run(
                lambda replid, newest: commands.touch(
                    subject,
                    replid=replid,
                    newest=newest,
                    least=state.marks.need(subject),
                    **self._window(deadline),
                    soft_ms=lifetime[0],
                    span_ms=lifetime[1],
                    renewed=renewed,
                ),
                deadline,
            )
        )
        if reply.status == "late":
            state.clock_was_wrong(reply.now_us, reply.replid)
            raise MasterUnknown("the touch arrived too late and was refused")
        state.reading.pop(subject.key, None)
        with state.lock, state.change:
            state.near.drop(subject.key)
        return reply.status == "ok"

    async def incr(
        self, key: str, delta: int, initial: int, lifetime: tuple[int, int], deadline: float
    ) -> int | None:
        """Add to a counter, once at most. Raises UnavailableError, NotACounter, OverflowError."""
        state, commands = self._state, self._engine.commands
        if not self._engine.start():
            return None
        await self._know_time(deadline)
        subject = Subject(key)
        reply: IncrReply = parse_incr(
            await self._link.run(
                lambda replid, newest: commands.incr(
                    key,
                    replid=replid,
                    newest=newest,
                    **self._window(deadline),
                    id=state.new_id(),
                    delta=delta,
                    initial=initial,
                    soft_ms=lifetime[0],
                    span_ms=lifetime[1],
                    least=state.marks.need(subject),
                ),
                deadline,
                repeat=False,
            )
        )
        if reply.status == "type":
            raise NotACounter(f"{key} holds something else than a whole number: set it to an int first")
        if reply.status == "range":
            raise OverflowError(f"{key} would pass 2**53, beyond which a counter is not exact; use set()")
        if reply.status == "late":
            state.clock_was_wrong(reply.now_us, reply.replid)
        if reply.status != "ok":
            raise MasterUnknown("the increment arrived too late and was refused")
        return reply.value

    async def tip(self, deadline: float) -> int:
        """The newest stamp that the master has issued. Raises UnavailableError."""
        commands = self._engine.commands
        if not self._engine.start():
            raise MasterUnknown("the cache is closed")
        reply = parse_tip(
            await self._link.run(lambda replid, newest: commands.tip(replid=replid, newest=newest), deadline)
        )
        return reply.tip
