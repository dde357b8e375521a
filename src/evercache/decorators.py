"""The decorators: what `cache.cached(...)` and `cache.cached_many(...)` make of a function."""

from __future__ import annotations

import inspect
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, Protocol, TypeVar, overload

from evercache.api.batch_core import BatchCore, ids_position
from evercache.api.core import FunctionCore, Functions, TagFunction, TagSource
from evercache.api.keyspace import Keyspace
from evercache.api.options import check_arguments, check_cache_errors, check_callables, tag_sources
from evercache.codecs import Codec, TypeRegistry
from evercache.errors import ConfigurationError
from evercache.policy import TTL, OnError, Seconds, seconds
from evercache.protocol.keys import check_name, versioned
from evercache.protocol.signature import Defaults, Signature, check_cacheable

__all__ = ["Decorators"]

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
C = TypeVar("C", bound=type)


if TYPE_CHECKING:
    from evercache.batches import AsyncCachedMany, CachedMany
    from evercache.client._async.hits import AsyncHits
    from evercache.client._sync.hits import SyncHits
    from evercache.function import AsyncCachedFunction, CachedFunction

    class _Anything:
        """A class that no function returns, unless it returns whatever is wanted of it: `T`, or `Any`."""

    #: A function whose result has a type that its arguments decide: `def first(items: Sequence[T]) -> T`.
    F = TypeVar("F", bound=Callable[..., _Anything])

    class GenericFunction(CachedFunction[..., Any], Generic[F]):
        """How checkers see it when cached: a call has the types of the plain function, the rest is `Any`."""

        __call__: F

        def __get__(self, instance: Any, owner: Any = None) -> CachedFunction[..., Any]: ...

    #: A coroutine function of that kind.
    A = TypeVar("A", bound=Callable[..., Coroutine[Any, Any, _Anything]])

    class GenericCoroutine(AsyncCachedFunction[..., Any], Generic[A]):
        """The same for a coroutine function. Its methods are `Any` too: mypy cannot bind a generic method."""

        __call__: A

        def __get__(self, instance: Any, owner: Any = None) -> AsyncCachedFunction[..., Any]: ...


class Decorator(Protocol):
    """What `cache.cached(...)` returns: takes a function, gives a cached one."""

    # The first that fits is meant. A function that returns `T` could return a coroutine, as far as a checker knows,
    # and a coroutine function is a function that returns one.
    @overload
    def __call__(self, fn: F, /) -> GenericFunction[F]: ...
    @overload
    def __call__(self, fn: A, /) -> GenericCoroutine[A]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> CachedFunction[P, R]: ...


