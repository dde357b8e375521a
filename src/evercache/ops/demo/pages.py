"""The pages of the site: what they are about, and the expensive queries behind them."""

from __future__ import annotations

import os
import queue
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from evercache.process import new_lock

__all__ = ["KINDS", "MONTHS", "Database", "Edited", "Page", "pages_of_tag"]

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
KINDS = ("front", "leaderboard", "carrier", "route", "month")
#: The tag of the pages that sum up all flights.
NETWORK = "network"

_FIGURES = (
    "count(*), count(arr_delay), avg(dep_delay), avg(arr_delay), 100.0 * sum(arr_delay > 15) / count(arr_delay)"
)
#: Connections to the database in each process: as in a real site, the database is what must be spared.
_POOL = 2


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the site: its kind and what it is about (`UA`, `EWR-IAH`, `7`, or nothing)."""

    kind: str
    about: str = ""

    @property
    def name(self) -> str:
        """`carrier:UA`, `front`: one name for reports and cache keys."""
        return f"{self.kind}:{self.about}" if self.about else self.kind

    @property
    def tag(self) -> str:
        """What an edit invalidates to reach this page."""
        return self.name if self.about else NETWORK

    @property
    def path(self) -> str:
        """Where the site shows it."""
        return "/" if self.kind == "front" else "/" + self.name.replace(":", "/")

    @classmethod
    def of_name(cls, name: str) -> Page:
        """The page of a `name`."""
        kind, _, about = name.partition(":")
        return cls(kind, about)


def pages_of_tag(tag: str) -> tuple[Page, ...]:
    """The pages with this tag (for a cache that knows keys only)."""
    return (Page("front"), Page("leaderboard")) if tag == NETWORK else (Page.of_name(tag),)


@dataclass(frozen=True, slots=True)
class Edited:
    """A committed edit: its place in the order of all edits, and the tags of the pages that it touches."""

    seq: int
    tags: tuple[str, ...]


class Database:
    """The flights. Safe for threads: connections are handed out by a queue, edits by `_writing` (a lock)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        for _ in range(_POOL):
            self._readers.put(self._connect())
        self._writer = self._connect()
        self._writing = new_lock()
        self._numbers = count()

    def __repr__(self) -> str:
        return f"<Database {self._path.name}: {self._readers.qsize()} of {_POOL} connections free>"

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=15, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    def close(self) -> None:
        """Close the connections that are not in use."""
        while not self._readers.empty():
            self._readers.get_nowait().close()
        self._writer.close()

    @contextmanager
    def _snapshot(self) -> Iterator[_Counting]:
        connection = self._readers.get()
        try:
            connection.execute("BEGIN")
            try:
                yield _Counting(connection)
            finally:
                connection.execute("COMMIT")
        finally:
            self._readers.put(connection)

    def edit(self, flight: int, dep_delay: int, arr_delay: int) -> Edited | None:
        """Change the delays (minutes) of a flight and commit; None if there is no such flight."""
        with self._writing:
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            try:
                row = db.execute(
                    "UPDATE flights SET dep_delay = ?, arr_delay = ? WHERE id = ? "
                    "RETURNING carrier, origin, dest, month",
                    (dep_delay, arr_delay, flight),
                ).fetchone()
                seq = 0
                if row is not None:
                    seq = db.execute("INSERT INTO edits (flight) VALUES (?)", (flight,)).lastrowid or 0
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        if row is None:
            return None
        carrier, origin, dest, month = row
        return Edited(seq, (f"carrier:{carrier}", f"route:{origin}-{dest}", f"month:{month}", NETWORK))

    def flight(self, flight: int) -> dict[str, Any] | None:
        """One flight, for the form that edits it (never cached)."""
        with self._snapshot() as db:
            rows = db(
                "SELECT id, month, day, carrier, flight, origin, dest, dep_delay, arr_delay "
                "FROM flights WHERE id = ?",
                flight,
            )
        names = ("id", "month", "day", "carrier", "number", "origin", "dest", "dep_delay", "arr_delay")
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def exists(self, page: Page) -> bool:
        """Whether a page of this name can be shown; cheap."""
        if page.kind == "month":
            return page.about in {str(month) for month in range(1, 13)}
        if page.kind == "carrier":
            with self._snapshot() as db:
                return bool(db("SELECT 1 FROM airlines WHERE carrier = ?", page.about))
        if page.kind == "route":
            origin, _, dest = page.about.partition("-")
            return origin in ("EWR", "JFK", "LGA") and len(dest) == 3 and dest.isalpha() and dest.isupper()
        return page.kind in KINDS and not page.about

    def routes(self) -> list[str]:
        """Every route, the busiest first."""
        with self._snapshot() as db:
            rows = db("SELECT origin || '-' || dest, count(*) FROM flights GROUP BY 1 ORDER BY 2 DESC, 1")
        return [row[0] for row in rows]

    def carriers(self) -> list[str]:
        """Every carrier, the busiest first."""
        with self._snapshot() as db:
            return [r[0] for r in db("SELECT carrier, count(*) FROM flights GROUP BY 1 ORDER BY 2 DESC")]

    def compute(self, page: Page) -> dict[str, Any]:
        """Compute a page from the whole table (tens to hundreds of milliseconds).

        `as_of` is the newest edit that it shows, read in the same transaction; `made` names this very
        computation; `queries` is what it asked of the database.
        """
        with self._snapshot() as db:
            as_of = db("SELECT coalesce(max(seq), 0) FROM edits")[0][0]
            value = _BUILDERS[page.kind](db, page.about)
            made = f"{os.getpid()}.{next(self._numbers)}.{time.monotonic_ns()}"
            return {**value, "as_of": as_of, "made": made, "queries": db.queries}


