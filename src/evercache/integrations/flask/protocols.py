"""What the decorators return, for type checkers: functions that keep their parameters, with a few attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, overload

from evercache.integrations.flask.names import Timeout

__all__ = ["BoundCached", "BoundMemoized", "Cached", "Memoized"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class BoundCached(Protocol[T_contra, P, R_co]):
    """A method under `cached`, of an object."""

    cache_timeout: Timeout | None
    make_cache_key: Callable[..., str]

    @property
    def uncached(self) -> Callable[Concatenate[T_contra, P], R_co]:
        """The plain function."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The cached result, or the function's own."""
        ...


class BoundMemoized(BoundCached[T_contra, P, R_co], Protocol):
    """A method under `memoize`, of an object."""

    delete_memoized: Callable[[], None]


class Cached(Protocol[P, R]):
    """A function under `cached`. `cache_timeout` and `make_cache_key` may be set."""

    uncached: Callable[P, R]
    cache_timeout: Timeout | None
    make_cache_key: Callable[..., str]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own."""
        ...

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Cached[P, R]: ...
    @overload
    def __get__(
        self: Cached[Concatenate[T, Q], R], instance: T, owner: type | None = None, /
    ) -> BoundCached[T, Q, R]: ...


class Memoized(Protocol[P, R]):
    """A function under `memoize`. `cache_timeout` and `make_cache_key` may be set."""

    uncached: Callable[P, R]
    cache_timeout: Timeout | None
    make_cache_key: Callable[..., str]
    delete_memoized: Callable[[], None]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own."""
        ...

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Memoized[P, R]: ...
    @overload
    def __get__(
        self: Memoized[Concatenate[T, Q], R], instance: T, owner: type | None = None, /
    ) -> BoundMemoized[T, Q, R]: ...
