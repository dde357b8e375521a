"""The decorators and deletes of a site's cache module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from evercache.integrations.pybossa.configured import Home, Recipe
from evercache.integrations.pybossa.extension import Sentinel
from evercache.observe import Counters
from evercache.protocol.scope import Scope
from evercache.results import Ack

__all__ = ["DISABLED", "Surface", "disabled"]

P = ParamSpec("P")
R = TypeVar("R")

#: While this is in the environment, whatever its value, every decorated function runs and every delete says True.
DISABLED: Final = "PYBOSSA_REDIS_CACHE_DISABLED"
_DISABLED_KEY: Final = os.environ.encodekey(DISABLED)
_DEFAULT: Final = 300
#: Where a decorated function, and whoever wraps it, keeps what its decorator was told.
_RECIPE: Final = "__evercache_recipe__"
_ENVIRON: Final = type(os.environ)


def disabled() -> bool:
    """Whether the environment says so now."""
    environ: Any = os.environ
    kind: Any = type(environ)
    if kind is _ENVIRON:
        return _DISABLED_KEY in environ._data  # a tenth of the time, and it is asked at each call
    return DISABLED in environ  # a test's own


class Surface:
    """The names of the module, on the `Sentinel` that `find` gives at each call. No state of its own."""

    def __init__(self, find: Callable[[], object]) -> None:
        self._find = find

    def __repr__(self) -> str:
        return f"<Surface on {self._find()!r}>"

    # -- decorators

    def cache(
        self, key_prefix: str, timeout: float | None = _DEFAULT
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Keep a function's result under one key, whatever the arguments, for `timeout` seconds (None: 300)."""
        return lambda fn: self._decorated(Recipe(fn, _seconds(timeout), key_prefix))

    def memoize(
        self, timeout: float | None = _DEFAULT, debug: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Keep a function's result for each set of arguments, for `timeout` seconds (None: 300)."""
        return lambda fn: self._decorated(Recipe(fn, _seconds(timeout)))

    def _decorated(self, recipe: Recipe) -> Any:
        fn, find, token = recipe.fn, self._find, recipe.token

        @wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            environ: Any = os.environ  # as `disabled` does, without a call of it
            kind: Any = type(environ)
            if _DISABLED_KEY in environ._data if kind is _ENVIRON else disabled():
                return fn(*args, **kwargs)
            home = getattr(find(), "home", None)
            if type(home) is not Home:
                home = self._home()
                if home is None:
                    return fn(*args, **kwargs)
            run = home.calls.get(token)
            if run is None:
                run = home.call(recipe)
            try:
                return run(*args, **kwargs)
            except TypeError:
                if _makes_key(home, recipe, args, kwargs):
                    raise  # it is the function's own
            recipe.warn_once("%s is given arguments that make no key: such calls run it")
            return fn(*args, **kwargs)

        setattr(call, _RECIPE, recipe)
        return call

    def _home(self) -> Home | None:
        """The cache of the sentinel as it is now; None where there is none."""
        sentinel = self._find()
        return sentinel.found() if isinstance(sentinel, Sentinel) else None

    # -- deletes

    def delete_cached(self, key: str) -> bool:
        """Delete what `cache(key)` keeps; whether it was there."""
        home = None if disabled() else self._home()
        if home is None:
            return True
        there = bool(home.cache.delete(str(key)).existed)
        if home.old is not None:
            there |= home.old.delete(f"{home.old.prefix}::{key}", home.naming.direct_key("", str(key)))
        return there

    def delete_memoized(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Delete what is kept of one call, or of all calls where no arguments are given; whether there was any.

        `arg=` is the one argument, None for all calls, as long as the function has no parameter of that name.
        """
        home = None if disabled() else self._home()
        if home is None:
            return True
        recipe = getattr(function, _RECIPE, None)
        if not isinstance(recipe, Recipe):
            recipe = home.recipe(function)
        if recipe.key_prefix is not None:
            return self.delete_cached(recipe.key_prefix)
        cached = home.cached(recipe)
        if cached is None:
            return False
        if "arg" in kwargs and not args and not _takes(recipe.fn, "arg"):
            arg = kwargs.pop("arg")
            args = () if arg is None else (arg,)
        if args or kwargs:
            return _delete_call(home, recipe, cached, args, kwargs)
        return _delete_all(home, recipe, cached)


def _seconds(timeout: float | None) -> float:
    return _DEFAULT if timeout is None else timeout


def _makes_key(home: Home, recipe: Recipe, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    cached = home.cached(recipe)
    if cached is None:
        return True
    signature = cached._core.signature
    try:
        values = signature.bind(*args, **kwargs)
    except TypeError:
        return True  # the call does not fit: the error says so
    try:
        signature.text(values)
    except TypeError:
        return False
    return True


def _takes(fn: Callable[..., Any], name: str) -> bool:
    from inspect import Parameter, signature

    parameters = signature(fn).parameters
    return name in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())


def _delete_call(home: Home, recipe: Recipe, cached: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    there, key = False, None
    try:
        there = bool(cached.invalidate(*args, **kwargs).existed)
        key = cached._core.subject(args, kwargs).key
    except TypeError as error:
        recipe.warn_once("delete_memoized(%s, ...): no call has such arguments: %s", error)
    if home.old is not None:
        there |= home.old.delete(home.old.key(recipe.fn, args, kwargs, None), key)
    return there


def _delete_all(home: Home, recipe: Recipe, cached: Any) -> bool:
    """The mark makes all of them dead at once; then they are removed, as far as the budget reaches."""
    client = home.cache._client_sync()
    if client is None:
        return True
    state, budget = client.engine.state, home.settings.budget
    deadline = state.now() + budget
    counters: Counters = cached._core.counters
    ack: Ack = client.operations.invalidate([Scope.of_function(recipe.name)], counters)[0]
    if not ack or ack.stamp is None:
        return False  # queued: nobody can say
    there = False
    pattern = home.naming.pattern(recipe.name)
    swept = client.sweeping.sweep(pattern, ack.stamp, deadline - state.now(), counters)
    if home.old is not None:
        there = home.old.delete_all(recipe.fn.__name__, max(0.05, deadline - state.now()))
    return there or swept.removed > 0 or not swept.whole
