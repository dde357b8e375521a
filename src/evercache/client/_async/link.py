"""Scripts at the present master, and reads at whichever node may serve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
from evercache.protocol.commands import ScriptCall
from evercache.protocol.shapes import to_int, to_str
from evercache.wire.types import Address, Command

__all__ = ["AsyncLink"]

#: Builds the call for the generation and the newest mark known at the moment of sending.
Build = Callable[[str, int], ScriptCall]


class AsyncLink:
    """No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __repr__(self) -> str:
        return f"<AsyncLink of {self._engine!r}>"

    async def run(self, build: Build, deadline: float, *, repeat: bool = True) -> Any:
        """Run one script at the master and return its raw reply; see `run_many`."""
        return (await self.run_many([build], deadline, repeat=repeat))[0]

    async def run_many(
        self, builds: Sequence[Build], deadline: float, *, repeat: bool = True, replicas: int = 0
    ) -> list[Any]:
        """Run scripts at the master, in one write, and return their raw replies.

        Waits for a resync under way, and with `repeat` (only for scripts that do the same when they run twice)
        asks again until the deadline; once the master is known to be down it is asked no more than the
        background does. With `replicas`, the last reply is the number of replicas that have all of it (`WAIT`).
        Raises UnavailableError, also for an error reply to any of them.
        """
        state = self._engine.state
        while True:
            master = await self._master(deadline)
            try:
                return await self._once(master, builds, deadline, replicas)
            except UnavailableError as error:
                left = deadline - state.now()
                if left <= 0.002 or (error.maybe_run and not repeat):
                    raise
                if isinstance(error, ServerError) and not isinstance(error, (ReadOnly, Loading)):
                    raise  # OOM, NOPERM, ...: asking again does not help
                await AsyncWaits.pause(min(left, 0.003 + 0.007 * state.rng.random()))

    async def _master(self, deadline: float) -> Address:
        """The master, once it is followed; raises why there is none, in the words of the background."""
        engine = self._engine
        state = engine.state
        if not state.ready and not state.master_down:
            await AsyncWaits.result(state.when_ready(), deadline - state.now())
        master = engine.view.master
        if not state.ready or state.master_down or master is None:
            raise engine.no_master()
        return master

    async def _once(self, master: Address, builds: Sequence[Build], deadline: float, replicas: int) -> list[Any]:
        engine = self._engine
        state = engine.state
        generation, newest = state.generation, state.marks.newest
        calls = [build(generation, newest) for build in builds]
        given = deadline - state.now()
        wait = [("WAIT", replicas, max(1, int((deadline - state.now()) * 1000) - 5))] if replicas else []
        endpoint = engine.endpoint_async(master)
        try:
            replies = await endpoint.execute([*(call.evalsha() for call in calls), *wait], deadline)
            missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScript)]
            if missing:
                # It has not run: sent whole, with the same id and token.
                again = await endpoint.execute([*(calls[i].eval() for i in missing), *wait], deadline)
                for i, reply in zip(missing, again[: len(missing)], strict=True):
                    replies[i] = reply
                if wait:
                    replies[-1] = again[-1]
        except UnavailableError as error:
            self._failed(master, error, given)
            raise
        for reply in replies[: len(calls)]:
            self._check(master, generation, reply)
        return replies

    def _failed(self, master: Address, error: UnavailableError, given: float) -> None:
        # One broken connection, or one caller in a hurry, is no dead master, as long as the tail hears it.
        engine = self._engine
        if isinstance(error, (ServerChanged, PoolExhausted)):
            return
        patient = isinstance(error, DeadlineExceeded) and given >= engine.settings.budget / 2
        if patient or not engine.heard_lately():
            engine.master_trouble(master, error)

    def _check(self, master: Address, generation: str, reply: Any) -> None:
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
                engine.sync_endpoints.disconnect(master)
                engine.async_endpoints.disconnect(master)
                engine.changed_generation(to_str(reply[2]))
                raise ServerChanged(f"the data of {master} began another life")
            engine.observe_time(to_int(reply[1]), generation)

    async def read(self, reader: Reader, commands: Sequence[Command], deadline: float) -> list[Any] | None:
        """Plain reads at a node that may serve them; None when it did not answer them."""
        engine = self._engine
        now = engine.state.now
        endpoint = engine.endpoint_async(reader.address)
        began = now()
        reader.started()
        try:
            replies = await endpoint.execute(commands, deadline, reader.expected)
        except UnavailableError as error:
            reader.fail(now(), error)
            return None
        finally:
            reader.finished()
        for index, reply in enumerate(replies):
            if isinstance(reply, ServerError):
                if reply.code != "WRONGTYPE":
                    reader.fail(now(), reply)
                    return None
                replies[index] = None  # a foreign value under one key says nothing of the node
        done = now()
        reader.record(done - began, done)
        return replies
