"""What Flask-Caching's users know by name: time-outs, the names of functions, the keys of fragments."""

from __future__ import annotations

import asyncio
import inspect
import math
import string
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from types import GeneratorType
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.datastructures import MultiDict

__all__ = [
    "SEEN",
    "QueryArgs",
    "Timeout",
    "caching_id",
    "function_namespace",
    "joined",
    "loop_runs",
    "make_template_fragment_key",
    "positional_names",
    "positional_values",
    "query_pairs",
    "takes",
    "timeout_seconds",
]

QueryArgs = str | Mapping[str, Any] | Iterable[tuple[str, Any]]
Timeout = int | float | timedelta

#: Where a request of `flask cache warm` has views note whether they were found cached.
SEEN = "evercache.seen"

_PLAIN = frozenset(string.ascii_letters + string.digits + "_.")


def timeout_seconds(timeout: Timeout | str | None) -> int | float | None:
    """A time-out as a number; a timedelta is rounded up to whole seconds, so that none becomes 0, "for ever"."""
    if isinstance(timeout, str):
        return int(timeout)
    return math.ceil(timeout.total_seconds()) if isinstance(timeout, timedelta) else timeout


def positional_names(f: Callable[..., Any]) -> list[str]:
    """The names of the parameters that can be given by position or by name."""
    parameters = inspect.signature(f).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def positional_values(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], ignored: Iterable[str] = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call by position, with defaults; then those by name that have no position, sorted.

    What is ignored is None, and an object or class whose method it is what identifies it. Names win over positions.
    """
    parameters = inspect.signature(f).parameters
    names, ignored = positional_names(f), frozenset(ignored)
    if names and names[0] in ("self", "cls") and names[0] not in ignored and not args:
        raise ValueError(f"{f.__qualname__}: give `{names[0]}` as the first positional argument")
    left, values = list(args), []
    for place, name in enumerate(names):
        value = parameters[name].default
        if name in kwargs:
            value = kwargs[name]
        elif left:
            value = left.pop(0)
        if name in ignored or value is inspect.Parameter.empty:
            value = None
        elif place == 0 and name in ("self", "cls"):
            value = caching_id(value)
        values.append(value)
    more = {name: kwargs[name] for name in sorted(kwargs) if name not in names and name not in ignored}
    return (*values, *left), more


def takes(f: Callable[..., Any], count: int) -> bool:
    """Whether a callable of the user's takes at least so many arguments by position, or `*args`."""
    parameters = inspect.signature(f).parameters.values()
    return sum(p.kind is not p.KEYWORD_ONLY for p in parameters) >= count


def caching_id(value: object) -> str:
    """What identifies an object: its `__caching_id__()`, else its repr."""
    own = getattr(value, "__caching_id__", None)
    return repr(value) if own is None else str(own())


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return "".join(sign for sign in name if sign in _PLAIN)


def function_namespace(f: Callable[..., Any], args: Any = None) -> tuple[str, str | None]:
    """A plain name for a function, and one for the function of this object where it is a method of one."""
    names = positional_names(f)
    bound = getattr(f, "__self__", None)
    token = None
    if bound is not None and not inspect.isclass(bound):
        token = caching_id(bound)
    elif names and names[0] == "self" and args:
        token = caching_id(args[0])
    if names and names[0] == "cls" and not (args and inspect.isclass(args[0])):
        raise ValueError("the class is the first argument: delete_memoized(Class.method, Class, ...)")
    name = f"{f.__module__}.{getattr(f, '__qualname__', getattr(f, '__name__', ''))}"
    return _plain(name), None if token is None else _plain(f"{name}.{token}")


def make_template_fragment_key(fragment_name: str, vary_on: list[str] | None = None) -> str:
    """The key of a fragment that the Jinja tag `cache` keeps."""
    more = "_" + "_".join(vary_on) if vary_on else ""
    return f"_template_fragment_cache_{fragment_name}{more}"


def query_pairs(query: QueryArgs) -> list[tuple[str, str]]:
    """A query string, a mapping or pairs, as pairs of texts."""
    if isinstance(query, str):
        return parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    if isinstance(query, MultiDict):
        return [(key, str(value)) for key, value in query.items(multi=True)]
    pairs = query.items() if isinstance(query, Mapping) else query
    return [(key, str(value)) for key, value in pairs]


def joined(value: Any) -> Any:
    """What a generator gives, as one text or one bytes where it gives only such, else as a list."""
    if not isinstance(value, GeneratorType):
        return value
    parts = list(value)
    for kind in (str, bytes):
        if all(isinstance(part, kind) for part in parts):
            return kind().join(parts)
    return parts


def loop_runs() -> bool:
    """Whether an event loop runs in this thread, so that a coroutine can be awaited there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
