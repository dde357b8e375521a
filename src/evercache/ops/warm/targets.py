"""The functions that are to be warmed: found by name, asked what they have, and called."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from evercache.api.batch_core import BatchCore
from evercache.api.core import FunctionCore
from evercache.batches import AsyncCachedMany, CachedMany
from evercache.cache import Cache
from evercache.client.request import Batch, Request
from evercache.client.serving import Unserved
from evercache.errors import ConfigurationError
from evercache.function import AsyncCachedFunction, CachedFunction
from evercache.observe import Counters
from evercache.ops.warm.keeping import keep_after_all
from evercache.ops.warm.pace import Kept, Outcome
from evercache.process import new_lock

__all__ = ["Item", "Standing", "Target", "find_targets"]

#: What is cached of a call.
Standing = Literal["fresh", "stale", "nothing"]
#: Seconds that a call may spend on the servers here, where no visitor waits: a result is not to be lost to a stall.
_BUDGET = 5.0
_KINDS = (CachedFunction, AsyncCachedFunction, CachedMany, AsyncCachedMany)


class Item:
    """One call: where it stands in the list, and its arguments (one id in the place of many)."""

    __slots__ = ("args", "kwargs", "line")

    def __init__(self, line: int, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.line = line
        self.args = args
        self.kwargs = kwargs or {}

    def __repr__(self) -> str:
        given = [repr(value) for value in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"<Item {self.line}: ({', '.join(given)})>"


class Loop:
    """One event loop in a thread of its own, for coroutine functions. Made at the first use."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def result(self, work: Any) -> Any:
        """What a coroutine returns or raises, for a thread that waits for it."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="evercache-warm-loop", daemon=True).start()
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def close(self) -> None:
        """End the loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


_loop = Loop()


class Target:
    """One cached function. Safe for threads."""

    def __init__(self, core: FunctionCore, bound: tuple[Any, ...] = ()) -> None:
        self.core = core
        self.bound = bound
        cache = core.cache
        assert isinstance(cache, Cache)
        self.cache = cache

    def __repr__(self) -> str:
        return f"<Target {self.core.name}>"

    @property
    def many(self) -> bool:
        """Whether it takes many ids."""
        return isinstance(self.core, BatchCore)

    def check(self, item: Item) -> None:
        """TypeError when these arguments do not fit, or make no key."""
        self._request(item)

    def _request(self, item: Item) -> Request:
        """What is asked for; for many ids, of the one id (its `compute` is of no use then)."""
        core, args = self.core, self.bound + item.args
        if isinstance(core, BatchCore):
            values = core.signature.bind(*args, **item.kwargs)
            id = values[core.position]
            given, named = core.signature.replaced(args, item.kwargs, core.position, [id])
            return core.batch(given, named).requests[0]
        return core.request(args, item.kwargs)

    def standing(self, items: Sequence[Item]) -> list[Standing]:
        """What is cached of these calls, by one round trip to one node; "nothing" also where it could not say."""
        client = self.cache._client_sync()
        if client is None:
            return ["nothing"] * len(items)
        state = client.engine.state
        subjects = [self._request(item).subject for item in items]
        needs = [state.marks.need(subject) for subject in subjects]
        founds = client.reads.look_many(subjects, needs, state.now() + _BUDGET, Counters())
        return ["nothing" if one is None else "stale" if one.stale else "fresh" for one in founds]

    def call(self, item: Item, stale: bool = False) -> tuple[Outcome, ...]:
        """Have one call cached; with `stale`, its old value is replaced. Whatever it raises is in the outcome."""
        results: list[Any] = []
        counters = Counters()
        try:
            request = self._request(item)
            compute = request.compute

            def counted() -> Any:
                results.append(compute())
                return results[0]

            async def acounted() -> Any:
                results.append(await compute())
                return results[0]

            # A visitor waits no longer than the budget of the function; this waits until the result is kept.
            request = replace(
                request,
                compute=acounted if self.core.is_async else counted,
                policy=replace(request.policy, budget=_BUDGET),
                counters=counters,
            )
            since = self._newest()
            self._cached(request, stale)
            if not results:
                if counters.raised:
                    return (Outcome(item.line, "failed", "it raised, and its old value serves (stale_if_error)"),)
                return (Outcome(item.line, "cached"),)
            kept: Kept = "kept" if counters.stored else self._after_all(request, results[0], since)
            return (Outcome(item.line, "warmed", kept=kept),)
        except Exception as error:  # the application's own
            return (Outcome(item.line, "failed", f"{type(error).__name__}: {error}"),)

    def _newest(self) -> int:
        """The newest mark that is known: what is computed from now on is newer than everything up to it."""
        client = self.cache._client_sync()
        return 0 if client is None else client.engine.state.marks.newest

    def _after_all(self, request: Request, result: Any, since: int) -> Kept:
        client = self.cache._client_sync()
        return "lost" if client is None else keep_after_all(self.cache, client, request, result, since)

    def _cached(self, request: Request, stale: bool) -> None:
        client, asynchronous = self.cache._client_sync(), self.cache._client_async()
        if client is None or asynchronous is None:
            return
        state = client.engine.state
        # A look that found nothing: the master is asked at once, which has it if somebody was quicker.
        looked = Unserved(state.now(), None, "replica", state.resyncs)
        if self.core.is_async:
            operations = asynchronous.operations
            _loop.result(operations.refresh(request) if stale else operations.call(request, looked))
        elif stale:
            client.operations.refresh(request)
        else:
            client.operations.call(request, looked)

    def call_many(self, items: Sequence[Item], stale: bool = False) -> tuple[Outcome, ...]:
        """The same for ids whose other arguments agree, in one call of the function."""
        core, counters = self.core, Counters()
        assert isinstance(core, BatchCore)
        args, kwargs = self.bound + items[0].args, items[0].kwargs
        ids = [core.signature.bind(*self.bound, *item.args, **item.kwargs)[core.position] for item in items]
        ran: set[Any] = set()
        try:
            given, named = core.signature.replaced(args, kwargs, core.position, ids)
            batch = core.batch(given, named)
            compute = batch.compute

            def counted(missing: list[Any]) -> Any:
                ran.update(missing)
                return compute(missing)

            policy = replace(batch.requests[0].policy, budget=_BUDGET)
            requests = tuple(replace(one, policy=policy, counters=counters) for one in batch.requests)
            since = self._newest()
            values = self._cached_many(replace(batch, requests=requests, compute=counted), stale)
            kept: dict[Any, Kept] = dict.fromkeys(ids, "kept")
            if counters.stored < len(ran):
                # Which of them it was is not said: each is looked at, and of those that are not there brought.
                request_of = dict(zip(batch.ids, requests, strict=True))
                there = dict(zip(ids, self.standing(items), strict=True))
                for id in ran:
                    if id not in values:
                        kept[id] = "declined"
                    elif there[id] != "fresh":
                        kept[id] = self._after_all(request_of[id], values[id], since)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            return tuple(Outcome(item.line, "failed", why) for item in items)
        return tuple(
            Outcome(item.line, "warmed" if id in ran else "cached", kept=kept[id])
            for item, id in zip(items, ids, strict=True)
        )

    def _cached_many(self, batch: Batch, stale: bool) -> dict[Any, Any]:
        client, asynchronous = self.cache._client_sync(), self.cache._client_async()
        if client is None or asynchronous is None:
            return {}
        if self.core.is_async:
            work = asynchronous.batches.refresh(batch) if stale else asynchronous.batches.call(batch)
            values: dict[Any, Any] = _loop.result(work)
            return values
        return client.batches.refresh(batch) if stale else client.batches.call(batch)

    def others(self, item: Item) -> str:
        """The text of all arguments but the id."""
        core = self.core
        assert isinstance(core, BatchCore)
        args, kwargs = core.signature.replaced(self.bound + item.args, item.kwargs, core.position, None)
        return core.signature.text(core.signature.bind(*args, **kwargs))


