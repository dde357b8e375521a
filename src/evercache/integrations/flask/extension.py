"""The extension: Flask-Caching's `Cache`, on this library."""

from __future__ import annotations

import functools
import hashlib
import warnings
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from cachelib import BaseCache
from flask import Flask, Response, current_app, g

from evercache.integrations.flask import commands
from evercache.integrations.flask.backends import EvercacheBackend
from evercache.integrations.flask.factory import made, serializer_of
from evercache.integrations.flask.fragments import CACHE_ATTRIBUTE, CacheExtension
from evercache.integrations.flask.memoize import Memo
from evercache.integrations.flask.names import QueryArgs, Timeout, positional_values
from evercache.integrations.flask.operations import Operations
from evercache.integrations.flask.options import Options
from evercache.integrations.flask.protocols import Cached, Memoized
from evercache.integrations.flask.settings import DEFAULTS, FlaskSettings
from evercache.integrations.flask.views import CachedView, variants_tag
from evercache.integrations.flask.warn_once import tell_once
from evercache.process import living

__all__ = ["Cache"]

P = ParamSpec("P")
R = TypeVar("R")

#: What instrumentation overrides; then the decorators have to go through it.
_PUBLIC = ("get", "set", "has", "get_many", "set_many")

#: How many functions are remembered whose keys are made by the private name.
_KEYS = 1_000


