"""The immutable choices: of a whole cache (`Settings`) and of one function (`Policy`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct, field

from evercache.errors import ConfigurationError
from evercache.protocol.canonical import shown
from evercache.protocol.envelope import MAX_SPAN_MS
from evercache.protocol.keys import check_namespace

__all__ = ["TTL", "Consistency", "OnError", "Policy", "Seconds", "Settings", "seconds"]

Seconds: TypeAlias = float | int | timedelta
#: Seconds, a timedelta, or a callable of the result. Direct operations take `inf` as well: see `Policy.forever`.
TTL: TypeAlias = Seconds | Callable[[Any], Seconds]
OnError: TypeAlias = Literal["absorb", "raise"]
Consistency: TypeAlias = Literal["available", "strict"]


def seconds(value: Seconds, what: str) -> float:
    """A duration in seconds; ConfigurationError unless it is a finite number not below 0, or a timedelta."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{what} must be seconds or a timedelta, not {shown(value)}")
    if not 0 <= value < 1e9:
        raise ConfigurationError(f"{what} must be between 0 and 1e9 seconds, not {shown(value)}")
    return float(value)


#: Share of a budget after which no server is waited for; the rest is for a scheduler that is late.
WAITED: Final = 0.9


class Settings(Struct, frozen=True):
    """What holds for a whole cache. Times are in seconds."""

    namespace: str = "evercache"
    budget: float = 0.25
    default_ttl: float = 300.0
    max_ttl: float = 30 * 86400.0
    max_compute: float = 300.0
    max_staleness: float = 1.0
    lag_bound: float = 10.0
    hedge: float = 0.05
    share_reads: bool = True
    hot_samples: float = 0.0
    gutter: float = 1.5
    jitter: float = 0.05
    beta: float = 1.0
    max_value_bytes: int = 1 << 20
    near_bytes: int = 16 << 20
    bookkeeping_db: int | None = None
    journal_time: float = 600.0
    on_error: OnError = "absorb"
    consistency: Consistency = "available"
    spool: str | None = None

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        for name in ("budget", "default_ttl", "max_ttl", "max_compute", "max_staleness", "lag_bound"):
            if seconds(getattr(self, name), name) <= 0:
                raise ConfigurationError(f"{name} must be above 0 seconds")
        seconds(self.gutter, "gutter")
        check_spread(self.jitter, self.beta)
        if isinstance(self.hedge, bool) or not isinstance(self.hedge, (int, float)) or not 0 <= self.hedge <= 1:
            raise ConfigurationError(
                f"hedge={shown(self.hedge)}: give the share of reads that may be sent twice, from 0 (none) to 1"
            )
        rate = self.hot_samples
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 100:
            raise ConfigurationError(
                f"hot_samples={shown(rate)}: give how many calls a second each process samples, from 0 to 100"
            )
        if self.default_ttl > self.max_ttl:
            raise ConfigurationError(f"default_ttl ({self.default_ttl}) is above max_ttl ({self.max_ttl})")
        db = self.bookkeeping_db
        if db is not None and (type(db) is not int or db < 0):
            raise ConfigurationError(f"bookkeeping_db={shown(db)}: give the number of a database, 0 or above")
        check_choice("on_error", self.on_error, ("absorb", "raise"))
        check_choice("consistency", self.consistency, ("available", "strict"))

    @property
    def block(self) -> float:
        """How long the tail lets the master hold an empty read (rule 14)."""
        return self.max_staleness / 4


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """ConfigurationError unless the value is one of those allowed."""
    if value not in allowed:
        raise ConfigurationError(f"{name}={shown(value)}: use {' or '.join(map(repr, allowed))}")


def check_spread(jitter: float, beta: float) -> None:
    """ConfigurationError for a jitter or an eagerness of early refreshes that means nothing."""
    for name, value in (("jitter", jitter), ("beta", beta)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(f"{name} must be a number, not {shown(value)}")
    if not 0 <= jitter < 1:
        raise ConfigurationError("jitter is a share of the TTL: between 0 and 1")
    if not 0 <= beta < 1e6:
        raise ConfigurationError("beta must not be negative (0 switches early refresh off)")


class Policy(Struct, frozen=True):
    """How the results of one function, or one direct operation, are cached. Times are in seconds."""

    ttl: float | Callable[[Any], Seconds]
    max_ttl: float
    stale: float = 0.0
    stale_if_error: float = 0.0
    near: float = 0.0
    jitter: float = 0.0
    beta: float = 1.0
    cache_if: Callable[[Any], bool] | None = None
    ttl_if_none: float | None = None
    cache_errors: Mapping[type[Exception], float] = field(default_factory=dict)
    budget: float = 0.25
    on_error: OnError = "absorb"
    consistency: Consistency = "available"
    #: An entry lives for `max_ttl`, and a direct read in the last third of that begins it anew.
    renewed: bool = False

    @classmethod
    def forever(cls, max_ttl: float, **more: Any) -> Policy:
        """What `ttl=inf` means: no entry may outlive the marks that may invalidate it (rule 1)."""
        last = min(max_ttl / 3, MAX_SPAN_MS / 1000)
        return cls(**{**more, "ttl": max_ttl - last, "max_ttl": max_ttl, "stale": last, "renewed": True})

    def __post_init__(self) -> None:
        check_spread(self.jitter, self.beta)
        if self.budget <= 0:
            raise ConfigurationError("budget must be above 0 seconds")
        for name in ("stale", "stale_if_error"):
            after = getattr(self, name)
            if min(after, self.max_ttl) * 1000 > MAX_SPAN_MS:
                raise ConfigurationError(
                    f"{name}={after:.0f} s: an entry cannot outlive its TTL by more than {MAX_SPAN_MS // 1000} s "
                    "(49 days); use less"
                )

    def lifetime(self, value: Any, draw: float) -> tuple[int, int]:
        """Milliseconds until the soft expiry of a value, and from there to the hard one.

        `draw` is uniform in [0, 1). The hard TTL is ttl + max(stale, stale_if_error), at most `max_ttl`.
        """
        if value is None and self.ttl_if_none is not None:
            ttl = self.ttl_if_none
        elif callable(self.ttl):
            ttl = seconds(self.ttl(value), "the TTL that ttl= returned")
        else:
            ttl = self.ttl
        return self._spread(ttl, draw, max(self.stale, self.stale_if_error))

    def error_lifetime(self, error: BaseException, draw: float) -> tuple[int, int] | None:
        """The same for an exception that `cache_errors` names, else None."""
        fitting = [kind for kind in self.cache_errors if isinstance(error, kind)]
        if not fitting:
            return None
        nearest = min(fitting, key=type(error).__mro__.index)
        return self._spread(self.cache_errors[nearest], draw, 0.0)

    def _spread(self, ttl: float, draw: float, after: float) -> tuple[int, int]:
        # Only downwards: a value never lives longer than was asked for.
        soft = min(ttl * (1 - self.jitter * draw), self.max_ttl)
        hard = min(soft + after, self.max_ttl)
        return int(soft * 1000), int((hard - soft) * 1000)
