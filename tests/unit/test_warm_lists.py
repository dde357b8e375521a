"""The lists of `warm`: what their lines become, and what is said of those that are no calls."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from evercache import Cache
from evercache.errors import ConfigurationError
from evercache.ops.warm.lists import BadLine, Reader, csv_items, json_items
from evercache.ops.warm.targets import Item, Target

if TYPE_CHECKING:
    from nowhere import Unknown


class Kind(Enum):
    SMALL = "s"
    LARGE = "l"


cache = Cache("memory://")


@cache.cached
def totals(project: int, lang: str = "en", *, rate: float = 1.0) -> int:
    return project


@cache.cached
def typed(day: dt.date, kind: Kind = Kind.SMALL, ids: tuple[int, ...] = (), price: Decimal | None = None) -> int:
    return 1


@cache.cached
def untyped(a, b=None):  # type: ignore[no-untyped-def]
    return a


@cache.cached
def odd(a: int, b: Unknown = None) -> int:
    return a


@cache.cached_many
def users(ids: list[UUID], lang: str = "en") -> dict[UUID, str]:
    return {}


def reader(function: Any) -> Reader:
    return Reader(Target(function._core, function._bound))


def read(function: Any, *lines: str) -> list[tuple[int, tuple[Any, ...], dict[str, Any]]]:
    found = list(json_items(reader(function), lines))
    assert all(isinstance(one, Item) for one in found), found
    return [(one.line, one.args, dict(one.kwargs)) for one in found if isinstance(one, Item)]


def why(function: Any, line: str) -> str:
    (bad,) = json_items(reader(function), ["", line])
    assert isinstance(bad, BadLine), bad
    assert bad.line == 2
    return bad.why


def test_lines_of_json() -> None:
    assert read(totals, "[1]", "", "# no", '[2, "de"]', '{"project": 3, "rate": 2}', "4") == [
        (1, (1,), {}),
        (4, (2, "de"), {}),
        (5, (), {"project": 3, "rate": 2}),
        (6, (4,), {}),
    ]


def test_a_number_stays_as_it_is_written() -> None:
    """`rate=2` is another key than `rate=2.0`, also where the annotation says float."""
    ((_, _, named),) = read(totals, '{"project": 1, "rate": 2}')
    assert type(named["rate"]) is int


def test_texts_and_lists_become_what_the_parameters_are_annotated_as() -> None:
    assert read(typed, '["2026-01-02", "l", [1, 2], "9.90"]') == [
        (1, (dt.date(2026, 1, 2), Kind.LARGE, (1, 2), Decimal("9.90")), {})
    ]
    assert read(typed, '["2026-01-02", "s", [], null]') == [(1, (dt.date(2026, 1, 2), Kind.SMALL, (), None), {})]
    assert read(untyped, '["2026-01-02", [1]]') == [(1, ("2026-01-02", [1]), {})]
    assert read(odd, '[1, "x"]') == [(1, (1, "x"), {})]  # an annotation that only a type checker knows


def test_one_id_stands_in_the_place_of_the_ids() -> None:
    id = "12345678-1234-5678-1234-567812345678"
    assert read(users, f'"{id}"', f'{{"ids": "{id}", "lang": "de"}}') == [
        (1, (UUID(id),), {}),
        (2, (), {"ids": UUID(id), "lang": "de"}),
    ]


@pytest.mark.parametrize(
    ("function", "line", "words"),
    [
        (totals, "[1", "it is no JSON"),
        (totals, '["x"]', "project: Expected `int`, got `str`"),
        (totals, "[]", "missing 1 required positional argument: 'project'"),
        (totals, '[1, "de", 3]', "takes from 1 to 2 positional arguments but 3 were given"),
        (totals, '{"projekt": 1}', "unexpected keyword argument 'projekt'"),
        (typed, '["2026-13-02"]', "day: "),
        (users, "[7]", "ids: Expected `uuid`"),
        (users, "[]", "missing 1 required positional argument: 'ids'"),
    ],
)
def test_a_line_that_is_no_call(function: Any, line: str, words: str) -> None:
    assert words in why(function, line)


def test_csv_is_read_by_the_annotations() -> None:
    rows = ["project,lang,rate", "1,de,2", '2,"f,r",1.5', "", "x,de,1", "3,de", "4,,1"]
    found = list(csv_items(reader(totals), rows))
    assert [(one.line, one.kwargs) for one in found if isinstance(one, Item)] == [
        (2, {"project": 1, "lang": "de", "rate": 2.0}),
        (3, {"project": 2, "lang": "f,r", "rate": 1.5}),
        (7, {"project": 4, "lang": "", "rate": 1.0}),
    ]
    assert [one for one in found if isinstance(one, BadLine)] == [
        BadLine(5, "project: Expected `int`, got `str`"),
        BadLine(6, "it has 2 cells in the place of 3"),
    ]
    (one,) = csv_items(reader(typed), ["day,price", "2026-01-02,"])
    assert isinstance(one, Item)
    assert one.kwargs == {"day": dt.date(2026, 1, 2), "price": None}


def test_the_head_of_the_csv_may_have_the_types() -> None:
    found = list(csv_items(reader(untyped), ["a:str,b:int", "007,7"]))
    assert [one.kwargs for one in found if isinstance(one, Item)] == [{"a": "007", "b": 7}]


@pytest.mark.parametrize(
    ("function", "head", "words"),
    [
        (untyped, "a", "a cell of 'a' may be text or a number"),
        (totals, "projekt", "names 'projekt', but the function has project, lang, rate"),
        (totals, "project:money", "may be text or a number"),
        (totals, "", "the CSV is empty"),
    ],
)
def test_a_head_that_cannot_be_used(function: Any, head: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        list(csv_items(reader(function), [head] if head else []))
