"""What a view returned, in a form that can be stored, and back; and the headers of RFC 9111 on it."""

import hashlib
import time
from dataclasses import dataclass, replace
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.wrappers import Response as AnyResponse

from evercache.integrations.flask.names import Timeout, timeout_seconds

__all__ = ["CachedResponse", "HTTPRules", "StoredError", "StoredResponse", "freeze", "thaw"]


#: Status codes whose responses may be kept although they do not say so (RFC 9110, 15.1).
_CACHEABLE = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})


class CachedResponse(Response):
    """A response that says how long it is to be cached: `CachedResponse(make_response("hi"), 10)`."""

    timeout: int | float | None = None

    def __init__(self, response: AnyResponse, timeout: Timeout | None) -> None:
        self.__dict__ = response.__dict__
        self.timeout = timeout_seconds(timeout)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response of a view. `at`: when it was made, in seconds since 1970."""

    body: bytes
    status: str
    headers: tuple[tuple[str, str], ...]
    at: float


@dataclass(frozen=True, slots=True)
class StoredError:
    """An HTTP error that a view raised, by `abort` for example; raised again at a hit."""

    code: int
    description: str | None


def freeze(app: Flask, value: Any, *, whole: bool = False) -> Any:
    """What is stored for what a view returned; `whole`: always as a response."""
    if isinstance(value, HTTPException):
        code = value.code
        if value.response is None and code is not None and type(value) is default_exceptions.get(code):
            return StoredError(code, value.description)
        if not whole and value.response is None:
            return value  # of a class of the application's: a codec may be able to hold it
        value = value.get_response()
    elif whole or (isinstance(value, tuple) and value and isinstance(value[0], AnyResponse)):
        value = app.make_response(value)
    if not isinstance(value, AnyResponse):
        return value
    return StoredResponse(value.get_data(), value.status, tuple(value.headers.to_wsgi_list()), time.time())


def thaw(app: Flask, stored: Any) -> Any:
    """What a view returned, of what was stored; an `HTTPException` is to be raised."""
    if isinstance(stored, StoredResponse):
        response = app.response_class(stored.body, status=stored.status)
        response.headers.clear()
        response.headers.extend(stored.headers)
        return response
    if isinstance(stored, StoredError):
        return default_exceptions[stored.code](description=stored.description)
    return stored


@dataclass(frozen=True, slots=True)
class HTTPRules:
    """How a view is cached by whoever speaks HTTP: RFC 9111, and RFC 5861 for the stale times (seconds)."""

    vary: tuple[str, ...] = ()
    stale: float = 0
    stale_if_error: float = 0

    def why_not(self, response: AnyResponse, *, authorized: bool = False) -> str | None:
        """Why a shared cache must not keep a response (RFC 9111, 3); None where it may."""
        told = response.cache_control
        if told.no_store or told.private:
            return "its Cache-Control says no-store or private"
        explicit = told.max_age is not None or told.s_maxage is not None
        if response.status_code in (206, 304) or (response.status_code not in _CACHEABLE and not explicit):
            return f"a response with status {response.status_code} is kept only if it says for how long"
        if authorized and not (told.public or told.must_revalidate or told.s_maxage is not None):
            return "the request had an Authorization, and the response does not say Cache-Control: public"
        known = {name.lower() for name in (*self.vary, "accept-encoding")}
        others = sorted({name.lower() for name in response.vary} - known)
        return f"it varies by {', '.join(others)}: name that in vary=" if others else None

    def lifetime(self, response: AnyResponse, usual: float) -> float:
        """How long a response is fresh: what it says itself, else the usual time."""
        told = response.cache_control
        for seconds in (told.s_maxage, told.max_age):
            if seconds is not None:
                return float(seconds)
        return usual

    def complete(self, stored: StoredResponse, ttl: float) -> StoredResponse:
        """With the headers that do not change from then on: validator, freshness, Vary."""
        response = AnyResponse(stored.body, stored.status, list(stored.headers))
        if not response.get_etag()[0] and response.status_code == 200:
            response.set_etag(hashlib.blake2b(stored.body, digest_size=16).hexdigest())
        told = response.cache_control
        if told.max_age is None and told.s_maxage is None and not told.no_cache:
            told.max_age = int(ttl)
        for name, seconds in (("stale-while-revalidate", self.stale), ("stale-if-error", self.stale_if_error)):
            if seconds and name not in told:
                told[name] = str(int(seconds))
        for name in self.vary:
            response.vary.add(name)
        return replace(stored, headers=tuple(response.headers.to_wsgi_list()))

    def answer(self, app: Flask, stored: StoredResponse, environ: Any) -> Response:
        """The response to this request: with its age, or 304 where the client has it."""
        response: Response = thaw(app, stored)
        response.headers["Age"] = str(max(0, int(time.time() - stored.at)))
        if environ.get("REQUEST_METHOD") in ("GET", "HEAD"):
            response.make_conditional(environ)
        return response
