"""What a measurement gives: tables of figures, targets, notes. Values only; they travel as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Figure", "Kind", "Result", "Table", "Target"]

#: The floor is the least that the same work can cost here.
Kind = Literal["floor", "peer", "ours", "plain"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table; the values in the order of its columns."""

    name: str
    values: tuple[float | str | None, ...]
    kind: Kind = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Figures under one title. A column is "name, unit", or a name alone for a ratio or a count."""

    title: str
    columns: tuple[str, ...]
    figures: tuple[Figure, ...]

    def value(self, name: str, column: int = 0) -> float | None:
        """The number in a line, or None when the line is missing or holds none."""
        for figure in self.figures:
            if figure.name == name:
                found = figure.values[column]
                return found if isinstance(found, int | float) else None
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed at: `value` at most `limit`."""

    text: str
    value: float | None
    limit: float
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        """None when it could not be measured."""
        return None if self.value is None else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Result:
    """All of one measurement. `seconds`: how long it took."""

    name: str
    title: str
    tables: tuple[Table, ...]
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def as_json(self) -> dict[str, Any]:
        """For the file; `met` is written beside each target."""
        document = asdict(self)
        document["targets"] = [{**asdict(one), "met": one.met} for one in self.targets]
        return document

    @classmethod
    def of_json(cls, document: dict[str, Any]) -> Result:
        """The other way."""
        return cls(
            document["name"],
            document["title"],
            tuple(
                Table(
                    one["title"],
                    tuple(one["columns"]),
                    tuple(Figure(f["name"], tuple(f["values"]), f["kind"]) for f in one["figures"]),
                )
                for one in document["tables"]
            ),
            tuple(Target(one["text"], one["value"], one["limit"], one["unit"]) for one in document["targets"]),
            tuple(document["notes"]),
            document["seconds"],
        )
