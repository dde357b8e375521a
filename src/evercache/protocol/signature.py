"""How the arguments of a call become the text of a key and the values of tags."""

from __future__ import annotations

import contextlib
import functools
import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from msgspec import Struct

from evercache.protocol.canonical import canonical, describe, import_name, shown

__all__ = ["Defaults", "Signature", "TagTemplate", "check_cacheable", "parameters_source", "read_defaults"]

#: Defaults by parameter, each with its canonical text: the object may change later. Those that cannot are left out.
Defaults = Mapping[str, tuple[object, str]]
_UNCHANGING = frozenset({int, str, bool, float, bytes, type(None)})

_MEND = (
    "give its class a __cache_key__() method that returns what identifies it, "
    "leave the argument out with ignore=({name!r},), or compute the key with key="
)


def check_cacheable(fn: object) -> bool:
    """Whether the function is a coroutine function; a `TypeError` for what cannot be cached at all.

    Those are classes, properties, generators, `staticmethod` and `classmethod` objects, and callables
    without a name of their own.
    """
    name = getattr(fn, "__qualname__", None) or shown(fn)
    if isinstance(fn, type):
        raise TypeError(f"{name} is a class: cache a function that returns an object of it")
    if isinstance(fn, property) or (not callable(fn) and hasattr(fn, "__get__") and hasattr(fn, "func")):
        raise TypeError(f"{name} is a property: cache a method, and call it from the property")
    if isinstance(fn, (staticmethod, classmethod)):
        kind = type(fn).__name__
        raise TypeError(f"{name} is a {kind} object: cache the function in it")
    if not callable(fn):
        raise TypeError(f"{name} is not a function, so its calls cannot be cached")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{name} is a generator, which gives its items once only: return a list or a tuple")
    named = isinstance(getattr(fn, "__qualname__", None), str)
    if isinstance(fn, functools.partial) and not named:
        inner = getattr(fn.func, "__name__", "function")
        raise TypeError(
            f"{shown(fn)} has no name to make keys of, and name= does not give it one: cache {inner} itself, or a "
            f"function around it, such as  def {inner}_with(...): return {inner}(...)"
        )
    if not named:
        raise TypeError(f"{name} has no name to make keys of: wrap it in a function with def")
    return inspect.iscoroutinefunction(fn)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of one function, and the way from a call to its text in the key.

    `bind(*args, **kwargs)` returns the values of all parameters in order, defaults filled in, and
    raises the function's ordinary `TypeError` for a call that does not fit.
    """

    function: str
    parameters: tuple[str, ...]
    bind: Callable[..., tuple[Any, ...]] = field(repr=False)
    ignored: frozenset[str] = frozenset()
    key: Callable[..., object] | None = None
    _kept: tuple[int, ...] | None = field(default=None, repr=False)
    #: By position; of these parameters alone.
    _defaults: Mapping[int, tuple[object, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        *,
        ignore: Iterable[str] = (),
        key: Callable[..., object] | None = None,
    ) -> Signature:
        """Read the function's signature; `TypeError` for unknown names in `ignore`.

        `ignore` names parameters that do not make a difference. `key` gets the arguments of the call as
        they were given and returns a value used in their place.
        """
        name = f"{import_name(fn.__module__)}.{fn.__qualname__}"
        if isinstance(ignore, str):
            raise TypeError(f"ignore= of {name} is a tuple of parameter names: write ignore=({ignore!r},)")
        try:
            signature = inspect.signature(fn)
        except ValueError as error:
            raise TypeError(f"{name} has no readable signature: wrap it in a function with def") from error
        parameters, ignored = tuple(signature.parameters), frozenset(ignore)
        if unknown := sorted(ignored - set(parameters)):
            raise TypeError(f"ignore= names {', '.join(unknown)}, but {name} has {_listed(parameters)}")
        if key is not None and ignored:
            raise TypeError(f"{name}: give either key= or ignore=, the key function sees every argument")
        if key is not None and not callable(key):
            raise TypeError(f"{name}: key= is a function of the call's arguments, not {describe(key)}")
        kept = tuple(i for i, p in enumerate(parameters) if p not in ignored) if ignored else None
        made = cls(name, parameters, _compile_bind(fn, signature), ignored, key, kept)
        return made.with_defaults(_defaults_of(signature))

    def with_defaults(self, defaults: Defaults) -> Signature:
        """The same signature, with defaults as they were read at another time."""
        known = {self.parameters.index(name): default for name, default in defaults.items()}
        return replace(self, _defaults=known)

    def text(self, values: tuple[Any, ...]) -> str:
        """The canonical text of bound arguments, ignored ones left out (`key=` is not looked at)."""
        try:
            if self._defaults:
                kept = range(len(values)) if self._kept is None else self._kept
                return ",".join([self.argument_text(index, values[index]) for index in kept])
            if self._kept is None:
                return ",".join([canonical(value) for value in values])
            return ",".join([canonical(values[index]) for index in self._kept])
        except TypeError:
            return self._text_by_name(values)

    def argument_text(self, index: int, value: Any) -> str:
        """The canonical text of one argument; a default has the one that it had when it was read."""
        default = self._defaults.get(index)
        return default[1] if default is not None and default[0] is value else canonical(value)

    def call_text(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Bind a call and return its canonical text, by `key=` where there is one."""
        values = self.bind(*args, **kwargs)
        if self.key is None:
            return self.text(values)
        value = self.key(*args, **kwargs)
        try:
            return canonical(value)
        except TypeError as error:
            raise TypeError(
                f"key= of {self.function} returned {describe(value)}, which makes no cache key ({error}): "
                "return text, numbers, or a tuple of them"
            ) from error

    def texts(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, items: Sequence[Any]
    ) -> list[str]:
        """As `call_text`, of calls that differ in the parameter at `position`, each of the items in turn."""
        if self.key is not None:
            return [self.call_text(*self.replaced(args, kwargs, position, item)) for item in items]
        values = self.bind(*args, **kwargs)
        kept = range(len(values)) if self._kept is None else self._kept
        try:
            before = "".join([self.argument_text(index, values[index]) + "," for index in kept if index < position])
            after = "".join(["," + self.argument_text(index, values[index]) for index in kept if index > position])
            return [before + canonical(item) + after for item in items]
        except TypeError:
            return [self.text((*values[:position], item, *values[position + 1 :])) for item in items]

    def replaced(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, item: Any
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of a call with another value of the parameter at `position`, not a keyword-only one."""
        if position < len(args):
            return (*args[:position], item, *args[position + 1 :]), kwargs
        return args, {**kwargs, self.parameters[position]: item}

    def arguments(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Bound arguments by parameter name, for tags; ignored ones included."""
        return dict(zip(self.parameters, values, strict=True))

    def _text_by_name(self, values: tuple[Any, ...]) -> str:
        parts = []
        for index, (name, value) in enumerate(zip(self.parameters, values, strict=True)):
            if name in self.ignored:
                continue
            try:
                parts.append(self.argument_text(index, value))
            except TypeError as error:
                raise TypeError(
                    f"the argument {name!r} of {self.function} makes no cache key: {error}. "
                    f"Mend: {_MEND.format(name=name)}."
                ) from error
        return ",".join(parts)


def read_defaults(fn: Callable[..., Any]) -> Defaults:
    """The defaults of a function as they are now; none where its signature cannot be read."""
    try:
        return _defaults_of(inspect.signature(fn))
    except (TypeError, ValueError):
        return {}


def _defaults_of(signature: inspect.Signature) -> Defaults:
    defaults: dict[str, tuple[object, str]] = {}
    for name, parameter in signature.parameters.items():
        default = parameter.default
        if type(default) in _UNCHANGING or default is parameter.empty:
            continue
        if type(default) is object:
            # A bare object() means "not given": stable, though it has no text of its own.
            defaults[name] = default, "default{}"
            continue
        with contextlib.suppress(Exception):  # it makes no key: the call says so, if it is ever used
            defaults[name] = default, canonical(default)
    return defaults


def _listed(parameters: tuple[str, ...]) -> str:
    return "the parameters " + ", ".join(parameters) if parameters else "no parameters"


def parameters_source(fn: Callable[..., Any]) -> tuple[str, list[object]]:
    """The parameters of a function as source text, and its defaults, which the text takes from `__defaults[i]`."""
    signature = inspect.signature(fn)
    defaults: list[object] = []
    pieces: list[str] = []
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for position, (name, parameter) in enumerate(signature.parameters.items()):
        if not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"{fn.__qualname__} has a parameter with the odd name {name!r}")
        kind = parameter.kind
        if kind is parameter.KEYWORD_ONLY and not {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & set(
            kinds[:position]
        ):
            pieces.append("*")
        stars = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
        default = ""
        if parameter.default is not parameter.empty:
            default = f"=__defaults[{len(defaults)}]"
            defaults.append(parameter.default)
        pieces.append(f"{stars}{name}{default}")
        last_positional = position + 1 == len(kinds) or kinds[position + 1] is not parameter.POSITIONAL_ONLY
        if kind is parameter.POSITIONAL_ONLY and last_positional:
            pieces.append("/")
    return ", ".join(pieces), defaults


def _compile_bind(fn: Callable[..., Any], signature: inspect.Signature) -> Callable[..., tuple[Any, ...]]:
    """A function with the same signature that returns its own arguments.

    Python then does the binding itself, many times faster than `inspect.Signature.bind`, and its
    errors are the ordinary ones.
    """
    parameters, defaults = parameters_source(fn)
    names = "".join(f"{name}, " for name in signature.parameters)
    scope: dict[str, Any] = {"__defaults": defaults}
    exec(f"def bind({parameters}):\n    return ({names})", scope)
    bind: Callable[..., tuple[Any, ...]] = scope["bind"]
    bind.__name__, bind.__qualname__, bind.__module__ = fn.__name__, fn.__qualname__, fn.__module__
    return bind


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_TAGGABLE = (str, int, float, UUID, Decimal, date, timedelta, Enum, type(None))


class TagTemplate(Struct, frozen=True):
    """A tag with parameter names in braces: `project:{project_id}`; `{{` and `}}` are plain braces."""

    source: str
    #: The parameters that occur in it, in order.
    names: tuple[str, ...] = ()
    #: The text around them, one piece more than there are names.
    literals: tuple[str, ...] = ("",)

    @classmethod
    def compile(cls, source: str, parameter_names: Iterable[str]) -> TagTemplate:
        """Read a template once; `TypeError` for an unknown name or anything beyond plain names."""
        if not isinstance(source, str) or not source:
            raise TypeError(f"a tag is a text that is not empty, not {shown(source)}")
        known = tuple(parameter_names)
        names: list[str] = []
        literals = [""]
        position = 0
        for match in _FIELD.finditer(source):
            literals[-1] += source[position : match.start()]
            position = match.end()
            token, name = match.group(), match.group(1)
            if token in ("{{", "}}"):
                literals[-1] += token[0]
            elif name is None:
                raise TypeError(f"a lone {token!r} in the tag {source!r}: write {token * 2!r} for the sign itself")
            elif not name.isidentifier():
                raise TypeError(
                    f"{token!r} in the tag {source!r}: only plain parameter names may stand in braces; "
                    "give a function of the arguments for more"
                )
            elif name not in known:
                raise TypeError(f"the tag {source!r} names {name!r}, but the function has {_listed(known)}")
            else:
                names.append(name)
                literals.append("")
        literals[-1] += source[position:]
        return cls(source, tuple(names), tuple(literals))

    def render(self, arguments: Mapping[str, Any]) -> str:
        """The tag of one call; `TypeError` where an argument has no stable plain text."""
        text = self.literals[0]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            value = arguments[name]
            if not isinstance(value, _TAGGABLE):
                raise TypeError(
                    f"{describe(value)} in the argument {name!r} makes no text for the tag {self.source!r}: "
                    "use a parameter that is text or a number, or give a function of the arguments"
                )
            try:
                text += f"{value!s}{literal}"
            except ValueError:
                if not isinstance(value, int):
                    raise
                text += f"{int(value):#x}{literal}"  # a number of more digits than Python writes
        return text
