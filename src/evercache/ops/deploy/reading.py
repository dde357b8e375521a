"""From the TOML file to a `Description`. Every error names the setting and says what to write instead."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from evercache.errors import DescriptionError
from evercache.ops.deploy.description import SIZE, Description, Secret

__all__ = ["parse", "parse_file", "size", "size_text", "type_of"]

_T = TypeVar("_T")
_UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


def parse_file(path: Path) -> Description:
    """Read a file; `DescriptionError` says what is wrong with it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptionError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{path} is no TOML: {error}") from error
    return parse(values)


def parse(values: Mapping[str, Any]) -> Description:
    """Understand the content of a TOML file: names, types and forms. Whether it can work is for `sound` to say."""
    return _table(Description, values, "")


def size(text: str) -> int:
    """Bytes of a text like `2gb`."""
    return int(text[:-2]) * _UNITS[text[-2:]]


def size_text(count: int) -> str:
    """Bytes in the largest unit that they are a whole number of; rounded down to megabytes where there is none."""
    for unit in ("gb", "mb", "kb"):
        if count and count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]}{unit}"
    return f"{count >> 20}mb"


def type_of(kind: Any) -> dict[str, Any]:
    """The types of a class's settings, `X | None` as X."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) in (Union, types.UnionType):
            (hint,) = [one for one in get_args(hint) if one is not type(None)]
        found[name] = hint
    return found


def _table(kind: type[_T], values: Any, where: str) -> _T:
    if not isinstance(values, Mapping):
        raise DescriptionError(f"{where} is no table: write [{where}] and its settings below")
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise DescriptionError(f"{_join(where, name)} is not known{hint}; known are {', '.join(known)}")
    given: dict[str, Any] = {}
    for name, one in known.items():
        if name in values:
            given[name] = _value(type_of(kind)[name], values[name], one, _join(where, name))
        elif one.default is MISSING and one.default_factory is MISSING:
            raise DescriptionError(f"{_join(where, name)} is missing: {one.metadata['help']}")
    return kind(**given)


def _value(kind: Any, value: Any, one: Field[Any], where: str) -> Any:
    if get_origin(kind) is tuple:
        (inner, *_) = get_args(kind)
        if not isinstance(value, list):
            what = f"[[{where}]] tables" if is_dataclass(inner) else f"a list: {where} = [...]"
            raise DescriptionError(f"{where} is no list: write {what}")
        return tuple(_value(inner, item, one, f"{where}[{place}]") for place, item in enumerate(value, 1))
    if kind is Secret:
        return _secret(value, where)
    if is_dataclass(kind):
        return _table(kind, value, where)  # type: ignore[arg-type]
    if one.metadata.get("kind") == "size":
        if not isinstance(value, str) or re.fullmatch(SIZE, value) is None:
            raise DescriptionError(f'{where} is no size: write a number and kb, mb or gb, such as "512mb"')
        return size(value)
    if type(value) is not kind:
        raise DescriptionError(f"{where} is a {type(value).__name__}: write {_KINDS[kind]}")
    _check(value, one, where)
    return value


def _check(value: Any, one: Field[Any], where: str) -> None:
    rules = one.metadata
    if "choices" in rules and value not in rules["choices"]:
        wanted = " or ".join(rules["choices"])
        why = ""
        if where == "persistence.mode" and value in {"none", "off", "no"}:
            why = "; without it a master that is restarted at once comes back empty and wipes its replicas"
        raise DescriptionError(f"{where} is {value!r}: write {wanted}{why}")
    if "pattern" in rules and re.fullmatch(rules["pattern"], value) is None:
        raise DescriptionError(f"{where} is {value!r}, which is no {_words(rules['pattern'])}: {rules['help']}")
    if "least" in rules and not rules["least"] <= value <= rules["most"]:
        raise DescriptionError(f"{where} is {value}: write a number from {rules['least']} to {rules['most']}")


def _words(pattern: str) -> str:
    if pattern.strip("()?").startswith("/"):
        return "absolute path of plain characters"
    return f"text of the form {pattern}" if len(pattern) < 60 else "name of this kind"


def _secret(value: Any, where: str) -> Secret:
    # The value is not repeated: it may be the password itself.
    if isinstance(value, str):
        kind, colon, place = value.partition(":")
        if colon and kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", place):
            return Secret("env", place)
        if colon and kind == "file" and place and "\n" not in place and "\0" not in place:
            return Secret("file", place)
    raise DescriptionError(
        f'{where} is no reference: write "file:PATH" or "env:NAME"; a password itself does not belong in this file'
    )


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
