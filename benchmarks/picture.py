"""The picture of the README: bars for the hits, ours in colour. `python -m benchmarks.picture` draws it again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, Result, Table

__all__ = ["PANELS", "draw", "make"]

INK, SOFT = "#17212b", "#64748b"
OURS, VALUE, LESS, FLOOR = "#2563eb", "#94a3b8", "#d3dbe6", "#eef2f7"
LEGEND = (
    (OURS, "evercache"),
    (VALUE, "gives the caller a value of its own"),
    (LESS, "gives less: bytes, or an object that all share"),
    (FLOOR, "the least that is possible here"),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One group of bars: which table of which result, and what stands above it."""

    result: str
    table: str
    title: str
    hint: str
    #: Names as they are written at the bars; a peer that is not named here keeps its own, one with "" is left out.
    names: dict[str, str]


_SERVER = {
    "redis-py get": "redis-py",
    "valkey-py get": "valkey-py",
    "redis.asyncio get": "redis.asyncio",
    "valkey-glide get": "valkey-glide",
    "coredis get": "coredis",
    "Django cache.get": "Django",
    "Flask-Caching memoize": "Flask-Caching",
    "evercache for Flask memoize": "evercache, Flask",
    "evercache for PyBossa": "evercache, PyBossa",
}
_LESS = {"redis-py", "valkey-py", "redis.asyncio", "valkey-glide", "coredis", "theine"}
_SAME = "server on the same core"
PANELS = (
    Panel("hit", _SAME, "One thread", "a cached call that is answered by the server", _SERVER),
    Panel("threads", _SAME, "Eight threads", "time that passes for one call", _SERVER),
    Panel("tasks", f"64 tasks, asyncio, {_SAME}", "Sixty-four tasks", "one event loop, time for one call", _SERVER),
    Panel(
        "near",
        "200 bytes, flat",
        "Inside the process",
        "near=…, answered without a server",
        {
            "evercache (own copy)": "evercache",
            "cachebox (shallow copy)": "cachebox, shallow copy",
            "cachebox (deep copy)": "cachebox, deep copy",
            "theine (shares)": "theine",
            "lru_cache (shares)": "lru_cache",
        },
    ),
)


def draw(document: dict[str, Any], path: Path) -> bool:
    """Draw what `benchmarks/results.json` holds; False when a measurement that it needs is missing."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        canvas = make(document)
        if canvas is None:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # The same figures give the same file: no date in it.
        canvas.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    return True


def make(document: dict[str, Any]) -> Any:
    """The figure, with room for each label; None when a measurement is missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    results = {one["name"]: Result.of_json(one) for one in document["results"]}
    tables = [(panel, _table(results.get(panel.result), panel.table)) for panel in PANELS]
    if any(table is None for _, table in tables):
        return None
    longest = [max(len(table.figures) for _, table in tables[row : row + 2] if table) for row in (0, 2)]
    height = 3.0 + 0.32 * sum(longest)
    canvas = Canvas(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(canvas)
    grid = canvas.add_gridspec(2, 2, height_ratios=longest, hspace=0.4)
    grid.update(top=1 - 1.75 / height, bottom=0.5 / height)
    axes = [canvas.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1)]
    for index, (panel, table) in enumerate(tables):
        assert table is not None
        _bars(axes[index], panel, table.figures, longest[index // 2])
    _frame(canvas, height, document["machine"])
    # A column is as far from the left as its longest label needs, whatever the names are.
    left, right = (max(map(_label_width, axes[column::2])) for column in (0, 1))
    bars = (_WIDTH - left - right - 2 * _MARGIN - 2 * _VALUES) / 2
    for index, one in enumerate(axes):
        box = one.get_position()
        start = _MARGIN + left + (index % 2) * (bars + _VALUES + right)
        one.set_position((start / _WIDTH, box.y0, bars / _WIDTH, box.height))
    return canvas


def _label_width(axes: Any) -> float:
    """The inches that the names left of the bars take."""
    dpi = axes.figure.dpi
    edge = axes.transData.transform((0, 0))[0]
    names = [text for text in axes.texts if text.get_ha() == "right"]
    return float(max(edge - text.get_window_extent().x0 for text in names) / dpi)


#: Of the picture, around it, and for the values right of the bars (inches).
_WIDTH, _MARGIN, _VALUES = 12.0, 0.36, 0.9
_STYLE = {"font.family": "DejaVu Sans", "svg.hashsalt": "evercache", "svg.fonttype": "path"}


def _table(result: Result | None, title: str) -> Table | None:
    tables = result.tables if result else ()
    # On a machine of one core, or where nothing can be pinned, there is one table only.
    return next((one for one in tables if one.title == title), tables[0] if len(tables) == 1 else None)


def _bars(axes: Any, panel: Panel, figures: Sequence[Figure], rows: int) -> None:
    """Bars from the top, as thick as those of the panel beside."""
    times = [float(one.values[0] or 0.0) for one in figures]
    names = [panel.names.get(one.name, one.name) for one in figures]
    axes.set_xlim(0, max(times))
    axes.set_ylim(rows - 0.45, -0.55)
    colours = [
        {"ours": OURS, "floor": FLOOR}.get(one.kind, LESS if name in _LESS else VALUE)
        for one, name in zip(figures, names, strict=True)
    ]
    edges = [SOFT if one.kind == "floor" else colour for one, colour in zip(figures, colours, strict=True)]
    axes.barh(range(len(times)), times, height=0.64, color=colours, edgecolor=edges, linewidth=0.6)
    for row, (one, name, time) in enumerate(zip(figures, names, times, strict=True)):
        ours = one.kind == "ours"
        style = {
            "color": OURS if ours else SOFT if one.kind == "floor" else INK,
            "weight": "bold" if ours else "normal",
            "textcoords": "offset points",
            "va": "center",
            "size": 10.5,
        }
        axes.annotate(name, (0, row), xytext=(-8, 0), ha="right", annotation_clip=False, **style)
        text = f"{time:.1f} µs" if time >= 1 else f"{time:.2f} µs"
        axes.annotate(text, (time, row), xytext=(6, 0), **style)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.plot([0, 0], [-0.5, len(times) - 0.5], color=SOFT, linewidth=0.9, clip_on=False)
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(panel.title, (0, 1), xytext=(0, 20), size=13, weight="bold", color=INK, **above)
    axes.annotate(panel.hint, (0, 1), xytext=(0, 6), size=9.5, color=SOFT, **above)


def _frame(canvas: Any, height: float, machine: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    def write(text: str, down: float, size: float, **style: Any) -> None:
        canvas.text(0.03, 1 - down / height, text, size=size, va="center", **style)

    write("What a cached call costs", 0.36, 20, weight="bold", color=INK)
    write("time for one hit, a dict of 200 bytes; shorter is better", 0.7, 12, color=SOFT)
    patches = [Patch(facecolor=c, edgecolor=SOFT if c == FLOOR else c, linewidth=0.6, label=t) for c, t in LEGEND]
    canvas.legend(
        handles=patches,
        loc="center right",
        bbox_to_anchor=(0.985, 1 - 0.6 / height),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=0.9,
    )
    facts = (
        f"client and server on one core; lower quartiles of blocks that alternate; Python {machine['Python']}; "
        "the figures: make bench"
    )
    write(facts, height - 0.22, 8.5, color=SOFT)


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=root / "benchmarks" / "results.json")
    parser.add_argument("picture", type=Path, nargs="?", default=root / "docs" / "benchmarks.svg")
    options = parser.parse_args(arguments)
    if not draw(json.loads(options.results.read_text()), options.picture):
        parser.error(f"{options.results} lacks a measurement that the picture needs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
