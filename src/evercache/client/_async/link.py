"""Scripts at the present master, and reads at whichever node may serve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from evercache.client._async.hedging import AsyncHedging
from evercache.client.shortage import ENOUGH_MEMORY
from evercache.client.waits import AsyncWaits
from evercache.engine.engine import Engine
from evercache.engine.readers import Reader
from evercache.errors import (
    DeadlineExceeded,
    Loading,
    NoScript,
    PoolExhausted,
    ReadOnly,
    ServerChanged,
    ServerError,
    UnavailableError,
)
from evercache.net.types import Overdue
from evercache.observe import Counters
from evercache.protocol.balance import LATEST
from evercache.protocol.commands import ScriptCall, in_full
from evercache.protocol.shapes import to_int, to_str
from evercache.protocol.types import Address, Command

__all__ = ["AsyncLink"]

#: The pause before a call is sent again (seconds), at least; doubled each time, and each up to so much at random.
_PAUSE, _LONGEST_PAUSE, _JITTER = 0.003, 0.024, 2.3

#: Builds the call for the generation and the newest mark known at the moment of sending.
Build = Callable[[str, int], ScriptCall]


class AsyncLink:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._hedging = AsyncHedging(engine)

    def __repr__(self) -> str:
        return f"<AsyncLink of {self._engine!r}>"

    async def run(self, build: Build, deadline: float, *, repeat: bool = True, at_once: bool = False) -> Any:
        """Run one script at the master and return its raw reply; see `run_many`."""
        return (await self.run_many([build], deadline, repeat=repeat, at_once=at_once))[0]

    async def run_many(
        self,
        builds: Sequence[Build],
        deadline: float,
        *,
        repeat: bool = True,
        at_once: bool = False,
        replicated: bool = False,
    ) -> list[Any]:
        """Run scripts at the master, in one write, and return their raw replies.

        Waits for a resync under way (with `at_once` not the first time, where that is of the same data: for scripts
        of which no reply is relied on), and with `repeat` (only for scripts that do the same when they run twice)
        asks again until the deadline, as long as the budget of retries of this process allows it; once the master
        is known to be down it is asked no more than the background does. With `replicated`, one more reply says
        whether the replicas in sync have all of it. Raises UnavailableError, also for an error reply to any.
        """
        engine = self._engine
        state = engine.state
        engine.retries.calls += 1
        pause, ran = _PAUSE, False
        while True:
            try:
                master = await self._master(deadline, at_once)
            except UnavailableError as error:
                error.maybe_run |= ran
                raise
            try:
                with ENOUGH_MEMORY:
                    return await self._once(master, builds, deadline, replicated)
            except UnavailableError as error:
                at_once = False
                # An earlier attempt may have run, though the last one was not even sent.
                ran = error.maybe_run = error.maybe_run or ran
                left = deadline - state.now()
                if left <= 0.002 or (error.maybe_run and not repeat):
                    raise
                if isinstance(error, ServerError) and not isinstance(error, (ReadOnly, Loading)):
                    raise  # OOM, NOPERM, ...: asking again does not help
                if not engine.may_retry():
                    error.retry_refused = True
                    raise
                await AsyncWaits.pause(min(left, pause * (1.0 + _JITTER * state.rng.random())))
                pause = min(2.0 * pause, _LONGEST_PAUSE)

    async def _master(self, deadline: float, at_once: bool = False) -> Address:
        """The master, once it is followed; raises why there is none, in the words of the background."""
        engine = self._engine
        state = engine.state
        known = state.ready or (at_once and state.same_data)
        if not known and not state.master_down:
            await AsyncWaits.result(state.when_ready(), deadline - state.now())
            known = state.ready
        master = engine.view.master
        if not known or state.master_down or master is None:
            raise engine.no_master()
        return master

    async def _once(self, master: Address, builds: Sequence[Build], deadline: float, replicated: bool) -> list[Any]:
        engine = self._engine
        state = engine.state
        # Only now: before the master is followed, its replicas are not known.
        replicas = engine.routing.replicas_to_wait_for() if replicated else 0
        generation, newest, book = state.generation, state.marks.newest, engine.bookkeeping
        calls = [build(generation, newest) for build in builds]
        sent = state.now()
        given = deadline - sent
        wait = [("WAIT", replicas, max(1, int(given * 1000) - 5))] if replicas else []
        # sync-only:
        # endpoint = engine.endpoint_sync(master)
        # end sync-only
        # async-only
        endpoint = engine.waiting_async(master) if wait else engine.endpoint_async(master)
        # end async-only
        try:
            replies = await endpoint.execute([*(call.evalsha() for call in calls), *wait], deadline)
            missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScript)]
            if missing:
                # It has not run: sent whole, with the same id and token. No retry is refused here, since this one
                # ends what made it necessary, for all callers.
                engine.may_retry()
                again = await endpoint.execute([*in_full([calls[i] for i in missing]), *wait], deadline)
                for i, reply in zip(missing, again[: len(missing)], strict=True):
                    replies[i] = reply
                if wait:
                    replies[-1] = again[-1]
        except UnavailableError as error:
            # Late behind a WAIT, it says nothing of the master.
            self._failed(master, error, 0.0 if wait else given)
            raise
        for reply in replies[: len(calls)]:
            self._check(master, generation, reply, sent)
        engine.still_kept_in(book)
        if replicated:
            have = replies.pop() if wait else 0
            replies.append(isinstance(have, int) and have >= replicas)
        return replies

    async def ask(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Run plain commands at the master, once. Raises UnavailableError, also for an error reply to any.

        What they bring is checked by nobody: not for values of entries.
        """
        master = await self._master(deadline)
        given = deadline - self._engine.state.now()
        try:
            replies = await self._engine.endpoint_async(master).execute(commands, deadline)
        except UnavailableError as error:
            self._failed(master, error, given)
            raise
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies

    def _failed(self, master: Address, error: UnavailableError, given: float) -> None:
        # One broken connection, or one caller in a hurry, is no dead master, as long as the tail hears it.
        engine = self._engine
        if isinstance(error, (ServerChanged, PoolExhausted)):
            return
        patient = isinstance(error, DeadlineExceeded) and given >= engine.settings.budget / 2
        if patient or not engine.heard_lately():
            engine.master_trouble(master, error)

    def _check(self, master: Address, generation: str, reply: Any, sent: float) -> None:
        engine = self._engine
        if isinstance(reply, ServerError):
            if isinstance(reply, (ReadOnly, Loading)):
                engine.topology.nudge()
                if engine.state.generation == generation:  # else another caller or the tail was quicker
                    engine.changed_generation()
            raise reply
        if isinstance(reply, list) and len(reply) >= 3:
            if reply[0] in (b"GEN", "GEN"):
                # Another life of its data: leave this connection, learn everything anew (rule 5).
                engine.disconnect(master)
                engine.changed_generation(to_str(reply[2]))
                raise ServerChanged(f"the data of {master} began another life")
            engine.observe_time(to_int(reply[1]), generation, sent)

    async def read(
        self,
        reader: Reader,
        commands: Sequence[Command],
        deadline: float,
        counters: Counters,
        *,
        hedged: bool = True,
    ) -> tuple[list[Any], Reader] | None:
        """Plain reads at a node that may serve them, or at another one when that is late; the replies, and the node
        that gave them. None when none did."""
        engine = self._engine
        hedges = engine.hedges
        began = engine.state.now()
        until = inf
        if hedged and hedges.share and engine.view.replicas:
            until = began + min(hedges.delay, LATEST * (deadline - began))
        endpoint = reader.endpoint_async or engine.attach_async(reader)
        try:
            answer = await endpoint.begin(commands, deadline, reader.expected, until)
        except UnavailableError as error:
            if not self.read_failed(reader, error):
                other = engine.routing.reader(began, reader.address)
                if other is not None:
                    return await self.read(other, commands, deadline, counters, hedged=False)
            return None
        if not isinstance(answer, list):
            return await self._hedging.late(reader, answer, began, commands, deadline, counters)
        for reply in answer:
            if isinstance(reply, ServerError):
                return self._hedging.taken(reader, answer, began, began)
        now = engine.state.now()
        reader.record(now - began, now)
        if until != inf:
            hedges.record(now - began)
        return answer, reader

    def read_failed(self, reader: Reader, error: UnavailableError) -> bool:
        """A node did not answer; False where all its connections wait for answers that are late: it has not failed
        yet."""
        if isinstance(error, Overdue):
            return False
        self._hedging.failed(reader, error)
        return True

    async def odd(
        self, reader: Reader, answer: Any, key: str, began: float, deadline: float, counters: Counters
    ) -> tuple[bytes | None, Reader] | None:
        """The value where a `GET` brought something else: an answer that is late, so that another node is asked as
        well, or an error. As `read`."""
        if hasattr(answer, "abandon"):
            found = await self._hedging.late(reader, answer, began, (("GET", key),), deadline, counters)
        else:
            found = self._hedging.taken(reader, [answer], began, began)
        if found is None:
            return None
        (reply,), reader = found
        return reply if isinstance(reply, bytes) else None, reader
