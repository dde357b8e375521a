"""The calls of a file: a JSON value in each line, or CSV whose head names the parameters."""

from __future__ import annotations

import csv
import inspect
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from evercache.errors import ConfigurationError
from evercache.ops.warm.targets import Item, Target

__all__ = ["BadLine", "Reader", "csv_items", "json_items"]

#: What JSON gives by itself, so that a value of these types is the caller's own choice.
_OF_JSON = (int, float, str, bool, list, dict, type(None))
_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no call, and why."""

    line: int
    why: str


class Reader:
    """Makes items of a target from plain values, by the annotations of its function.

    A text becomes a date where the parameter is annotated as one, a JSON list a tuple, and so on: the key of a call
    has the types of its arguments. What has no annotation stays as it is written.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.names = list(target.core.signature.parameters)[len(target.bound) :]
        fn = target.core.fn
        parameters = inspect.signature(fn).parameters
        self._kinds = {name: parameters[name].kind for name in self.names}
        try:
            hints = typing.get_type_hints(fn)
        except Exception:  # a name that only a type checker imports
            hints = {}
        plain = [name for name in self.names if self._kinds[name] not in _STARRED]
        self.hints: Mapping[str, Any] = {name: hints[name] for name in plain if name in hints}
        if target.many:
            # Its parameter is annotated as a list of what is given here.
            position = getattr(target.core, "position", 0) - len(target.bound)
            name = self.names[position]
            inner = typing.get_args(self.hints.get(name))
            self.hints = {n: hint for n, hint in self.hints.items() if n != name}
            if len(inner) == 1:
                self.hints = {**self.hints, name: inner[0]}

    def __repr__(self) -> str:
        return f"<Reader of {self.target!r}>"

    def item(self, line: int, args: list[Any], kwargs: Mapping[str, Any]) -> Item | BadLine:
        """The call of a line, or why it is none."""
        try:
            names = self._positional(len(args))
            given = [self._typed(name, value) for name, value in zip(names, args, strict=True)]
            named = {name: self._typed(name, value) for name, value in kwargs.items()}
            item = Item(line, tuple(given), named)
            self.target.check(item)
        except (TypeError, ValueError) as error:
            return BadLine(line, str(error))
        return item

    def _positional(self, count: int) -> list[str]:
        names = [name for name in self.names if self._kinds[name] is not inspect.Parameter.KEYWORD_ONLY]
        return [*names, *[""] * count][:count]

    def _typed(self, name: str, value: Any) -> Any:
        hint = self.hints.get(name)
        if hint is None:
            return value
        try:
            made = msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name}: {error}") from error
        except TypeError:  # a type of its own that nothing plain can become
            return value
        # A number stays what it was written as: 7 for a float is what the site calls with, or it would be 7.0.
        return value if type(made) in _OF_JSON and made == value else made

    def text(self, name: str, text: str, hint: Any) -> Any:
        """The value of a cell. ValueError says what is wrong with it."""
        if text == "" and type(None) in typing.get_args(hint):
            return None
        try:
            return msgspec.convert(text, hint, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name}: {error}") from error


def json_items(reader: Reader, lines: Iterable[str]) -> Iterator[Item | BadLine]:
    """Of each line a list is the arguments by position, an object those by name, any other value the only one."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            given = json.loads(text)
        except ValueError as error:
            yield BadLine(number, f"it is no JSON ({error})")
            continue
        if isinstance(given, dict):
            yield reader.item(number, [], given)
        else:
            yield reader.item(number, given if isinstance(given, list) else [given], {})


#: What the head of a column may say after the name: project_id:int
_CELL_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}


def csv_items(reader: Reader, lines: Iterable[str]) -> Iterator[Item | BadLine]:
    """The first row names the parameters, as whose annotations the cells are read; ConfigurationError for it."""
    rows = csv.reader(lines)
    head = next(rows, None)
    if not head:
        raise ConfigurationError("the CSV is empty: its first row names the parameters")
    columns: list[tuple[str, Any]] = []
    for cell in head:
        name, colon, kind = cell.strip().partition(":")
        if name not in reader.names:
            raise ConfigurationError(
                f"the first row of the CSV names {name!r}, but the function has {', '.join(reader.names)}"
            )
        hint = _CELL_TYPES.get(kind) if colon else reader.hints.get(name)
        if hint is None:
            raise ConfigurationError(
                f"a cell of {name!r} may be text or a number: annotate the parameter, or write its type in the "
                f"head, as {name}:int ({', '.join(_CELL_TYPES)}), or give JSON"
            )
        columns.append((name, hint))
    for row in rows:
        number = rows.line_num
        if not row:
            continue
        if len(row) != len(columns):
            yield BadLine(number, f"it has {len(row)} cells in the place of {len(columns)}")
            continue
        try:
            named = {name: reader.text(name, cell, hint) for (name, hint), cell in zip(columns, row, strict=True)}
        except ValueError as error:
            yield BadLine(number, str(error))
            continue
        yield reader.item(number, [], named)
