"""Options of the decorators as somebody new writes them: each mistake is answered with the right line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from evercache.api.core import TagSource
from evercache.protocol.canonical import shown

__all__ = ["check_arguments", "check_cache_errors", "check_callables", "tag_sources"]

#: What other libraries call an option.
_ELSEWHERE: Final[dict[str, str]] = {
    **dict.fromkeys(
        (
            *("cache_timeout", "default_timeout", "ex", "expiration", "expire", "expire_after", "expires"),
            *("expires_in", "expiry", "lifetime", "max_age", "seconds", "time", "timeout", "time_to_live"),
        ),
        "ttl",
    ),
    **dict.fromkeys(("tag", "dependencies", "depends_on"), "tags"),
    **dict.fromkeys(("key_prefix", "make_name", "prefix"), "name"),
    **dict.fromkeys(("condition", "response_filter", "when"), "cache_if"),
    **dict.fromkeys(("key_builder", "key_func", "key_fn", "make_cache_key"), "key"),
    **dict.fromkeys(("args_to_ignore", "exclude", "ignore_args"), "ignore"),
    **dict.fromkeys(("stale_while_revalidate", "swr"), "stale"),
    "serializer": "codec",
}


def check_arguments(
    decorator: str, given: tuple[Any, ...], options: Mapping[str, Any], known: Collection[str]
) -> None:
    """`TypeError` for a decorator that was called with no function, or with an unknown option."""
    for name, value in options.items():
        if name in known:
            continue
        import difflib  # only for this message

        close = difflib.get_close_matches(name, known, 1)
        right = _ELSEWHERE.get(name) or (close[0] if close else "")
        if right not in known:
            raise TypeError(f"{decorator}() has no option {name}=; it has {', '.join(sorted(known))}")
        value = (value,) if right in ("tags", "ignore") and isinstance(value, str) else value
        raise TypeError(f"{decorator}() has no option {name}=: write {right}={shown(value)}")
    if not given or (len(given) == 1 and (callable(given[0]) or hasattr(given[0], "__get__"))):
        return
    first = given[0]
    if isinstance(first, (int, float, timedelta)) and not isinstance(first, bool):
        raise TypeError(
            f"{decorator}({shown(first)}) does not say what that is: write @cache.{decorator}(ttl={shown(first)})"
        )
    if len(given) > 1:
        raise TypeError(
            f"{decorator}() takes one function, and options by name: write @cache.{decorator}(ttl=60) above it"
        )
    raise TypeError(
        f"{shown(first)} is not a function, so its calls cannot be cached: options of {decorator}() are given by "
        f"name, such as @cache.{decorator}(ttl=60)"
    )


def tag_sources(tags: Any) -> tuple[TagSource, ...]:
    """Tags of a function: templates and callables in any iterable, or one callable. `TypeError` for others."""
    if isinstance(tags, str):
        raise TypeError(f"tags={tags!r}: give a sequence of tags, such as tags=({tags!r},)")
    if callable(tags):
        return (tags,)
    if not isinstance(tags, Iterable):
        raise TypeError(f"tags={shown(tags)}: give a sequence of tags, such as tags=('project:{{project_id}}',)")
    sources = tuple(tags)
    for source in sources:
        if not isinstance(source, str) and not callable(source):
            right = source.decode(errors="replace") if isinstance(source, bytes) else shown(source, str)
            raise TypeError(
                f"a tag is a text, or a function of the arguments that returns texts, not {shown(source)}: "
                f"write tags=({right!r},)"
            )
    return sources


def check_callables(**options: Any) -> None:
    """`TypeError` for an option that is called with a result, and cannot be."""
    for name, value in options.items():
        if value is not None and not callable(value):
            raise TypeError(
                f"{name}={shown(value)}: give a function of the result, such as {name}=lambda result: ..."
            )


def check_cache_errors(errors: Any) -> None:
    """`TypeError` unless these are exception classes with the time that each is cached."""
    if not isinstance(errors, Mapping):
        kinds = errors if isinstance(errors, (tuple, list, set, frozenset)) else (errors,)
        names = ", ".join(f"{getattr(kind, '__name__', 'LookupError')}: 5" for kind in kinds)
        raise TypeError(f"cache_errors= says for how long: write cache_errors={{{names}}} (seconds)")
    for kind in errors:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"cache_errors= names {shown(kind)}, which is no class of exceptions")
