"""The options that `cached` and `memoize` share: when to bypass, to compute again, and not to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evercache.api.options import tag_sources
from evercache.integrations.flask.names import takes
from evercache.policy import seconds

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """As Flask-Caching has them; `tags` and the stale times (in seconds) are ours."""

    unless: Callable[..., Any] | None = None
    forced_update: Callable[..., Any] | None = None
    is_stale: Callable[..., Any] | None = None
    response_filter: Callable[..., Any] | None = None
    cache_none: bool = False
    hash_method: Callable[..., Any] | None = None
    source_check: bool | None = None
    tags: Any = ()
    stale: float = 0
    stale_if_error: float = 0

    def __post_init__(self) -> None:
        tag_sources(self.tags)
        for name in ("stale", "stale_if_error"):
            seconds(getattr(self, name), name)

    @property
    def looks(self) -> bool:
        """Whether a call has to look at what is cached before it is served."""
        return callable(self.forced_update) or callable(self.is_stale)

    def bypassed(self, f: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        """Whether the function is to run as if there were no cache."""
        unless = self.unless
        if not callable(unless):
            return False
        return (unless(f, *args, **kwargs) if takes(unless, 1) else unless()) is True

    def forced(self, args: Any, kwargs: Any) -> bool:
        """Whether to compute, whatever is cached."""
        forced = self.forced_update
        if not callable(forced):
            return False
        return (forced(*args, **kwargs) if takes(forced, 1) else forced()) is True

    def outdated(self, value: Any, args: Any, kwargs: Any) -> bool:
        """Whether the application does not want a cached value any more."""
        stale = self.is_stale
        if not callable(stale):
            return False
        return (stale(value, *args, **kwargs) if takes(stale, 2) else stale(value)) is True

    def kept(self, value: Any) -> bool:
        """Whether a result is to be cached."""
        if value is None and not self.cache_none:
            return False
        return self.response_filter is None or bool(self.response_filter(value))
