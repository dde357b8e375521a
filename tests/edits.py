"""Code done wrong on purpose: a function of the library with some of its text changed, while a test looks.

The files stay as they are: the change is made in a copy of the function.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any
from unittest import mock

__all__ = ["Change", "edit", "put", "swapped"]

Change = Callable[[], contextlib.AbstractContextManager[Any]]


def swapped(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """The text with some of it replaced; LookupError where it is not there any more."""
    for old, new in pairs:
        if old not in text:
            raise LookupError(f"the code has changed: {old!r} is not in it; bring this mutation up to date")
        text = text.replace(old, new)
    return text


def put(owner: Any, name: str, function: Any) -> Change:
    """Another function in the place of a method."""
    return lambda: mock.patch.object(owner, name, function)


def edit(owner: Any, name: str, *pairs: tuple[str, str]) -> Change:
    """A function or method with some of its text changed."""

    def apply() -> contextlib.AbstractContextManager[Any]:
        function = inspect.unwrap(getattr(owner, name))
        function = getattr(function, "__func__", function)  # of a class method; its decorator stands in the text
        text = swapped(textwrap.dedent(inspect.getsource(function)), pairs)
        scope: dict[str, Any] = {}
        exec(compile(text, f"<mutated {owner.__name__}.{name}>", "exec"), function.__globals__, scope)
        return mock.patch.object(owner, name, scope[name])

    return apply
