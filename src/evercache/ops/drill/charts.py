"""The chart of a step as SVG text: reads, the slowest of them, changes, and what happened to the servers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evercache.ops.drill.document import Mark, StepReport
from evercache.ops.drill.measure import BUCKET, BUDGET, Bucket, Figures
from evercache.ops.palette import BAND, COMPUTED, ERROR, GOOD, GRID, HIT, INK, SOFT

__all__ = ["LEGEND", "chart"]

#: What the colours mean; shown once beside each chart.
LEGEND = (
    (HIT, "pages from the cache"),
    (COMPUTED, "pages computed"),
    (ERROR, "errors"),
    (GOOD, "changes acknowledged"),
    (BAND, "changes that wait for a master"),
)
_WORDS = {"fault": "fault", "promoted": "other master", "undone": "put back", "whole": "all whole"}
_COLOURS = {"fault": ERROR, "promoted": "#7c3aed", "undone": "#b45309", "whole": GOOD}
#: In points: the size of letters, the width of a label's letter, the gap between two labels, and a row of them.
_SMALL, _LABEL, _LETTER, _GAP, _ROW = 9.5, 9.5, 5.3, 9.0, 13.0
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def chart(step: StepReport, *, narrow: bool = False) -> str:
    """Of a step that has figures; `narrow` is for telephones."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figures = step.figures
    assert figures is not None
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{step.name} {narrow}"}):
        width, left, right = (4.6, 0.62, 0.12) if narrow else (10.6, 0.66, 0.12)
        begin, end = _span(figures)
        labels = _labels(step.marks, begin, end, 72 * (width - left - right))
        above = 0.45 + _ROW / 72 * len({label.row for label in labels})
        height = 0.45 + above + (4.1 if narrow else 3.7)
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        grid = figure.add_gridspec(3, 1, height_ratios=(1.25, 1.0, 0.75), hspace=0.42)
        grid.update(left=left / width, right=1 - right / width, top=1 - above / height, bottom=0.45 / height)
        reads, slowest, changes = (figure.add_subplot(grid[row, 0]) for row in range(3))
        _reads(reads, figures.series)
        _slowest(slowest, figures.series)
        more = "" if narrow else " beyond its function's own time"
        _title(slowest, f"Slowest call{more} (dashed: the budget, {1000 * BUDGET:.0f} ms)")
        _changes(changes, figures.series)
        for axes in (reads, slowest, changes):
            _frame(axes, begin, end, step.marks)
        _write(reads, labels)
        changes.set_xlabel("seconds since the fault began", color=SOFT, fontsize=_SMALL)
        for axes in (reads, slowest):
            axes.tick_params(labelbottom=False)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _inline(out.getvalue(), f"{step.title}: reads, slowest read and changes over time")


def _span(figures: Figures) -> tuple[float, float]:
    if not figures.series:
        return 0.0, 1.0
    return figures.series[0].at, figures.series[-1].at + BUCKET


def _stacked(axes: Any, series: Sequence[Bucket], colours: Sequence[tuple[str, str]]) -> None:
    """Counts per second on each other, as stairs."""
    edges = [*(bucket.at for bucket in series), series[-1].at + BUCKET] if series else []
    under = [0.0] * len(edges)
    for name, colour in colours:
        heights = [getattr(bucket, name) / BUCKET for bucket in series]
        if any(heights):
            over = [below + height for below, height in zip(under, [*heights, heights[-1]], strict=True)]
            axes.fill_between(edges, under, over, step="post", color=colour, linewidth=0, zorder=3)
            under = over
    axes.set_ylim(0, 1.13 * max([*under, 1.0]))


def _reads(axes: Any, series: Sequence[Bucket]) -> None:
    _stacked(axes, series, (("hits", HIT), ("computed", COMPUTED), ("errors", ERROR)))
    axes.locator_params(axis="y", nbins=4, integer=True)
    _title(axes, "Pages per second")


def _slowest(axes: Any, series: Sequence[Bucket]) -> None:
    times = [max(1000 * bucket.slowest, 0.0) for bucket in series]
    least, most = 0.3, max([1000.0, *(2 * time for time in times)])
    axes.set_yscale("log")
    axes.set_ylim(least, most)
    ticks = [(1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (1000, "1 s"), (10000, "10 s")]
    axes.set_yticks(*zip(*[tick for tick in ticks if tick[0] <= most], strict=True))
    axes.minorticks_off()
    colours = [ERROR if time > 1000 * BUDGET + 20 else INK for time in times]
    heights = [max(time, least) - least for time in times]
    places = [bucket.at for bucket in series]
    axes.bar(
        places, heights, BUCKET * 0.82, bottom=least, align="edge", color=colours, linewidth=0, zorder=3, alpha=0.75
    )
    axes.axhline(1000 * BUDGET, color=ERROR, linewidth=1, linestyle=(0, (4, 3)), zorder=4)


def _changes(axes: Any, series: Sequence[Bucket]) -> None:
    _stacked(axes, series, (("acknowledged", GOOD), ("queued", BAND)))
    axes.locator_params(axis="y", nbins=3, integer=True)
    _title(axes, "Changes per second")


def _title(axes: Any, text: str) -> None:
    axes.annotate(
        text,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=_SMALL,
        color=SOFT,
        annotation_clip=False,
    )


def _frame(axes: Any, begin: float, end: float, marks: Sequence[Mark]) -> None:
    axes.set_xlim(begin, end)
    axes.locator_params(axis="x", integer=True, nbins=10)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.spines["bottom"].set_linewidth(0.6)
    axes.tick_params(colors=SOFT, length=0, labelsize=_SMALL)
    moments = {mark.kind: mark.at for mark in marks}
    if "fault" in moments:
        away = moments.get("undone", moments.get("whole", end))
        axes.axvspan(
            moments["fault"], max(away, moments["fault"] + 0.1), color=BAND, alpha=0.13, linewidth=0, zorder=0
        )
    for mark in marks:
        axes.axvline(mark.at, color=_COLOURS[mark.kind], linewidth=1.1, zorder=5)


@dataclass(frozen=True, slots=True)
class _Label:
    mark: Mark
    text: str
    row: int
    at_left: bool


def _labels(marks: Sequence[Mark], begin: float, end: float, points: float) -> list[_Label]:
    """The names of the marks, in as many rows as it takes that none stands on another."""
    rows: list[float] = []
    found = []
    for mark in sorted(marks, key=lambda mark: mark.at):
        text = f"{_WORDS[mark.kind]} {mark.at:.1f} s" if mark.at >= 0.05 else _WORDS[mark.kind]
        width = _LETTER * len(text)
        place = points * (mark.at - begin) / (end - begin)
        at_left = place + width <= points
        start = place if at_left else place - width
        row = next((number for number, reached in enumerate(rows) if reached <= start), len(rows))
        if row == len(rows):
            rows.append(0.0)
        rows[row] = start + width + _GAP
        found.append(_Label(mark, text, row, at_left))
    return found


def _write(axes: Any, labels: Sequence[_Label]) -> None:
    for label in labels:
        axes.annotate(
            label.text,
            (label.mark.at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 21 + _ROW * label.row),
            textcoords="offset points",
            ha="left" if label.at_left else "right",
            fontsize=_LABEL,
            weight="bold",
            color=_COLOURS[label.mark.kind],
            annotation_clip=False,
        )


def _inline(svg: str, label: str) -> str:
    """As a part of a page: no head, no fixed size, and no name that another chart has too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', f'<svg viewBox="\\1" role="img" aria-label="{label}">', svg, count=1
    )
    svg = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", svg)
    svg = re.sub(r"'DejaVu Sans'[^\";]*", _FONTS, svg)
    return re.sub(r"\n\s*", "\n", svg).strip()
