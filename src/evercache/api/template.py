"""The code that is made for one function when it is decorated, so that a hit costs little of Python's time.

It has the function's own signature, so that Python binds the arguments; it writes the key in one f-string, and
looks once. Everything else is the long way's: arguments that are not of a plain type, keys that are too long, and
all that is not a plain hit. `f.explain_code()` shows it.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable
from types import FunctionType, NoneType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from evercache import modes
from evercache.client.serving import NOT_ASKED, Unserved
from evercache.protocol.keys import MAX_KEY_BYTES, CodedNaming
from evercache.protocol.scope import tag_hash
from evercache.protocol.signature import parameters_source

if TYPE_CHECKING:
    from evercache.api.core import FunctionCore

__all__ = ["Template", "make_template"]

#: Types whose text in a key is what `!a` writes (`canonical` in protocol/canonical.py), and that make a tag.
_EXACT = frozenset({int, str, bool, float, NoneType})

#: No name in it can be a parameter's or the function's: those that begin with two underscores have no such code.
_SOURCE = """\
{asynchronous}def {name}({parameters}):
    if {exact} and (__hits := __hot.{kind} if __modes.ordinary else __find()) is not None:
{near}        try:
            __key = {key}{tags}
        except ValueError:  # a number of more digits than Python writes
            __key = __too_long
        if __len(__key) <= {longest}:
            __value = {look}
            if __type(__value) is not __Unserved:
                return __value
            return {wait}__long(({args}), {{{kwargs}}}, __value)
    return {wait}__long(({args}), {{{kwargs}}})
"""

#: What comes before where the function keeps values in the process: the arguments with their types are a name too.
_NEAR = """\
        __arguments = (__own, {values})
        __value = __hits.near(__arguments, __counters)
        if __value is not __none:
            return __value
"""


class Template(Struct, frozen=True):
    """What was made: the source, and the function."""

    source: str
    call: Callable[..., Any]


def make_template(core: FunctionCore, find: Callable[[], Any], long: Callable[..., Any]) -> Template | None:
    """The code of one function; None for those whose keys are made in another way.

    `find` gives the hot path of the present client, or None, where not all is ordinary; `long(args, kwargs, seen)`
    is the long way.
    """
    signature, naming, fn = core.signature, core.cache.naming, core.fn
    if type(fn) is not FunctionType or fn.__dict__.keys() & {"__wrapped__", "__signature__"}:
        # What it shows is not what it takes: a wrapper may tell arguments by name from others, or have no defaults.
        return None
    code = naming.code(core.cache.settings.namespace, core.name) if isinstance(naming, CodedNaming) else None
    if code is None or signature.key is not None or core.tag_functions:
        return None
    parameters = list(inspect.signature(fn).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.name.startswith("__") for p in parameters):
        return None
    text, defaults = parameters_source(fn)
    near, wait = bool(core.plan.near), "await " if core.is_async else ""
    kept = [p.name for p in parameters if p.name not in signature.ignored]
    used = dict.fromkeys([*kept, *(name for template in core.templates for name in template.names)])
    scope: dict[str, Any] = {
        "__defaults": defaults,
        # 0.0 and -0.0 are one key of a dict.
        "__exact": _EXACT - {float} if near else _EXACT,
        **code.names,
        # Functions may share a name and its entries, but not what their arguments mean.
        "__own": object(),
        "__too_long": " " * (MAX_KEY_BYTES + 1),
        "__type": type,
        "__len": len,
        "__hot": core.cache._hot,
        "__modes": modes,
        "__find": find,
        "__plan": core.plan,
        "__counters": core.counters,
        "__none": NOT_ASKED,
        "__Unserved": Unserved,
        "__long": long,
        "__tag": tag_hash,
    }
    name = fn.__name__
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name.startswith("__"):
        name = "call"
    tags = ""
    for number, template in enumerate(core.templates):
        parts = "".join(
            f"{{__tag_{number}[{i}]}}" + (f"{{{template.names[i]}!s}}" if i < len(template.names) else "")
            for i in range(len(template.literals))
        )
        scope[f"__tag_{number}"] = template.literals
        tags += f'__tag(f"{parts}"), '
    carried = "__tags" if tags else "()"
    source = _SOURCE.format(
        asynchronous="async " if core.is_async else "",
        kind="asynchronous" if core.is_async else "sync",
        wait=wait,
        name=name,
        parameters=text,
        exact=" and ".join(f"(__type_{i} := __type({one})) in __exact" for i, one in enumerate(used)) or "True",
        key=code.source.format(",".join(f"{{{one}!a}}" for one in kept)),
        longest=MAX_KEY_BYTES,
        near=_NEAR.format(values="".join(f"{one}, __type_{i}, " for i, one in enumerate(used))) if near else "",
        tags=f"\n            __tags = {tags}" if tags else "",
        look=f"__hits.near_again(__arguments, __plan, __key, {carried})"
        if near
        else f"{wait}__hits.get(__plan, __key, {carried})",
        args="".join(f"{p.name}, " for p in parameters if p.kind is not p.KEYWORD_ONLY),
        kwargs="".join(f'"{p.name}": {p.name}, ' for p in parameters if p.kind is p.KEYWORD_ONLY),
    )
    exec(compile(source, f"<made for {core.name}>", "exec"), scope)
    call: Callable[..., Any] = scope[name]
    call.__qualname__, call.__module__ = fn.__qualname__, fn.__module__
    return Template(source, call)
