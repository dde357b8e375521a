"""The texts of arguments in the keys of memoized calls."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from evercache.integrations.flask.names import caching_id
from evercache.integrations.flask.warn_once import tell_once
from evercache.protocol.canonical import canonical, describe

if TYPE_CHECKING:
    from evercache.integrations.flask.memoize import Memo

__all__ = ["argument_text", "caching_text", "identity"]


def identity(value: object) -> str:
    """What names an object in keys: its `__caching_id__`, its `__cache_key__`, or its repr, as in Flask-Caching."""
    if getattr(value, "__caching_id__", None) is None and hasattr(type(value), "__cache_key__"):
        return canonical(value)
    return caching_id(value)


def caching_text(memo: Memo, value: object) -> str:
    """The text of `self` or `cls`."""
    if inspect.isclass(value):
        return argument_text(memo, "cls", value)
    return f"self{{{canonical(identity(value))}}}"


def argument_text(memo: Memo, name: str, value: object) -> str:
    """The text of an argument; its repr where it has no other, as in Flask-Caching. Defaults: as at decoration."""
    default = memo.defaults.get(name)
    if default is not None and default[0] is value:
        return default[1]
    try:
        return canonical(value)
    except TypeError:
        tell_once(
            memo.owner._said,
            f"repr {memo.base_name} {name}",
            "the argument %r of %s is %s, which takes part in the key by its repr(): an address in it is another "
            "in each process, and two that look the same share an entry. Give its class a __cache_key__() method "
            "that returns what identifies it",
            name,
            memo.base_name,
            describe(value),
        )
        return f"repr{{{canonical(repr(value))}}}"