class _Counting:
    """A connection that counts its queries; used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.queries = 0

    def __call__(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        self.queries += 1
        return self._connection.execute(sql, parameters).fetchall()


def _row(label: str, path: str, figures: tuple[Any, ...]) -> dict[str, Any]:
    flights, arrived, dep, arr, late = figures
    row = {"label": label, "path": path, "flights": flights, "arrived": arrived}
    return {**row, "dep": dep, "arr": arr, "late": late}


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The three figures on top of a page, from its rows."""
    flights = sum(row["flights"] for row in rows)
    known = [row for row in rows if row["arr"] is not None]
    weight = sum(row["arrived"] for row in known) or 1
    mean = sum(row["arr"] * row["arrived"] for row in known) / weight
    late = sum(row["late"] * row["arrived"] for row in known) / weight
    return [
        {"label": "flights", "value": f"{flights:,}"},
        {"label": "mean delay at arrival", "value": f"{mean:+.1f} min"},
        {"label": "more than 15 min late", "value": f"{late:.0f} %"},
    ]


def _front(db: _Counting, about: str) -> dict[str, Any]:
    airlines = db("SELECT carrier, name FROM airlines ORDER BY name")
    rows = db(f"SELECT month, {_FIGURES} FROM flights GROUP BY month")
    table = [_row(MONTHS[row[0] - 1], Page("month", str(row[0])).path, row[1:]) for row in rows]
    links = [{"label": name, "path": Page("carrier", carrier).path} for carrier, name in airlines]
    title = "Flights from New York City, 2013"
    return {"title": title, "figures": _summary(table), "caption": "by month", "rows": table, "links": links}


def _leaderboard(db: _Counting, about: str) -> dict[str, Any]:
    names = dict(db("SELECT carrier, name FROM airlines"))
    rows = db(f"SELECT carrier, {_FIGURES} FROM flights GROUP BY carrier ORDER BY avg(arr_delay)")
    table = [_row(names[row[0]], Page("carrier", row[0]).path, row[1:]) for row in rows]
    title = "The most punctual carriers"
    return {"title": title, "figures": _summary(table), "caption": "by carrier", "rows": table, "links": []}


def _carrier(db: _Counting, about: str) -> dict[str, Any]:
    name = db("SELECT name FROM airlines WHERE carrier = ?", about)[0][0]
    rows = db(f"SELECT month, {_FIGURES} FROM flights WHERE carrier = ? GROUP BY month", about)
    table = [_row(MONTHS[row[0] - 1], Page("month", str(row[0])).path, row[1:]) for row in rows]
    return {"title": name, "figures": _summary(table), "caption": "by month", "rows": table, "links": []}


def _route(db: _Counting, about: str) -> dict[str, Any]:
    origin, _, dest = about.partition("-")
    airports = dict(db("SELECT faa, name FROM airports WHERE faa IN (?, ?)", origin, dest))
    rows = db(
        f"SELECT carrier, {_FIGURES} FROM flights WHERE origin = ? AND dest = ? GROUP BY carrier",
        origin,
        dest,
    )
    table = [_row(row[0], Page("carrier", row[0]).path, row[1:]) for row in rows]
    title = f"{airports.get(origin, origin)} to {airports.get(dest, dest)}"
    return {"title": title, "figures": _summary(table), "caption": "by carrier", "rows": table, "links": []}


def _month(db: _Counting, about: str) -> dict[str, Any]:
    rows = db(f"SELECT day, {_FIGURES} FROM flights WHERE month = ? GROUP BY day", int(about))
    table = [_row(str(row[0]), "", row[1:]) for row in rows]
    title = f"{MONTHS[int(about) - 1]} 2013"
    return {"title": title, "figures": _summary(table), "caption": "by day", "rows": table, "links": []}


_BUILDERS: dict[str, Callable[[_Counting, str], dict[str, Any]]] = {
    "front": _front,
    "leaderboard": _leaderboard,
    "carrier": _carrier,
    "route": _route,
    "month": _month,
}
