"""What makes a function itself, besides its module and name: its free variables, and the code of a lambda.

All closures of one `def` have the same module and qualified name; they differ in their free variables. Free
variables that can be written down (plain data, functions, classes, modules) go into a text that is equal in all
processes. The others (an application, a session) are *opaque*: they are no part of the text, and can only be
compared inside one process.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from hashlib import blake2b
from inspect import getattr_static
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from msgspec import Struct, field

from evercache.protocol.canonical import canonical, import_name, local_mark, type_name

__all__ = ["Identity", "identity", "location"]

#: Functions, classes and containers that are looked into; what lies behind more of them is opaque.
_MOST = 100


class Identity(Struct):
    """What was found. The paths say where, from free variable to free variable: `fn.session`.

    It refers to the opaque values strongly: keep it for a moment only.
    """

    #: Equal for the same function in all processes; "" where module and name say everything.
    text: str = ""
    #: Code objects are among them: functions of one name may have different code.
    opaque: dict[str, object] = field(default_factory=dict)
    #: Plain data, as text.
    plain: dict[str, str] = field(default_factory=dict)
    #: Free variables that have no value yet. A recursive function finds itself in one later.
    empty: set[str] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """16 hex digits (BLAKE2b, RFC 7693) of the text, or "" without one."""
        return _digest(self.text) if self.text else ""

    def differs(self, later: Identity) -> str:
        """The path of something in which two functions differ; "" where nothing is found.

        `later` was decorated after this one, and is looked at right then.
        """
        for path, value in self.opaque.items():
            other = later.opaque.get(path, value)
            if other is not value and not (type(value) is CodeType and value == other):
                return path
        for path, text in self.plain.items():
            if path in later.empty or (self.text != later.text and later.plain.get(path, text) != text):
                return path
        return ""


def identity(fn: Callable[..., Any]) -> Identity:
    """Look at a function, as it is now. Raises nothing: what cannot be read is opaque."""
    walk = _Walk()
    walk.found.text = walk.root(fn)
    return walk.found


def location(fn: Callable[..., Any]) -> str:
    """Where a function was written: `file:line`, or "?" for those that are not written in Python."""
    code = getattr(fn, "__code__", None)
    if code is None:
        code = getattr(getattr(fn, "__wrapped__", getattr(fn, "func", None)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if isinstance(code, CodeType) else "?"


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _name(value: Any) -> str:
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    return f"{import_name(str(module))}.{qualname}"


def _code_text(code: CodeType) -> str:
    """What the code does, without where it stands. Another minor version of Python may write it differently."""
    constants = []
    for value in code.co_consts:
        try:
            constants.append(_code_text(value) if isinstance(value, CodeType) else canonical(value))
        except TypeError:
            constants.append(repr(value))  # an ellipsis or a slice
    return f"code{{{canonical((code.co_code, code.co_names, code.co_freevars))},{','.join(constants)}}}"


class _Walk:
    """One look at one function."""

    def __init__(self) -> None:
        self.found = Identity()
        self._left = _MOST
        #: By id; alive as long as the function is.
        self._seen: dict[int, int] = {}

    def root(self, fn: Any, path: str = "") -> str:
        """The text of a function beyond its module and name; "" where there is none."""
        kind = type(fn)
        self._seen[id(fn)] = len(self._seen)
        self._left -= 1
        if self._left < 0:
            return self._hidden(fn, path)
        if kind is FunctionType:
            return self._inside(fn, path)
        if kind is MethodType:
            return self._bound(fn.__self__, _name(fn), path) + self._same(fn.__func__, _name(fn), path)
        if kind is BuiltinFunctionType:
            return self._bound(fn.__self__, _name(fn), path)
        if issubclass(kind, functools.partial):
            return self._partial(fn, _name(fn), path)
        wrapped = _wrapped(fn)
        return "" if wrapped is None else self._same(wrapped, _name(fn), path)

    def _inside(self, fn: FunctionType, path: str) -> str:
        """The free variables of a function written in Python, and the code of a lambda, which has no name."""
        code, parts = fn.__code__, []
        if fn.__qualname__.endswith("<lambda>"):
            parts.append(_digest(_code_text(code)))
        if "<" in fn.__qualname__:
            self.found.opaque[f"{path}.__code__"] = code
        for name, cell in sorted(
            zip(code.co_freevars, fn.__closure__ or (), strict=True), key=lambda pair: pair[0]
        ):
            if name == "__class__":  # the class in which a method is written: its name is in the method's
                continue
            within = f"{path}.{name}" if path else name
            try:
                value = cell.cell_contents
            except ValueError:
                self.found.empty.add(within)
                continue
            text = self._same(value, _name(fn), within)
            if text:
                parts.append(f"{name}={text}")
        return ",".join(parts)

    def _same(self, value: Any, name: str, path: str) -> str:
        """As `_value`; a function with the name of the one around it (`functools.wraps`) adds its inside only."""
        wrapped = value if type(value) is FunctionType else _wrapped(value)
        if wrapped is not None and _name(wrapped) == name:
            return "" if id(wrapped) in self._seen else self.root(wrapped, path)
        return self._value(value, path)

    def _value(self, value: Any, path: str) -> str:
        """The text of the value of a free variable; "" for an opaque one."""
        kind = type(value)  # not isinstance(): a proxy of something that is not there raises
        wrapped = value if kind is FunctionType else _wrapped(value)
        for one in (value, wrapped):
            if id(one) in self._seen:
                return f"seen{{{self._seen[id(one)]}}}"
        self._left -= 1
        if self._left < 0:
            return self._hidden(value, path)
        if issubclass(kind, ModuleType):
            return f"module{{{value.__name__!a}}}"
        if wrapped is not None:
            self._seen[id(value)] = len(self._seen)
            inside = self.root(wrapped, path)
            return f"function{{{_name(wrapped)!a}{',' if inside else ''}{inside}}}"
        if kind is MethodType:
            owner = self._value(value.__self__, f"{path}.__self__")
            return f"method{{{self._value(value.__func__, path)},{owner}}}"
        if issubclass(kind, functools.partial):
            return f"partial{{{self._partial(value, '', path)}}}"
        try:
            text = canonical(value)
        except Exception:
            if kind in (tuple, list, dict):
                return self._container(value, path)
            if issubclass(kind, type):
                return self._local_class(value, path)
            return self._hidden(value, path)
        self.found.plain[path] = text
        return text

    def _hidden(self, value: object, path: str) -> str:
        self.found.opaque[path] = value
        return ""

    def _container(self, value: Any, path: str) -> str:
        """Of one that holds more than plain data."""
        self._seen[id(value)] = len(self._seen)
        try:
            pairs = value.items() if type(value) is dict else enumerate(value)
            items = sorted([(canonical(key), item) for key, item in pairs], key=lambda pair: pair[0])
        except Exception:
            return self._hidden(value, path)
        texts = [f"{key}:{self._value(item, f'{path}[{key}]')}" for key, item in items]
        return f"{type(value).__name__}{{{','.join(texts)}}}"

    def _local_class(self, value: type, path: str) -> str:
        """Of a class that cannot be imported: a function made it, perhaps from its own free variables."""
        self._seen[id(value)] = len(self._seen)
        parts = [ascii(type_name(value))]
        mark = local_mark(value)
        if mark:
            self.found.plain[path] = mark
        opaque = dict(self.found.opaque)
        for name, item in sorted(vars(value).items()):
            if not name.startswith("_"):
                item = item.__func__ if type(item) in (staticmethod, classmethod) else item
                parts.append(f"{name}={self._value(item, f'{path}.{name}')}")
        self.found.opaque = opaque  # descriptors and the like: those of two equal classes are not the same
        return f"class{{{','.join(parts)}}}"

    def _partial(self, value: functools.partial[Any], name: str, path: str) -> str:
        texts = [
            self._same(value.func, name, path),
            self._container(value.args, f"{path}.args"),
            self._container(value.keywords, f"{path}.keywords"),
        ]
        return ",".join(texts)

    def _bound(self, owner: Any, name: str, path: str) -> str:
        """What a method is bound to. The class or module that its name says already adds nothing."""
        kind = type(owner)
        if issubclass(kind, ModuleType) or owner is None:
            return ""
        if issubclass(kind, type) and type_name(owner) == name.rpartition(".")[0] and _importable(owner):
            return ""
        text = self._value(owner, f"{path}.__self__" if path else "__self__")
        return f"self={text}," if text else ""


def _wrapped(value: Any) -> FunctionType | None:
    """The function that an object stands for, by `functools.update_wrapper`; its own `__getattr__` is not asked."""
    if issubclass(type(value), (type, functools.partial)):
        return None
    try:
        wrapped = getattr_static(value, "__wrapped__", None)
    except Exception:
        return None
    return wrapped if type(wrapped) is FunctionType else None


def _importable(kind: type) -> bool:
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind
