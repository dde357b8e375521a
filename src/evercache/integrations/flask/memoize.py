"""`memoize`: a cached function of this library for each application, with Flask-Caching's manners."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Final

from flask import Flask
from msgspec.structs import replace

from evercache.api.core import FunctionCore
from evercache.api.keyspace import Key
from evercache.client.request import Request
from evercache.function import AsyncCachedFunction, CachedFunction
from evercache.integrations.flask import get_and_set
from evercache.integrations.flask.arguments import argument_text, caching_text, identity
from evercache.integrations.flask.backends import EvercacheBackend
from evercache.integrations.flask.names import function_namespace, joined, loop_runs, timeout_seconds
from evercache.integrations.flask.options import Options
from evercache.integrations.flask.signals import cache_memoize_hit, cache_memoize_miss
from evercache.integrations.flask.warn_once import logger
from evercache.protocol.scope import Subject
from evercache.protocol.signature import read_defaults

if TYPE_CHECKING:
    from evercache.integrations.flask.extension import Cache

__all__ = ["Memo"]

_NOTHING: Final = object()
_NAME = re.compile(r"[\w.<>@+-]{1,110}", re.ASCII)


class Memo:
    """One memoized function. `cores` and `fast` are filled at the first calls; a lost update does no harm."""

    def __init__(
        self,
        owner: Cache,
        f: Callable[..., Any],
        options: Options,
        make_name: Callable[[str], str] | None,
        ignored: list[str] | None,
    ) -> None:
        self.owner, self.f, self.options = owner, f, options
        self.make_name = make_name
        self.ignored = frozenset(ignored or ())
        self.is_async = inspect.iscoroutinefunction(f)
        self.names = list(inspect.signature(f).parameters)
        self.defaults = read_defaults(f)
        self.first = self.names[0] if self.names and self.names[0] in ("self", "cls") else None
        self.wrapper: Any = None
        self.fast: Callable[..., Any] | None = None
        self._inner: dict[EvercacheBackend, CachedFunction[..., Any]] = {}
        self._ainner: dict[EvercacheBackend, AsyncCachedFunction[..., Any]] = {}
        owner._memos.add(self)

    def __repr__(self) -> str:
        return f"<memoized {self.name}>"

    def forget(self) -> None:
        """The settings changed: begin anew at the next call."""
        self.fast = None
        self._inner, self._ainner = {}, {}

    @property
    def name(self) -> str:
        """The name of the function in keys; another hash or another source has entries of its own."""
        name = self.base_name
        method = self.owner._hash_of(self.options.hash_method)
        marks = [] if method is hashlib.sha256 else [getattr(method, "__name__", "hash")]
        if self.owner._checks_source(self.options.source_check):
            marks.append(hashlib.sha256(inspect.getsource(self.f).encode()).hexdigest()[:16])
        name = "@".join([name, *marks])
        if not _NAME.fullmatch(name):
            plainly = re.sub(r"[^\w.<>@+-]", "_", name, flags=re.ASCII)[:77]
            name = f"{plainly}~{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
        return name

    @property
    def base_name(self) -> str:
        """As `make_name` gives it, else `module.qualname`."""
        return self.make_name(self.plain_name) if callable(self.make_name) else self.plain_name

    @property
    def plain_name(self) -> str:
        """`module.qualname` of the function itself."""
        return f"{self.f.__module__}.{self.f.__qualname__}"

    # -- calls

    def is_cached(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call would be answered without running the function; no call is made."""
        backend = self.owner.cache
        if self.owner._goes_plain(backend):
            return bool(self.owner.has(get_and_set.memo_key(self, args, kwargs)))
        client = backend.evercache._client_sync()
        request = self.inner(backend)._core.request(args, kwargs)
        return client is not None and client.operations.peek(request, _NOTHING) is not _NOTHING

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of the function; of a coroutine function an awaitable, where a loop runs in this thread."""
        owner, options = self.owner, self.options
        if self.is_async and loop_runs():
            return self._acall(args, kwargs)
        if options.bypassed(self.f, args, kwargs):
            return owner._call(self.f, args, kwargs)
        backend = owner.cache
        if owner._goes_plain(backend):
            return get_and_set.memoized(self, args, kwargs)
        if self.is_async and backend.evercache._client_sync() is None:  # switched off
            return owner._call(self.f, args, kwargs)
        inner = self.inner(backend)
        if options.looks or owner.enable_signals:
            return self._observed(backend, inner, args, kwargs)
        if owner._only is backend and not self.is_async and options.unless is None:
            self.fast = inner
        value = inner(*args, **kwargs)
        return joined(value) if type(value) is GeneratorType else value

    async def _acall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = self.owner
        if self.options.bypassed(self.f, args, kwargs):
            return await self.f(*args, **kwargs)
        backend = owner.cache
        if owner._goes_plain(backend):
            return await asyncio.to_thread(get_and_set.memoized, self, args, kwargs)
        inner = self._ainner.get(backend)
        if inner is None:
            core = self._core(backend, is_async=True)
            inner = self._ainner[backend] = AsyncCachedFunction._of(core, "function", backend.evercache._hits_async)
        if self.options.forced(args, kwargs):
            return await inner.arefresh(*args, **kwargs)
        return await inner(*args, **kwargs)

    def _observed(
        self, backend: EvercacheBackend, inner: CachedFunction[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """With a look first, for those who are told of hits, or decide whether they want one."""
        owner, options, core = self.owner, self.options, inner._core
        client = backend.evercache._client_sync()
        again = options.forced(args, kwargs)
        value: Any = _NOTHING
        if client is not None and not again:
            value = client.operations.peek(core.request(args, kwargs), _NOTHING)
            if value is not _NOTHING and options.outdated(value, args, kwargs):
                value, again = _NOTHING, True
        if owner.enable_signals:
            signal = cache_memoize_miss if value is _NOTHING else cache_memoize_hit
            key = self.key(backend, args, kwargs)
            signal.send(cache=owner, cache_key=key, f=self.f, args=args, kwargs=kwargs)
        if value is not _NOTHING:
            return value
        return joined(inner.refresh(*args, **kwargs) if again else inner(*args, **kwargs))

    def inner(self, backend: EvercacheBackend) -> CachedFunction[..., Any]:
        """The cached function on one backend."""
        inner = self._inner.get(backend)
        if inner is None:
            core = self._core(backend, is_async=False)
            inner = self._inner[backend] = CachedFunction._of(core, "function", backend.evercache._hits_sync)
        return inner

    def _core(self, backend: EvercacheBackend, *, is_async: bool) -> MemoCore:
        options, cache = self.options, backend.evercache
        name = self.name
        tags = options.tags if callable(options.tags) else tuple(options.tags)
        tags = (tags,) if callable(tags) else tags
        if self.first == "self" and "self" not in self.ignored:
            tags = (*tags, lambda *args, **kwargs: instance_tag(name, args[0] if args else kwargs["self"]))
        settled = cache._core_options(
            self.f,
            name=name,
            ttl=lambda value: max(0, backend.ttl(timeout_seconds(self.wrapper.cache_timeout))),
            tags=tags,
            stale=options.stale,
            stale_if_error=options.stale_if_error,
            ignore=self.ignored & set(self.names),
            cache_if=options.kept,
        )
        settled["signature"] = settled["signature"].with_defaults(self.defaults)
        core = MemoCore(self, backend, is_async=is_async, **settled)
        if self.wrapper is not None:  # else it only makes keys
            shared = cache._functions.compare(core, "Give each a name of its own with make_name=")
            if shared:
                logger.warning(shared)
            cache._functions.append(core)
        return core

    # -- keys and deletes

    def key(self, backend: EvercacheBackend, args: Any, kwargs: Mapping[str, Any]) -> Key:
        """The key of a call's entry."""
        subject = self.inner(backend)._core.subject(args, kwargs)
        return Key(subject.key, subject.function, backend.evercache)

    def make_cache_key(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """The key of a call, for `cache.get` and `cache.delete`."""
        needed = self.first is not None and self.first not in self.ignored
        if needed and (not args or (self.first == "cls" and not inspect.isclass(args[0]))):
            raise ValueError(f"{self.f.__qualname__}: give `{self.first}` as the first positional argument")
        backend = self.owner.cache
        if self.owner._goes_plain(backend):
            return get_and_set.memo_key(self, args, kwargs)
        return self.key(backend, args, kwargs)

    def delete(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What `delete_memoized` does: one call's entry, those of one object, or all."""
        bound = getattr(f, "__self__", None)
        instance = None if bound is None or inspect.isclass(bound) else bound
        if args or kwargs:
            if instance is not None and self.first == "self" and not (args and args[0] is instance):
                args = (instance, *args)
            self.owner.delete(f.make_cache_key(self.f, *args, **kwargs))
            return
        backend = self.owner.cache
        if self.owner._goes_plain(backend):
            get_and_set.reset(self, f)
        elif instance is not None and self.first == "self" and "self" not in self.ignored:
            backend.evercache.invalidate_tag(instance_tag(self.name, instance))
        else:
            self.inner(backend).invalidate_all()

    def delete_version(self, f: Any) -> None:
        """What `delete_memoized_verhash` does: the same, whatever the arguments."""
        if self.owner._goes_plain(self.owner.cache):
            self.owner.delete_many(*get_and_set.version_keys(function_namespace(f))[-1:])
        else:
            self.delete(f, (), {})


class MemoCore(FunctionCore):
    """As its base, for arguments and functions that Flask-Caching takes."""

    def __init__(self, memo: Memo, backend: EvercacheBackend, **settled: Any) -> None:
        super().__init__(backend.evercache, memo.f, **settled)
        app = backend._app
        self._memo, self._app = memo, app
        self._run = memo.f if settled["is_async"] or app is None else app.ensure_sync(memo.f)

    def subject(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Subject:
        """As the base; what makes no key of its own takes part by its repr."""
        memo = self._memo
        unknown = memo.ignored.difference(memo.names)
        if unknown:
            kwargs = {name: value for name, value in kwargs.items() if name not in unknown}
        if memo.first is None:
            try:
                return super().subject(args, kwargs)
            except TypeError:
                pass  # an argument without a key; or a call that does not fit, which `bind` says
        values = self._bind(args, kwargs)
        texts = [
            caching_text(memo, value) if name == memo.first else argument_text(memo, name, value)
            for name, value in zip(memo.names, values, strict=True)
            if name not in memo.ignored
        ]
        key = self.cache.naming.entry_key(self.cache.settings.namespace, self.name, ",".join(texts))
        return Subject(key, self.name, self._tags(args, kwargs))

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError:
            # By position and by name at once: that is for the function to refuse, when it is called.
            given = self._memo.names[: len(args)]
            return self.signature.bind(*args, **{name: kwargs[name] for name in kwargs if name not in given})

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """As the base; in the background within a context of the application's."""
        request = super().request(args, kwargs)
        if self.is_async:
            return request
        return replace(request, compute=partial(self._compute, threading.get_ident(), args, kwargs))

    def _compute(self, thread: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        app: Flask | None = self._app
        if app is None or thread == threading.get_ident():
            return joined(self._run(*args, **kwargs))
        with app.app_context():
            return joined(self._run(*args, **kwargs))


def instance_tag(name: str, instance: object) -> str:
    """The tag of what was computed for one object."""
    return f"instance {name} {identity(instance)}"
