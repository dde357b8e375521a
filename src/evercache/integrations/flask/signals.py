"""Signals of hits and misses, sent when `CACHE_ENABLE_SIGNALS` is set."""

from blinker import Namespace

__all__ = ["cache_memoize_hit", "cache_memoize_miss", "cache_view_hit", "cache_view_miss"]

_signals = Namespace()

#: Sent with `cache`, `cache_key`, and the `args` and `kwargs` of the call.
cache_view_hit = _signals.signal("cache-view-hit")
cache_view_miss = _signals.signal("cache-view-miss")
#: Sent with the same, and `f`, the plain function.
cache_memoize_hit = _signals.signal("cache-memoize-hit")
cache_memoize_miss = _signals.signal("cache-memoize-miss")
