"""The way by `get` and `set` alone: for backends that are not ours, and caches whose methods a subclass overrides.

It has what any store can give: no single flight, and no protection of what is computed during a delete.
"""

from __future__ import annotations

import base64
import inspect
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evercache.integrations.flask.arguments import argument_text, caching_text
from evercache.integrations.flask.names import function_namespace, joined, timeout_seconds
from evercache.integrations.flask.signals import cache_memoize_hit, cache_memoize_miss
from evercache.integrations.flask.warn_once import logger

if TYPE_CHECKING:
    from evercache.integrations.flask.extension import Cache
    from evercache.integrations.flask.memoize import Memo
    from evercache.integrations.flask.options import Options

__all__ = ["looked_up", "memo_key", "memoized", "reset", "stored", "version_keys"]


def looked_up(cache: Cache, options: Options, key: str, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """Whether there is a value to serve, and the value."""
    if options.forced(args, kwargs):
        return False, None
    value = cache.get(key)
    found = value is not None or (options.cache_none and cache.has(key))
    if found and options.outdated(value, args, kwargs):
        return False, None
    return found, value


def stored(cache: Cache, key: str, value: Any, timeout: Any) -> None:
    """Keep a value; a backend that fails is told of in the log, in debug mode it raises."""
    try:
        cache.set(key, value, timeout=timeout)
    except Exception:
        if cache.app.debug:
            raise
        logger.exception("the cache's backend failed; the page is answered without it")


def memoized(memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call of a memoized function."""
    cache, options = memo.owner, memo.options
    try:
        key = memo_key(memo, args, kwargs)
        found, value = looked_up(cache, options, key, args, kwargs)
    except Exception:
        if cache.app.debug:
            raise
        logger.exception("the cache's backend failed; %s runs without it", memo.base_name)
        return cache._call(memo.f, args, kwargs)
    if cache.enable_signals:
        signal = cache_memoize_hit if found else cache_memoize_miss
        signal.send(cache=cache, cache_key=key, f=memo.f, args=args, kwargs=kwargs)
    if found:
        return value
    value = joined(cache._call(memo.f, args, kwargs))
    if options.response_filter is None or options.response_filter(value):
        timeout = timeout_seconds(memo.wrapper.cache_timeout)
        stored(cache, key, value, timeout)
        _versions(memo, function_namespace(memo.f, args), timeout=timeout, renew=True)
    return value


def memo_key(memo: Memo, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The key of a call: a hash of its arguments, and the versions of the function and the object."""
    versions = _versions(memo, function_namespace(memo.f, args))
    bound = inspect.signature(memo.f).bind(*args, **kwargs)
    bound.apply_defaults()
    texts = [memo.base_name]
    for name, value in bound.arguments.items():
        if name not in memo.ignored:
            texts.append(caching_text(memo, value) if name == memo.first else argument_text(memo, name, value))
    digest = memo.owner._hash_of(memo.options.hash_method)(",".join(texts).encode())
    if memo.owner._checks_source(memo.options.source_check):
        digest.update(inspect.getsource(memo.f).encode())
    return base64.b64encode(digest.digest())[:22].decode() + "".join(versions)


def version_keys(names: tuple[str, str | None]) -> list[str]:
    """Where the versions of a function, and of the function of one object, are kept."""
    return [f"{name}_memver" for name in names if name is not None]


def _versions(
    memo: Memo, names: tuple[str, str | None], *, timeout: int | float | None = 0, renew: bool = False
) -> list[str]:
    keys = version_keys((*names[:1], None) if "self" in memo.ignored else names)
    found = list(memo.owner.get_many(*keys))
    versions = [version or secrets.token_urlsafe(6) for version in found]
    if renew or versions != found:
        memo.owner.set_many(dict(zip(keys, versions, strict=True)), timeout=timeout)
    return versions


def reset(memo: Memo, f: Any) -> None:
    """A new version: what was kept under the old one is found no more."""
    memo.owner.set_many({version_keys(function_namespace(f))[-1]: secrets.token_urlsafe(6)}, timeout=0)