class Cache(Operations):
    """A cache for one or several applications, by their settings `CACHE_*` and `EVERCACHE_URL`."""

    def __init__(
        self, app: Flask | None = None, with_jinja2_ext: bool = True, config: dict[str, Any] | None = None
    ) -> None:
        if not (config is None or isinstance(config, dict)):
            raise ValueError("`config` must be an instance of dict or None")
        self.with_jinja2_ext = with_jinja2_ext
        self.config = config
        self.app: Any = None
        self.source_check: bool | None = None
        self.serializer: Any = None
        self.enable_signals = False
        self.http = False
        self._hash_method: Callable[..., Any] | None = None
        self._memos: weakref.WeakSet[Memo] = weakref.WeakSet()
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        #: What `flask cache doctor` looks at: the settings, and all names that were given.
        self._settings: weakref.WeakKeyDictionary[Flask, tuple[FlaskSettings, dict[str, Any]]]
        self._settings = weakref.WeakKeyDictionary()
        #: The backend, while there is one application only.
        self._only: BaseCache | None = None
        self._said: set[str] = set()
        #: What makes keys by the private name, for functions that are not memoized; a lost update does no harm.
        self._keys: dict[tuple[Any, ...], Memo] = {}
        own = type(self)
        self._overridden = any(getattr(own, name) is not getattr(Cache, name) for name in _PUBLIC)
        if app is not None:
            self.init_app(app, config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._apps)} applications>"

    # -- set up

    def init_app(self, app: Flask, config: dict[str, Any] | None = None) -> None:
        """Take an application; nothing is opened yet. Bad addresses are told in the log; the cache is off then."""
        if not (config is None or isinstance(config, dict)):
            raise ValueError("`config` must be an instance of dict or None")
        merged = {**DEFAULTS, **app.config, **(self.config or {}), **(config or {})}
        settings = FlaskSettings.of(merged)
        if settings.type == "NullCache" and not merged["CACHE_NO_NULL_WARNING"]:
            warnings.warn(
                "evercache: CACHE_TYPE is NullCache, so nothing is cached: set EVERCACHE_URL, or CACHE_TYPE to "
                "'RedisCache', 'RedisSentinelCache' or 'SimpleCache'; or CACHE_NO_NULL_WARNING, if that is meant",
                stacklevel=2,
            )
        self.source_check, self.enable_signals = settings.source_check, settings.signals
        self.http = settings.http
        self.hash_method = settings.hash_method
        self.serializer = serializer_of(merged["CACHE_SERIALIZER"])
        backend = made(app, settings, merged)
        if self.serializer is not None:
            if hasattr(backend, "serializer"):
                backend.serializer = self.serializer
            else:
                warnings.warn(
                    f"evercache: CACHE_SERIALIZER is set, but {type(backend).__name__} has no use for one",
                    stacklevel=2,
                )
        if self.with_jinja2_ext:
            setattr(app.jinja_env, CACHE_ATTRIBUTE, self)
            app.jinja_env.add_extension(CacheExtension)
        app.extensions.setdefault("cache", {})[self] = backend
        after = app.after_request_funcs.setdefault(None, [])
        if _indicated not in after:
            after.append(_indicated)
        commands.add(app)
        self._apps.add(app)
        self._settings[app] = settings, merged
        self.app = app
        self._only = backend if len(self._apps) == 1 else None
        self._forget()

    @property
    def hash_method(self) -> Callable[..., Any] | None:
        """What makes hashes in keys, by `CACHE_HASH_METHOD`."""
        return self._hash_method

    @hash_method.setter
    def hash_method(self, method: Callable[..., Any] | None) -> None:
        self._hash_method = method
        self._forget()

    def _forget(self) -> None:
        for memo in living(self._memos):
            memo.forget()

    # -- what the decorators ask

    def _hash_of(self, method: Callable[..., Any] | None) -> Callable[..., Any]:
        return method or self._hash_method or hashlib.sha256

    def _checks_source(self, own: bool | None) -> bool:
        return bool(self.source_check if own is None else own)

    def _goes_plain(self, backend: Any) -> bool:
        """Whether the decorators have to go by `get` and `set`."""
        if not isinstance(backend, EvercacheBackend):
            return True
        if not self._overridden and backend._chosen_serializer() is None:
            return False
        tell_once(
            self._said,
            "plain",
            "get or set of the cache is overridden, or CACHE_SERIALIZER is set: the decorators go by them, without "
            "one computation at a time and without protection of what is computed during a delete",
        )
        return True

    def _call(self, f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        app = current_app or self.app
        return f(*args, **kwargs) if app is None else app.ensure_sync(f)(*args, **kwargs)

    @property
    def cache(self) -> Any:
        """The backend of the current application."""
        only = self._only
        if only is not None:
            return only
        app = current_app or self.app
        if app is None:
            raise RuntimeError("the cache has no application: call cache.init_app(app) first")
        return app.extensions["cache"][self]

    # -- decorators

    def cached(
        self,
        timeout: Timeout | None = None,
        key_prefix: str | Callable[[], str] = "view/%s",
        unless: Callable[..., Any] | None = None,
        forced_update: Callable[..., Any] | None = None,
        is_stale: Callable[..., Any] | None = None,
        response_filter: Callable[..., Any] | None = None,
        query_string: bool = False,
        hash_method: Callable[..., Any] | None = None,
        cache_none: bool = False,
        make_cache_key: Callable[..., Any] | None = None,
        source_check: bool | None = None,
        response_hit_indication: bool | None = False,
        *,
        tags: Any = (),
        stale: float = 0,
        stale_if_error: float = 0,
        vary: tuple[str, ...] = (),
        http: bool | None = None,
    ) -> Callable[[Callable[P, R]], Cached[P, R]]:
        """Cache what a view returns, by default under the path of the request.

        As in Flask-Caching up to `response_hit_indication`. `tags`: texts, or a callable of the arguments that
        gives them, for `invalidate_tag`. `stale`: seconds past the time-out in which the old response is
        served while one caller makes a new one; `stale_if_error`: the same when the view raises. `vary`: names of
        request headers that make a difference. `http`: with the headers of HTTP caching (`CACHE_HTTP` by default).
        """
        options = Options(
            unless=unless,
            forced_update=forced_update,
            is_stale=is_stale,
            response_filter=response_filter,
            cache_none=cache_none,
            hash_method=hash_method,
            source_check=source_check,
            tags=tags,
            stale=stale,
            stale_if_error=stale_if_error,
        )

        def decorate(f: Callable[P, R]) -> Cached[P, R]:
            view = CachedView(
                self,
                f,
                options,
                key_prefix=key_prefix,
                query_string=query_string,
                make_cache_key=make_cache_key,
                indicate=bool(response_hit_indication),
                vary=vary,
                http=http,
            )

            @functools.wraps(f)
            def cached(*args: Any, **kwargs: Any) -> Any:
                return view.call(args, kwargs)

            wrapper = _adorned(cached, view, f, timeout)
            wrapper._evercache_view = view
            return wrapper  # type: ignore[no-any-return]

        return decorate

    def delete_cached(
        self, f: Any, path: str | None = None, query_args: QueryArgs | None = None, **kwargs: Any
    ) -> bool:
        """Delete what a view under `cached` returned for a path, or for its arguments; all that `vary` made."""
        view = getattr(f, "_evercache_view", None)
        if view is not None and view.vary and isinstance(self.cache, EvercacheBackend):
            key = f.make_cache_key(path=path, query_args=query_args, **kwargs)
            return bool(self.invalidate_tag(variants_tag(key)))
        return self.delete(f.make_cache_key(path=path, query_args=query_args, **kwargs))

    def memoize(
        self,
        timeout: Timeout | None = None,
        make_name: Callable[[str], str] | None = None,
        unless: Callable[..., Any] | None = None,
        forced_update: Callable[..., Any] | None = None,
        is_stale: Callable[..., Any] | None = None,
        response_filter: Callable[..., Any] | None = None,
        hash_method: Callable[..., Any] | None = None,
        cache_none: bool = False,
        source_check: bool | None = None,
        args_to_ignore: list[str] | None = None,
        *,
        tags: Any = (),
        stale: float = 0,
        stale_if_error: float = 0,
    ) -> Callable[[Callable[P, R]], Memoized[P, R]]:
        """Cache what a function returns, by its arguments.

        As in Flask-Caching up to `args_to_ignore`; the others as in `cached`, with the names of parameters in
        `tags` (`"project:{project_id}"`).
        """
        options = Options(
            unless=unless,
            forced_update=forced_update,
            is_stale=is_stale,
            response_filter=response_filter,
            cache_none=cache_none,
            hash_method=hash_method,
            source_check=source_check,
            tags=tags,
            stale=stale,
            stale_if_error=stale_if_error,
        )

        def decorate(f: Callable[P, R]) -> Memoized[P, R]:
            memo = Memo(self, f, options, make_name, args_to_ignore)

            @functools.wraps(f)
            def memoized(*args: Any, **kwargs: Any) -> Any:
                fast = memo.fast
                return memo.call(args, kwargs) if fast is None else fast(*args, **kwargs)

            wrapper = _adorned(memoized, memo, f, timeout)
            wrapper._evercache_memo = memo
            wrapper.delete_memoized = lambda: self.delete_memoized(wrapper)
            return wrapper  # type: ignore[no-any-return]

        return decorate

    def _memoize_kwargs_to_args(
        self, f: Callable[..., Any], *args: Any, args_to_ignore: list[str] | None = None, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments by position, and those that have none: for who makes keys as Flask-Caching does."""
        return positional_values(f, args, kwargs, args_to_ignore or ())

    def _memoize_make_cache_key(
        self,
        make_name: Callable[[str], str] | None = None,
        timeout: Any = None,
        forced_update: Any = None,
        hash_method: Callable[..., Any] | None = None,
        source_check: bool | None = None,
        args_to_ignore: list[str] | None = None,
    ) -> Callable[..., str]:
        """What makes the key of a call, `(f, *args, **kwargs)`, as `memoize` with these options has it.

        Decorators of other packages use it, for any function. `timeout` and `forced_update` have no part in a key.
        """
        options = Options(hash_method=hash_method, source_check=source_check)

        def make_cache_key(f: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
            plain = getattr(f, "uncached", f)
            what = (plain, make_name, hash_method, source_check, tuple(args_to_ignore or ()))
            memo = self._keys.get(what)
            if memo is None:
                while len(self._keys) >= _KEYS:  # functions that are made for each call
                    self._keys.pop(next(iter(self._keys)), None)
                memo = self._keys[what] = Memo(self, plain, options, make_name, args_to_ignore)
            return memo.make_cache_key(f, *args, **kwargs)

        return make_cache_key

    def delete_memoized(self, f: Any, *args: Any, **kwargs: Any) -> None:
        """Delete what a memoized function returned for these arguments; without any, everything of it.

        Of a method of an object, what is that object's.
        """
        _memo_of(f).delete(f, args, kwargs)

    def delete_memoized_verhash(self, f: Any, *args: Any) -> None:
        """Delete everything of a memoized function."""
        _memo_of(f).delete_version(f)


def _adorned(wrapper: Any, what: CachedView | Memo, f: Any, timeout: Timeout | None) -> Any:
    what.wrapper = wrapper
    wrapper.uncached = f
    wrapper.cache_timeout = timeout
    wrapper.make_cache_key = what.make_cache_key
    return wrapper


def _memo_of(f: Any) -> Memo:
    memo = getattr(f, "_evercache_memo", None)
    if not isinstance(memo, Memo):
        raise TypeError(f"{f!r} is no memoized function: give the function itself, not its name")
    return memo


def _indicated(response: Response) -> Response:
    if g.get("evercache_hit"):
        response.headers["hit_cache"] = "True"
    return response