def find_targets(names: Sequence[str], folder: str | Path = ".") -> list[Target]:
    """The functions of `module:name` (`module:object.method`), or all of a cache; `folder` is where modules are.

    ConfigurationError says what is wrong with a name. What a module raises when it is imported is raised.
    """
    path = str(Path(folder).resolve())
    if path not in sys.path:
        sys.path.insert(0, path)
    found: list[Target] = []
    for name in names:
        found += [one for one in _found(name) if one.core not in [known.core for known in found]]
    return found


def _found(name: str) -> list[Target]:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigurationError(f"{name!r} names no function: write module:function, such as shop.stats:totals")
    try:
        one: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"there is no module {module!r} here: see --app-dir") from error
    for part in attribute.split("."):
        try:
            one = getattr(one, part)
        except AttributeError as error:
            raise ConfigurationError(f"{module} has no {attribute}") from error
    if isinstance(one, Cache):
        cores = [core for core in one._functions if not _of_object(core)]
        if not cores:
            raise ConfigurationError(f"no function of the cache {name} is imported: import its modules in {module}")
        return [Target(core) for core in cores]
    if hasattr(one, "_evercache_memo"):
        raise ConfigurationError(f"{name} is a function of the Flask extension: use `flask cache warm`")
    if not isinstance(one, _KINDS):
        raise ConfigurationError(f"{name} is no cached function, and no Cache")
    core: FunctionCore = one._core
    bound: tuple[Any, ...] = one._bound
    if not bound and _of_object(core):
        raise ConfigurationError(f"{name} is a method: name it by an object of the module, module:object.method")
    return [Target(core, bound)]


def _of_object(core: FunctionCore) -> bool:
    """Whether its first parameter is an object that only a bound method has."""
    parameters = core.signature.parameters
    return bool(parameters) and parameters[0] in ("self", "cls") and "." in core.fn.__qualname__


def clients_of(targets: Sequence[Target]) -> list[Cache]:
    """The caches of these functions, each once."""
    return list(dict.fromkeys(target.cache for target in targets))


def finish() -> None:
    """End what was begun for coroutine functions."""
    _loop.close()
