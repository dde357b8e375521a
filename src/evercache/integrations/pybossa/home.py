"""A configured cache of a site, with the functions that are cached in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evercache.cache import Cache
from evercache.codecs import SignedPickleCodec
from evercache.integrations.pybossa.keys import SiteNaming, function_name, named
from evercache.integrations.pybossa.migration import OldEntries
from evercache.integrations.pybossa.settings import SiteSettings
from evercache.protocol.scope import Subject

__all__ = ["LOG", "Home", "Recipe"]

#: Where all of this integration is logged.
LOG = logging.getLogger("evercache.integrations.pybossa")


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What a decorator was told: of `cache` the key, of `memoize` None. Each is one of its own."""

    fn: Callable[..., Any]
    timeout: float
    key_prefix: str | None = None

    @property
    def name(self) -> str:
        """What the function is called in marks."""
        return function_name(self.fn) if self.key_prefix is None else named(self.key_prefix)


class Home:
    """Of one `Sentinel` since it was configured. Safe for threads: `functions` is only added to."""

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
            jitter=0,
            beta=0,
        )
        self.old = None if settings.old_prefix is None else OldEntries(settings.old_prefix, self.cache)
        #: What stands for a decorated function here; itself where it cannot be cached.
        self.functions: dict[Recipe, Any] = {}

    def __repr__(self) -> str:
        return f"<Home {self.settings!r}>"

    def function(self, recipe: Recipe) -> Any:
        """The function, cached here."""
        made = self.functions.get(recipe)
        if made is None:
            try:
                made = self._make(recipe)
            except (TypeError, ValueError) as error:
                LOG.warning("%s is not cached, every call runs it: %s", recipe.fn.__qualname__, error)
                made = recipe.fn
            made = self.functions.setdefault(recipe, made)
        return made

    def _make(self, recipe: Recipe) -> Any:
        fn, ttl = recipe.fn, recipe.timeout
        if self.old is not None:

            def subject(args: Any, kwargs: Any) -> Subject:
                made: Subject = cached._core.subject(args, kwargs)
                return made

            fn = self.old.before(fn, recipe.key_prefix, subject)
            ttl = min(ttl, self.settings.migration_ttl)
        ignored = () if recipe.key_prefix is None else _parameters(recipe.fn)
        cached: Any = self.cache.cached(ttl=ttl, name=recipe.name, ignore=ignored)(fn)
        return cached

    def close(self) -> None:
        """End the cache."""
        self.cache.close()


def _parameters(fn: Callable[..., Any]) -> tuple[str, ...]:
    from inspect import signature

    return tuple(signature(fn).parameters)
