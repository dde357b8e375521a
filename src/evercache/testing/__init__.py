"""For the tests of an application: caches without servers.

`memory()`: every cache, whatever its URL, keeps its entries in this process, in a store that begins empty, and
time passes when the test says so. `off()`: every cached function runs, and operations do nothing.
`record()`: like either, and everything that is asked of a cache is written down. All three are context
managers, hold for all threads and tasks, and may be nested: the innermost counts. With pytest they are the
fixtures `evercache_memory`, `evercache_off` and `evercache_record`.

The variable `EVERCACHE_DISABLED` does not matter within `memory()` and `record()`; `cache.disabled()` does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evercache.testing.modes import MemoryStores, memory, off, record
    from evercache.testing.recording import Call, Calls, Recording

__all__ = ["Call", "Calls", "MemoryStores", "Recording", "memory", "off", "record"]

_RECORDING = ("Call", "Calls", "Recording")


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: every run of pytest imports this package with the plugin.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{'recording' if name in _RECORDING else 'modes'}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
