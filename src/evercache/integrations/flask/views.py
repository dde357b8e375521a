"""`cached`: views and functions under keys made of the request, computed once at a time."""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, g, has_request_context, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from evercache.api.core import as_tags
from evercache.client.request import Request
from evercache.integrations.flask import get_and_set
from evercache.integrations.flask.backends import EvercacheBackend
from evercache.integrations.flask.names import (
    SEEN,
    QueryArgs,
    joined,
    loop_runs,
    positional_names,
    query_pairs,
    timeout_seconds,
)
from evercache.integrations.flask.options import Options
from evercache.integrations.flask.responses import CachedResponse, HTTPRules, StoredResponse, freeze, thaw
from evercache.integrations.flask.signals import cache_view_hit, cache_view_miss
from evercache.integrations.flask.warn_once import logger, tell_once

if TYPE_CHECKING:
    from evercache.integrations.flask.extension import Cache

__all__ = ["CachedView", "variants_tag"]


class CachedView:
    """One function under `cached`. Immutable; what may be changed stands on the wrapper."""

    def __init__(
        self,
        owner: Cache,
        f: Callable[..., Any],
        options: Options,
        *,
        key_prefix: str | Callable[[], str],
        query_string: bool,
        make_cache_key: Callable[..., Any] | None,
        indicate: bool,
        vary: tuple[str, ...],
        http: bool | None,
    ) -> None:
        self.owner, self.f, self.options = owner, f, options
        self.key_prefix, self.query_string = key_prefix, query_string
        self.own_key, self.indicate = make_cache_key, indicate
        self.vary, self.http = vary, http
        self.is_async = inspect.iscoroutinefunction(f)
        self.rules = HTTPRules(vary, options.stale, options.stale_if_error)
        self.wrapper: Any = None

    def __repr__(self) -> str:
        return f"<cached {self.f.__module__}.{self.f.__qualname__}>"

    # -- keys

    def make_cache_key(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call; outside of requests with `path=`, `query_args=` or the arguments of the view."""
        kwargs.update(zip(positional_names(self.f), args, strict=False))
        in_request = kwargs.pop("use_request", False)
        # In a request, arguments of the view may have these names.
        path = None if in_request else kwargs.pop("path", None)
        query = None if in_request else kwargs.pop("query_args", None)
        key = self._base(path, in_request, kwargs)
        if self.query_string:
            return key + self._query_digest(query)
        if self.owner._checks_source(self.options.source_check):
            key += self._hash(inspect.getsource(self.f))
        return key

    def _base(self, path: str | None, in_request: bool, kwargs: Mapping[str, Any]) -> str:
        prefix = self.key_prefix
        if callable(prefix):
            return prefix()
        if "%s" not in prefix:
            return prefix
        if path is None:
            here = in_request or self.query_string
            path = request.path if here else url_for(self.f.__name__, _external=False, **kwargs)
        return prefix % path

    def _query_digest(self, query: QueryArgs | None) -> str:
        pairs = list(request.args.items(multi=True)) if query is None else query_pairs(query)
        text = str(tuple(sorted(pairs)))
        if self.owner._checks_source(self.options.source_check):
            text += inspect.getsource(self.f)
        return self._hash(text)

    def _hash(self, text: str) -> str:
        digest: str = self.owner._hash_of(self.options.hash_method)(text.encode()).hexdigest()
        return digest

    def _key(self, args: Any, kwargs: Mapping[str, Any]) -> str:
        if callable(self.own_key):
            return str(self.own_key(*args, **kwargs))
        key: str = self.wrapper.make_cache_key(*args, use_request=True, **kwargs)
        return key

    def variant(self, key: str) -> str:
        """The key for the request headers of `vary`."""
        headers = [(name.lower(), request.headers.get(name)) for name in self.vary]
        return f"{key}|{headers!a}" if headers else key

    # -- calls

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of the view; of a coroutine function an awaitable, where a loop runs in this thread."""
        owner = self.owner
        awaits = self.is_async and loop_runs()
        if self.options.bypassed(self.f, args, kwargs):
            return self.f(*args, **kwargs) if awaits else owner._call(self.f, args, kwargs)
        try:
            key = self._key(args, kwargs)
        except Exception:
            if owner.app.debug:
                raise
            logger.exception("no key for a call of %r, so it runs without the cache", self)
            return self.f(*args, **kwargs) if awaits else owner._call(self.f, args, kwargs)
        backend = owner.cache
        if owner._goes_plain(backend):
            key = self.variant(key)
            return (
                asyncio.to_thread(self._plainly, key, args, kwargs) if awaits else self._plainly(key, args, kwargs)
            )
        call = ViewCall(self, backend, key, args, kwargs)
        return call.answer_async() if call.awaits else call.answer()

    def seen(self, key: str, found: bool, args: Any, kwargs: Any) -> None:
        """Tell of a hit or a miss."""
        if self.indicate:
            g.evercache_hit = found
        if has_request_context() and (noted := request.environ.get(SEEN)) is not None:
            noted.append(found)
        if self.owner.enable_signals:
            signal = cache_view_hit if found else cache_view_miss
            signal.send(cache=self.owner, cache_key=key, args=args, kwargs=kwargs)

    def _plainly(self, key: str, args: Any, kwargs: dict[str, Any]) -> Any:
        owner, options = self.owner, self.options
        try:
            found, value = get_and_set.looked_up(owner, options, key, args, kwargs)
        except Exception:
            if owner.app.debug:
                raise
            logger.exception("the cache's backend failed; %r runs without it", self)
            return owner._call(self.f, args, kwargs)
        self.seen(key, found, args, kwargs)
        if not found:
            try:
                value = joined(owner._call(self.f, args, kwargs))
            except HTTPException as error:
                value = error
            shown = value.get_response() if isinstance(value, HTTPException) else value
            if options.response_filter is None or options.response_filter(shown):
                get_and_set.stored(owner, key, value, self.timeout(value))
        if isinstance(value, HTTPException):
            raise value
        return value

    def timeout(self, value: Any) -> int | float | None:
        """The time to live of what a view returned, as `CACHE_DEFAULT_TIMEOUT` is meant."""
        own = value.timeout if isinstance(value, CachedResponse) else None
        return own or timeout_seconds(self.wrapper.cache_timeout)


class NotShared(Exception):
    """A result that is not to be cached, nor given to whoever waits for it; not an error of anybody's."""

    def __init__(self, call: ViewCall, value: Any) -> None:
        super().__init__("a result that is not to be cached or shared")
        self.call, self.value = call, value


class ViewCall:
    """One call of a view on a cache of ours. For one thread or task, and the refresh in the background."""

    def __init__(
        self, view: CachedView, backend: EvercacheBackend, key: str, args: Any, kwargs: dict[str, Any]
    ) -> None:
        app = backend._app
        assert app is not None
        self.view, self.backend, self.base, self.key = view, backend, key, view.variant(key)
        self.app: Flask = app
        self.args, self.kwargs = args, kwargs
        self.http = (view.owner.http if view.http is None else view.http) and has_request_context()
        self.awaits = view.is_async and loop_runs()
        self.ran, self.value, self.ttl = False, None, 0.0
        self._thread = threading.get_ident()
        later = view.options.stale and has_request_context()
        self._environ = _copy(request.environ) if later else None

    def __repr__(self) -> str:
        return f"<ViewCall {self.key!r} of {self.view!r}>"

    def _request(self) -> Request:
        options = self.view.options
        tags = as_tags(options.tags(*self.args, **self.kwargs) if callable(options.tags) else options.tags)
        if self.view.vary:
            tags = (*tags, variants_tag(self.base))
        return self.backend.evercache._request(
            self.key,
            ttl=lambda stored: self.ttl,
            tags=tags,
            compute=self._acompute if self.awaits else self._compute,
            stale=float(options.stale),
            stale_if_error=float(options.stale_if_error),
            jitter=self.backend.evercache.settings.jitter,
            beta=self.backend.evercache.settings.beta if options.stale else 0.0,
        )

    def answer(self) -> Any:
        """What the view returns, or raises."""
        view, cached = self.view, self._request()
        client = self.backend.evercache._client_sync()
        if client is None:
            return view.owner._call(view.f, self.args, self.kwargs)
        try:
            if view.options.forced(self.args, self.kwargs):
                stored = client.operations.refresh(cached)
            else:
                stored = client.operations.call(cached)
                if self._unwanted(stored):
                    stored = client.operations.refresh(cached)
        except NotShared as result:
            view.seen(self.key, False, self.args, self.kwargs)
            if result.call is not self:  # somebody else's, for whom we waited
                return joined(view.owner._call(view.f, self.args, self.kwargs))
            return self._given(result.value)
        return self._shown(stored)

    async def answer_async(self) -> Any:
        """The same for tasks."""
        view, cached = self.view, self._request()
        client = self.backend.evercache._client_async()
        if client is None:
            return await view.f(*self.args, **self.kwargs)
        try:
            if view.options.forced(self.args, self.kwargs):
                stored = await client.operations.refresh(cached)
            else:
                stored = await client.operations.call(cached)
                if self._unwanted(stored):
                    stored = await client.operations.refresh(cached)
        except NotShared as result:
            view.seen(self.key, False, self.args, self.kwargs)
            return self._given(result.value) if result.call is self else await view.f(*self.args, **self.kwargs)
        return self._shown(stored)

    def _unwanted(self, stored: Any) -> bool:
        options = self.view.options
        return not self.ran and options.outdated(thaw(self.app, stored), self.args, self.kwargs)

    def _shown(self, stored: Any) -> Any:
        self.view.seen(self.key, not self.ran, self.args, self.kwargs)
        if self.http and isinstance(stored, StoredResponse):
            return self.view.rules.answer(self.app, stored, request.environ)
        return self._given(self.value if self.ran else thaw(self.app, stored))

    def _given(self, value: Any) -> Any:
        if isinstance(value, HTTPException):
            raise value
        return value

    # -- computing

    def _compute(self) -> Any:
        if threading.get_ident() == self._thread:
            return self._computed()
        # In the background the request is over: the view gets one of its own, which asks the same.
        with self.app.app_context():
            if self._environ is None:
                return self._computed()
            with self.app.request_context(self._environ):
                return self._computed()

    def _computed(self) -> Any:
        try:
            value = joined(self.view.owner._call(self.view.f, self.args, self.kwargs))
        except HTTPException as error:
            value = error
        return self._frozen(value)

    async def _acompute(self) -> Any:
        try:
            value = await self.view.f(*self.args, **self.kwargs)
        except HTTPException as error:
            value = error
        return self._frozen(value)

    def _frozen(self, value: Any) -> Any:
        shown = value.get_response() if isinstance(value, HTTPException) else value
        options = self.view.options
        if not options.kept(shown) or self._is_private(shown) or (options.stale_if_error and _failed(shown)):
            raise NotShared(self, value)
        stored = freeze(self.app, value, whole=self.http)
        self.ttl = max(0.0, self.backend.ttl(self.view.timeout(value)))
        if self.http:
            response = thaw(self.app, stored)
            why = self.view.rules.why_not(response, authorized="Authorization" in request.headers)
            if why is not None:
                tell_once(self.view.owner._said, f"{id(self.view)} {why}", "%r is not cached: %s", self.view, why)
                raise NotShared(self, value)
            self.ttl = self.view.rules.lifetime(response, self.ttl)
            stored = self.view.rules.complete(stored, self.ttl)
        self.ran, self.value = threading.get_ident() == self._thread, value
        return stored

    def _is_private(self, value: Any) -> bool:
        """Whether a response sets a cookie, which is meant for one client; or streams a file."""
        headers: Any = ()
        if isinstance(value, AnyResponse):
            if value.direct_passthrough:
                return True
            headers = value.headers.keys()
        elif isinstance(value, tuple) and len(value) > 1:
            if isinstance(value[0], AnyResponse) and self._is_private(value[0]):
                return True
            last = value[-1]
            headers = last.keys() if hasattr(last, "keys") else [h[0] for h in last] if _pairs(last) else ()
        if not any(str(name).lower() == "set-cookie" for name in headers):
            return False
        tell_once(
            self.view.owner._said,
            f"cookie {id(self.view)}",
            "%r sets a cookie, so its response is not cached: everybody would get that cookie. Set cookies "
            "elsewhere (after_request), or leave such responses out with unless=",
            self.view,
        )
        return True


def _pairs(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, tuple) and len(item) == 2 for item in value)


def _copy(environ: Mapping[str, Any]) -> dict[str, Any]:
    """What a later request of the same kind needs of this one; its body was read."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("werkzeug.", "flask.", SEEN))}
    return kept | {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"}


def _failed(value: Any) -> bool:
    """Whether a result says that the server failed (RFC 5861, 4)."""
    if isinstance(value, AnyResponse):
        return value.status_code >= 500
    return isinstance(value, tuple) and len(value) > 1 and isinstance(value[1], int) and value[1] >= 500


def variants_tag(key: str) -> str:
    """The tag of all that is kept under a key for different request headers."""
    return f"variants {key}"
