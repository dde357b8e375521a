"""Cached functions: what the decorator makes of a function, a method or a coroutine function."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from evercache.client.request import Request, Usual
from evercache.codecs import Encoder
from evercache.errors import SyncInLoopError
from evercache.observe import Counters
from evercache.policy import Policy
from evercache.protocol.scope import Scope, Subject, tag_hash
from evercache.protocol.signature import Signature, TagTemplate
from evercache.results import Ack, Explanation, Stats

if TYPE_CHECKING:
    from evercache.cache import Cache

__all__ = ["AsyncCachedFunction", "CachedFunction", "FunctionCore", "Key"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")

#: A template with parameter names, or a function of the call's arguments that returns one tag or several.
TagSource = str | Callable[..., str | Iterable[str]]


class Key(str):
    """The key of an entry as it stands on the server; direct operations take it as it is."""

    __slots__ = ("function",)
    function: str

    @classmethod
    def of(cls, text: str, function: str) -> Key:
        """A key of a function's entry."""
        key = cls(text)
        key.function = function
        return key


def _as_tags(tags: str | Iterable[str]) -> Iterable[str]:
    return (tags,) if isinstance(tags, str) else tags


class FunctionCore:
    """What does not change between the calls of one function. Counters apart, immutable after creation."""

    def __init__(
        self,
        cache: Cache,
        fn: Callable[..., Any],
        *,
        name: str,
        is_async: bool,
        signature: Signature,
        policy: Policy,
        encoder: Encoder,
        tags: Iterable[TagSource],
        tags_from: Callable[[Any], Iterable[str]] | None,
    ) -> None:
        self.cache = cache
        self.fn = fn
        self.name = name
        self.is_async = is_async
        self.signature = signature
        self.policy = policy
        self.encoder = encoder
        self.counters = Counters()
        self.usual = Usual()
        self._templates = [TagTemplate.compile(t, signature.parameters) for t in tags if isinstance(t, str)]
        self._tag_functions = [t for t in tags if not isinstance(t, str)]
        self._tags_from = tags_from

    def __repr__(self) -> str:
        return f"<FunctionCore {self.name}>"

    def subject(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Subject:
        """What a call is about; TypeError for arguments that make no key, or no tag."""
        cache = self.cache
        text = self.signature.call_text(args, kwargs)
        key = cache.naming.entry_key(cache.settings.namespace, self.name, text)
        return Subject(key, self.name, self._tags(args, kwargs))

    def _tags(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, ...]:
        if not self._templates and not self._tag_functions:
            return ()
        tags: list[str] = []
        if self._templates:
            arguments = self.signature.arguments(self.signature.bind(*args, **kwargs))
            tags += [template.render(arguments) for template in self._templates]
        for function in self._tag_functions:
            tags += _as_tags(function(*args, **kwargs))
        return tuple(dict.fromkeys(map(tag_hash, tags)))

    def _result_tags(self, value: Any) -> tuple[bytes, ...]:
        assert self._tags_from is not None
        return tuple(map(tag_hash, _as_tags(self._tags_from(value))))

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """A call, as the client takes it."""
        return Request(
            self.subject(args, kwargs),
            self.policy,
            self.encoder,
            self.counters,
            self.usual,
            functools.partial(self.fn, *args, **kwargs),
            self._result_tags if self._tags_from is not None else None,
        )


class _Function(Generic[P, R]):
    """What both kinds of cached functions can do. Immutable; a method is bound by `__get__`."""

    def __init__(self, core: FunctionCore, bound: tuple[Any, ...] = (), binding: str = "function") -> None:
        self._core = core
        self._bound = bound
        self._binding = binding
        if not bound:
            functools.update_wrapper(self, core.fn)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<cached {self._core.name}{' of ' + repr(self._bound[0]) if self._bound else ''}>"

    def __getattr__(self, name: str) -> Any:
        # A bound method shows what its function shows.
        if name in ("_core", "_bound", "_binding"):
            raise AttributeError(name)
        if name == "__wrapped__":
            return self.uncached
        return getattr(self._core.fn, name)

    def __eq__(self, other: object) -> bool:
        # As bound methods are: equal for the same function and the same object.
        if not isinstance(other, _Function):
            return NotImplemented
        same = len(self._bound) == len(other._bound) and all(map(operator.is_, self._bound, other._bound))
        return same and self._core is other._core

    def __hash__(self) -> int:
        return hash((id(self._core), *map(id, self._bound)))

    def __reduce__(self) -> Any:
        # Pickled by name, as a plain function is: task queues rely on it.
        if self._bound:
            return getattr, (self._bound[0], self._core.fn.__name__)
        return self._core.fn.__qualname__

    @property
    def uncached(self) -> Callable[P, R]:
        """The plain function."""
        fn = self._core.fn
        return functools.partial(fn, *self._bound) if self._bound else fn

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of this call's entry as it stands on the server; direct operations take it too."""
        subject = self._core.subject(self._bound + args, kwargs)
        return Key.of(subject.key, subject.function)

    def stats(self) -> Stats:
        """Counts of this function since the process began."""
        return Stats(self._core.counters)

    # -- for tasks, whatever the function is

    async def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> Ack:
        """Invalidate this call's entry. Never raises for a server's failure unless `on_error="raise"`."""
        core = self._core
        subject = core.subject(self._bound + args, kwargs)
        client = core.cache._client_async()
        if client is None:
            return core.cache._unsent()
        scope = Scope.of_key(subject.key)
        (ack,) = await client.operations.invalidate(
            [scope], core.counters, function=core.name, on_error=core.policy.on_error
        )
        return ack

    async def ainvalidate_all(self) -> Ack:
        """Invalidate every entry of the function, in one step whatever their number."""
        core = self._core
        client = core.cache._client_async()
        if client is None:
            return core.cache._unsent()
        scope = Scope.of_function(core.name)
        (ack,) = await client.operations.invalidate([scope], core.counters, on_error=core.policy.on_error)
        return ack

    @overload
    async def apeek(self, *args: P.args, **kwargs: P.kwargs) -> R | None: ...
    @overload
    async def apeek(self, *args: Any, default: T, **kwargs: Any) -> R | T: ...
    async def apeek(self, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """The cached value or `default`; never computes."""
        client = self._core.cache._client_async()
        if client is None:
            return default
        return await client.operations.peek(self._core.request(self._bound + args, kwargs), default)

    async def aexplain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Why this call hits or misses now."""
        request = self._core.request(self._bound + args, kwargs)
        client = self._core.cache._client_async()
        if client is None:
            return Explanation(request.subject.key, "miss: the cache is switched off")
        return await client.operations.explain(request)

    # -- for threads

    def _check_loop(self, name: str) -> None:
        """The blocking form on a coroutine function would hold the loop that the function needs."""
        if self._core.is_async:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return
            raise SyncInLoopError(
                f"{self._core.name}.{name}() would block the running event loop: use `await "
                f"{self._core.fn.__name__}.a{name}(...)`"
            )

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Ack:
        """Invalidate this call's entry. Never raises for a server's failure unless `on_error="raise"`."""
        self._check_loop("invalidate")
        core = self._core
        subject = core.subject(self._bound + args, kwargs)
        client = core.cache._client_sync()
        if client is None:
            return core.cache._unsent()
        scope = Scope.of_key(subject.key)
        (ack,) = client.operations.invalidate(
            [scope], core.counters, function=core.name, on_error=core.policy.on_error
        )
        return ack

    def invalidate_all(self) -> Ack:
        """Invalidate every entry of the function, in one step whatever their number."""
        self._check_loop("invalidate_all")
        core = self._core
        client = core.cache._client_sync()
        if client is None:
            return core.cache._unsent()
        scope = Scope.of_function(core.name)
        (ack,) = client.operations.invalidate([scope], core.counters, on_error=core.policy.on_error)
        return ack

    @overload
    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None: ...
    @overload
    def peek(self, *args: Any, default: T, **kwargs: Any) -> R | T: ...
    def peek(self, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """The cached value or `default`; never computes."""
        self._check_loop("peek")
        client = self._core.cache._client_sync()
        if client is None:
            return default
        return client.operations.peek(self._core.request(self._bound + args, kwargs), default)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Why this call hits or misses now."""
        self._check_loop("explain")
        request = self._core.request(self._bound + args, kwargs)
        client = self._core.cache._client_sync()
        if client is None:
            return Explanation(request.subject.key, "miss: the cache is switched off")
        return client.operations.explain(request)

    def _bind(self, instance: Any, owner: Any) -> Any:
        match self._binding:
            case "static":
                return self
            case "class":
                return type(self)(self._core, (owner if owner is not None else type(instance),))
        if instance is None or self._bound:
            return self
        return type(self)(self._core, (instance,))


class CachedFunction(_Function[P, R]):
    """A cached function or method. Calling it is calling the function, faster."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own."""
        core = self._core
        if self._bound:
            args = self._bound + args  # type: ignore[assignment]
        client = core.cache._client_sync()
        if client is None:
            result: R = core.fn(*args, **kwargs)
            return result
        value: R = client.operations.call(core.request(args, kwargs))
        return value

    # In order: class methods, by the class, by an object, and static methods by an object.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], R], instance: Any, owner: type[T]
    ) -> CachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> CachedFunction[P, R]: ...
    @overload
    def __get__(self: Callable[Concatenate[T, Q], R], instance: T, owner: Any = None) -> CachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> CachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self._bind(instance, owner)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute now and store, whatever is cached."""
        client = self._core.cache._client_sync()
        if client is None:
            return self.uncached(*args, **kwargs)
        value: R = client.operations.refresh(self._core.request(self._bound + args, kwargs))
        return value

    async def arefresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for tasks; the function runs in a thread."""
        return await asyncio.to_thread(self.refresh, *args, **kwargs)


class AsyncCachedFunction(_Function[P, R]):
    """A cached coroutine function or method."""

    # asyncio.iscoroutinefunction() of Python 3.11 looks for this mark.
    _is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own."""
        core = self._core
        if self._bound:
            args = self._bound + args  # type: ignore[assignment]
        client = core.cache._client_async()
        if client is None:
            result: R = await core.fn(*args, **kwargs)
            return result
        value: R = await client.operations.call(core.request(args, kwargs))
        return value

    # In order: class methods, by the class, by an object, and static methods by an object.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], Coroutine[Any, Any, R]], instance: Any, owner: type[T]
    ) -> AsyncCachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[T, Q], Coroutine[Any, Any, R]], instance: T, owner: Any = None
    ) -> AsyncCachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> AsyncCachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self._bind(instance, owner)

    async def arefresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute now and store, whatever is cached."""
        core = self._core
        client = core.cache._client_async()
        if client is None:
            plain: R = await core.fn(*self._bound, *args, **kwargs)
            return plain
        value: R = await client.operations.refresh(core.request(self._bound + args, kwargs))
        return value

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for threads; the function runs in an event loop of its own."""
        self._check_loop("refresh")
        work: Coroutine[Any, Any, R] = self.arefresh(*args, **kwargs)
        return asyncio.run(work)
