"""A configured cache of a site, with the functions that are cached in it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from evercache.cache import Cache
from evercache.codecs import SignedPickleCodec
from evercache.function import CachedFunction
from evercache.integrations.pybossa.keys import SiteNaming, function_name, named
from evercache.integrations.pybossa.migration import OldEntries
from evercache.integrations.pybossa.settings import SiteSettings
from evercache.observe.labelled import labelled
from evercache.protocol.scope import Subject
from evercache.protocol.signature import Defaults, read_defaults

__all__ = ["LOG", "Home", "Recipe"]

#: Where all of this integration is logged.
LOG = labelled("evercache.integrations.pybossa")


#: Bytes of the largest entry: the site's own code knew no limit.
_LARGEST = 16 << 20


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Recipe:
    """What a decorator was told: of `cache` the key, of `memoize` None. Each is one of its own."""

    fn: Callable[..., Any]
    timeout: float
    key_prefix: str | None = None
    #: What the function is called in marks; it and the defaults are as at decoration. "": it has no name.
    name: str = field(init=False)
    defaults: Defaults = field(init=False, repr=False)
    #: Stands for the recipe where nothing may keep that alive.
    token: object = field(init=False, repr=False, default_factory=object)
    #: What was logged of it, so that each is logged once.
    said: set[str] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        try:
            name = function_name(self.fn) if self.key_prefix is None else named(self.key_prefix)
        except AttributeError:
            name = ""
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "defaults", read_defaults(self.fn))

    def warn_once(self, message: str, *values: object) -> None:
        """Log a warning that names the function first, once."""
        if message not in self.said:
            self.said.add(message)
            LOG.warning(message, self.fn.__qualname__, *values)


class Home:
    """Of one `Sentinel` since it was configured. Safe for threads: each step on its dicts is one operation."""

    def __init__(self, settings: SiteSettings) -> None:
        self.settings = settings
        self.naming = SiteNaming(settings.prefix)
        # No refresh in the background: the functions of a site need its application context. No jitter: what a
        # timeout says is what the tests of a site see.
        self.cache = Cache(
            settings.url,
            namespace=settings.namespace,
            naming=self.naming,
            bookkeeping_db=settings.bookkeeping_db,
            fallback_codec=SignedPickleCodec(settings.secret) if settings.secret else None,
            budget=settings.budget,
            max_value_bytes=_LARGEST,
            jitter=0,
            beta=0,
        )
        self.old = None if settings.old_prefix is None else OldEntries(settings.old_prefix, self.cache)
        #: What is called in the place of a decorated function: the code that was made for it, where there is some;
        #: itself where it cannot be cached.
        self.calls: dict[object, Callable[..., Any]] = {}
        self._made: dict[object, CachedFunction[Any, Any] | None] = {}
        #: By token, as the two above: when a recipe dies, so does what was made for it.
        self._recipes: dict[object, weakref.ref[Recipe]] = {}
        self._plain: dict[str, Recipe] = {}

    def __repr__(self) -> str:
        return f"<Home {self.settings!r}>"

    def call(self, recipe: Recipe) -> Callable[..., Any]:
        """What is to be called, made at the first use."""
        cached = self.cached(recipe)
        if cached is None:
            return self.calls.setdefault(recipe.token, recipe.fn)
        template = cached._template
        return self.calls.setdefault(recipe.token, cached if template is None else template.call)

    def cached(self, recipe: Recipe) -> CachedFunction[Any, Any] | None:
        """The function, cached here; None where it cannot be."""
        token = recipe.token
        if token not in self._made:
            self._recipes.setdefault(token, weakref.ref(recipe, partial(self._forget, token)))
            made: CachedFunction[Any, Any] | None = None
            try:
                made = self._make(recipe)
            except Exception as error:  # also a warning, where the site makes errors of those
                LOG.warning("%s is not cached, every call runs it: %s", recipe.fn.__qualname__, error)
            self._made.setdefault(token, made)
        return self._made[token]

    def _forget(self, token: object, _: object) -> None:
        for table in (self.calls, self._made, self._recipes):
            table.pop(token, None)

    def recipe(self, fn: Callable[..., Any]) -> Recipe:
        """Of a function that was not decorated, but is called as one that was."""
        return self._plain.setdefault(function_name(fn), Recipe(fn, 300))

    def _make(self, recipe: Recipe) -> CachedFunction[Any, Any]:
        fn, ttl = recipe.fn, recipe.timeout
        tags: tuple[Callable[..., str], ...] = ()
        if self.old is not None:

            def subject(args: Any, kwargs: Any) -> Subject:
                made: Subject = cached._core.subject(args, kwargs)
                return made

            def tag(*args: Any, **kwargs: Any) -> str:
                key: str = self.naming.entry_key("", recipe.name, cached._core.signature.call_text(args, kwargs))
                return key

            fn = self.old.before(fn, recipe.key_prefix, subject)
            ttl = min(ttl, self.settings.migration_ttl)
            tags = (tag,)
        ignored = () if recipe.key_prefix is None else _parameters(recipe.fn)
        options = {"ttl": ttl, "name": recipe.name, "ignore": ignored, "tags": tags}
        cached: CachedFunction[Any, Any] = self.cache._decorate(fn, options, recipe.defaults)
        return cached

    def close(self) -> None:
        """End the cache."""
        self.cache.close()


def _parameters(fn: Callable[..., Any]) -> tuple[str, ...]:
    from inspect import signature

    return tuple(signature(fn).parameters)