class ManyDecorator(Protocol):
    """What `cache.cached_many(...)` returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, Mapping[K, V]]], /) -> AsyncCachedMany[P, K, V]: ...
    @overload
    def __call__(self, fn: Callable[P, Mapping[K, V]], /) -> CachedMany[P, K, V]: ...


def _unwrapped(fn: Any) -> tuple[Callable[..., Any], str]:
    """A function, and how it is bound."""
    if isinstance(fn, (classmethod, staticmethod)):
        return fn.__func__, "class" if isinstance(fn, classmethod) else "static"
    return fn, "function"


def _caller(depth: int) -> str:
    """`file:line` of the caller of the function that is so many frames above ours."""
    try:
        outer = sys._getframe(depth + 1).f_back
    except ValueError:  # the stack is not so deep: called from C
        return ""
    return "" if outer is None else f"{outer.f_code.co_filename}:{outer.f_lineno}"


class Decorators(Keyspace):
    """A part of `Cache`."""

    _types: TypeRegistry
    _functions: Functions

    @abstractmethod
    def _hits_sync(self) -> SyncHits | None:
        """The hot path for threads; None when the long way has to find out."""

    @abstractmethod
    def _hits_async(self) -> AsyncHits | None:
        """The hot path for tasks; None when the long way has to find out."""

    # In the order of `Decorator`.
    @overload
    def cached(self, fn: F, /) -> GenericFunction[F]: ...
    @overload
    def cached(self, fn: A, /) -> GenericCoroutine[A]: ...  # type: ignore[overload-overlap]
    @overload
    def cached(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def cached(self, fn: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def cached(
        self,
        *,
        ttl: TTL | None = None,
        tags: Iterable[TagSource] | TagFunction = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        stale: Seconds = 0,
        stale_if_error: Seconds = 0,
        near: Seconds = 0,
        version: str | int | None = None,
        ignore: Iterable[str] = (),
        key: Callable[..., Any] | None = None,
        cache_if: Callable[[Any], bool] | None = None,
        ttl_if_none: Seconds | None = None,
        cache_errors: Mapping[type[Exception], Seconds] | None = None,
        jitter: float | None = None,
        beta: float | None = None,
        budget: Seconds | None = None,
        on_error: OnError | None = None,
        codec: Codec | None = None,
        name: str | None = None,
    ) -> Decorator: ...
    def cached(self, *function: Any, **options: Any) -> Any:
        """Cache the results of a function, method or coroutine function.

        `ttl`: seconds, a timedelta, or a callable of the result. `tags`: templates with parameter names
        (`"project:{project_id}"`) and callables of the arguments, or one callable; `tags_from`: one of the result.
        `stale`: seconds past the TTL in which the old value is served while one caller refreshes it;
        `stale_if_error`: the same when the function raises. `near`: seconds in the process's own memory.
        `version`: another version of the code has entries of its own. `ignore`: parameters that do not matter;
        `key`: a callable of the arguments that returns what does. `cache_if`: whether a result is cached;
        `ttl_if_none`: the TTL of None. `cache_errors`: exceptions to cache, and for how long. `jitter`: the
        share of the TTL by which entries expire earlier at random; `beta`: the eagerness of early refreshes
        (XFetch), 0 for none. Raises TypeError for functions and tags that cannot be cached.
        """
        check_arguments("cached", function, options, _OPTIONS)
        if function:
            return self._decorate(function[0], options)
        return lambda fn: self._decorate(fn, options)

    def _decorate(self, wrapped: Any, options: Mapping[str, Any], defaults: Defaults | None = None) -> Any:
        """`defaults`: as they were read earlier, where the function was decorated before this cache was known."""
        fn, binding = _unwrapped(wrapped)
        is_async = check_cacheable(fn)
        settled = self._core_options(fn, **options)
        if defaults is not None:
            settled["signature"] = settled["signature"].with_defaults(defaults)
        core = FunctionCore(self, fn, is_async=is_async, **settled)
        self._register(core)
        from evercache.function import AsyncCachedFunction, CachedFunction  # with asyncio; see `Cache.__init__`

        if is_async:
            return AsyncCachedFunction._of(core, binding, self._hits_async)
        return CachedFunction._of(core, binding, self._hits_sync)

    @overload
    def cached_many(self, fn: Callable[P, Coroutine[Any, Any, Mapping[K, V]]], /) -> AsyncCachedMany[P, K, V]: ...
    @overload
    def cached_many(self, fn: Callable[P, Mapping[K, V]], /) -> CachedMany[P, K, V]: ...
    @overload
    def cached_many(
        self,
        *,
        ttl: TTL | None = None,
        tags: Iterable[TagSource] | TagFunction = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        stale: Seconds = 0,
        stale_if_error: Seconds = 0,
        near: Seconds = 0,
        version: str | int | None = None,
        ignore: Iterable[str] = (),
        key: Callable[..., Any] | None = None,
        cache_if: Callable[[Any], bool] | None = None,
        ttl_if_none: Seconds | None = None,
        jitter: float | None = None,
        beta: float | None = None,
        budget: Seconds | None = None,
        on_error: OnError | None = None,
        codec: Codec | None = None,
        name: str | None = None,
    ) -> ManyDecorator: ...
    def cached_many(self, *function: Any, **options: Any) -> Any:
        """Cache the results of a function that takes many ids and returns a dict from id to value.

        The ids are its first parameter (of a method, the one after `self`); each has an entry of its own, and the
        other arguments are part of its key. The function is called once, with a list of the ids not cached;
        one that it leaves out of its dict is not in the result, and not cached. Options are those of `cached`, each
        about one id: in tags, `{id}` is the id (`"user:{id}"`), and a callable is given one id in the place of the
        ids, as `key` is; `ttl`, `tags_from`, `cache_if` and `ttl_if_none` look at one value. Raises TypeError for
        functions and tags that cannot be cached, and ConfigurationError for `cache_errors`.
        """
        check_arguments("cached_many", function, options, _OPTIONS)
        if function:
            return self._decorate_many(function[0], options)
        return lambda fn: self._decorate_many(fn, options)

    def _decorate_many(self, wrapped: Any, options: Mapping[str, Any]) -> Any:
        if options.get("cache_errors"):
            raise ConfigurationError(
                "cache_errors= cannot be given to cached_many(), where an exception is of the whole batch, not of "
                "one id: leave ids without a value out of the dict"
            )
        fn, binding = _unwrapped(wrapped)
        is_async = check_cacheable(fn)
        position = ids_position(fn, binding)
        core = BatchCore(self, fn, position=position, is_async=is_async, **self._core_options(fn, **options))
        self._register(core)
        from evercache.batches import AsyncCachedMany, CachedMany

        return AsyncCachedMany(core, binding=binding) if is_async else CachedMany(core, binding=binding)

    def _core_options(
        self,
        fn: Callable[..., Any],
        *,
        ttl: TTL | None = None,
        tags: Iterable[TagSource] | TagFunction = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        stale: Seconds = 0,
        stale_if_error: Seconds = 0,
        near: Seconds = 0,
        version: str | int | None = None,
        ignore: Iterable[str] = (),
        key: Callable[..., Any] | None = None,
        cache_if: Callable[[Any], bool] | None = None,
        ttl_if_none: Seconds | None = None,
        cache_errors: Mapping[type[Exception], Seconds] | None = None,
        jitter: float | None = None,
        beta: float | None = None,
        budget: Seconds | None = None,
        on_error: OnError | None = None,
        codec: Codec | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        check_callables(tags_from=tags_from, cache_if=cache_if)
        check_cache_errors(cache_errors or {})
        encoder = self._encoder if codec is None else self._encoder.with_codec(codec)
        return {
            "name": self.naming.function_name(fn, version)
            if name is None or name == ""
            else versioned(check_name(name), version),
            "signature": Signature.of(fn, ignore=ignore, key=key),
            "policy": self._policy(
                ttl,
                stale=seconds(stale, "stale"),
                stale_if_error=seconds(stale_if_error, "stale_if_error"),
                near=seconds(near, "near"),
                jitter=self.settings.jitter if jitter is None else jitter,
                beta=self.settings.beta if beta is None else beta,
                cache_if=cache_if,
                ttl_if_none=None if ttl_if_none is None else seconds(ttl_if_none, "ttl_if_none"),
                cache_errors={
                    kind: seconds(time, f"cache_errors[{kind.__name__}]")
                    for kind, time in (cache_errors or {}).items()
                },
                budget=budget,
                on_error=on_error,
            ),
            "encoder": encoder.with_types(TypeRegistry.from_annotation(fn, parent=self._types)),
            "tags": tag_sources(tags),
            "tags_from": tags_from,
        }

    def _register(self, core: FunctionCore) -> None:
        if "<locals>" in core.fn.__qualname__:
            core.made = _caller(3)
        shared = self._functions.compare(core, "Give each a name of its own with version= or name=")
        self._functions.append(core)
        if shared:
            warnings.warn(f"evercache: {shared}", stacklevel=4)

    @overload
    def register(self, cls: C) -> C: ...
    @overload
    def register(self, cls: type[T], *, encode: Callable[[T], object], decode: Callable[[Any], T]) -> type[T]: ...
    def register(self, cls: Any, *, encode: Any = None, decode: Any = None) -> Any:
        """Allow objects of a class to be cached and rebuilt; returns the class, so it serves as a decorator.

        `encode` and `decode` are for a class that the codec cannot take apart by itself: the first turns an object
        into a value that can be cached, the second turns that back.
        """
        return self._types.register(cls, encode=encode, decode=decode)


#: The names of all options.
_OPTIONS: Final = tuple(
    name
    for name, parameter in inspect.signature(Decorators._core_options).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
