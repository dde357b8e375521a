"""The operations of a client that writes down what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from evercache.client._async.operations import AsyncOperations
from evercache.client.request import Request
from evercache.client.serving import NOT_ASKED, Unserved
from evercache.observe import Counters
from evercache.policy import OnError
from evercache.protocol.scope import Scope
from evercache.results import Ack
from evercache.testing.recording import Log, served

__all__ = ["AsyncRecordingOperations"]

_MISSING = object()


class AsyncRecordingOperations(AsyncOperations):
    """No state of its own; safe for threads and tasks. Without a store behind it, nothing is kept."""

    def __init__(self, plain: AsyncOperations, log: Log) -> None:
        super().__init__(plain._engine, plain._hits, plain._reads, plain._leads, plain._writes)
        self._log = log

    def __repr__(self) -> str:
        return f"<AsyncRecordingOperations {self._log!r}>"

    def _watched(self, request: Request) -> Request:
        """The same request; each run of its function is recorded, also one in the background."""

        async def compute() -> Any:
            try:
                value = await request.compute()
            except BaseException:
                self._log.add("compute", "raised", request.subject)
                raise
            self._log.add("compute", "returned", request.subject)
            return value

        return replace(request, compute=compute)

    # sync-only:
    # async def steps(self, request: Request, seen: Unserved | None = None) -> Any:
    # end sync-only
    # async-only
    async def call(self, request: Request, seen: Unserved | None = None) -> Any:
        # end async-only
        """See `AsyncOperations.call`."""
        watched = self._watched(request)
        if not self._log.stored:
            self._log.add("call", "miss", request.subject)
            return await watched.compute()
        outcome = await self._reads.fetch(watched)
        self._log.add("call", served(outcome), request.subject)
        return await self._result(watched, outcome)

    async def refresh(self, request: Request) -> Any:
        """See `AsyncOperations.refresh`."""
        watched = self._watched(request)
        try:
            value = await (super().refresh(watched) if self._log.stored else watched.compute())
        except BaseException:
            self._log.add("refresh", "raised", request.subject)
            raise
        self._log.add("refresh", "done", request.subject)
        return value

    async def peek(self, request: Request, default: Any) -> Any:
        """See `AsyncOperations.peek`."""
        value = await super().peek(request, _MISSING) if self._log.stored else _MISSING
        return self._read("peek", request, value, default)

    async def get(self, request: Request, default: Any) -> Any:
        """See `AsyncOperations.get`."""
        (value,) = await self.get_many([request], default)
        return value

    async def get_many(self, requests: Sequence[Request], default: Any, seen: Unserved = NOT_ASKED) -> list[Any]:
        """See `AsyncOperations.get_many`."""
        values: list[Any] = [_MISSING] * len(requests)
        if self._log.stored:
            values = await super().get_many(requests, _MISSING, seen)
        pairs = zip(requests, values, strict=True)
        return [self._read("get", request, value, default) for request, value in pairs]

    def _read(self, operation: str, request: Request, value: Any, default: Any) -> Any:
        self._log.add(operation, "miss" if value is _MISSING else "hit", request.subject)
        return default if value is _MISSING else value

    async def set(
        self,
        request: Request,
        value: Any,
        *,
        mode: Literal["set", "add", "since"] = "set",
        since: int = 0,
    ) -> Ack:
        """See `AsyncOperations.set`."""
        ack = Ack(True)
        if self._log.stored:
            ack = await super().set(request, value, mode=mode, since=since)
        self._log.write("add" if mode == "add" else "set", ack, request.subject)
        return ack

    async def set_many(self, requests: Mapping[str, tuple[Request, Any]]) -> dict[str, Ack]:
        """See `AsyncOperations.set_many`."""
        acks = dict.fromkeys(requests, Ack(True))
        if self._log.stored:
            acks = await super().set_many(requests)
        for key, (request, _) in requests.items():
            self._log.write("set", acks[key], request.subject)
        return acks

    async def touch(self, request: Request) -> bool:
        """See `AsyncOperations.touch`."""
        done = self._log.stored and await super().touch(request)
        self._log.add("touch", "done" if done else "miss", request.subject)
        return done

    async def incr(self, request: Request, delta: int, initial: int) -> int | None:
        """See `AsyncOperations.incr`."""
        value = await super().incr(request, delta, initial) if self._log.stored else None
        self._log.add("incr", "unavailable" if value is None else "done", request.subject)
        return value

    async def invalidate(
        self,
        scopes: Sequence[Scope],
        counters: Counters,
        *,
        function: str = "",
        on_error: OnError | None = None,
    ) -> list[Ack]:
        """See `AsyncOperations.invalidate`."""
        acks = [Ack(True)] * len(scopes)
        if self._log.stored:
            acks = await super().invalidate(scopes, counters, function=function, on_error=on_error)
        for scope in scopes:
            self._log.invalidation(scope, function)
        return acks
