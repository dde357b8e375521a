"""The picture of the demo: pages as dots, errors in red, what happened to the servers as bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evercache.ops.demo.events import Event
from evercache.ops.demo.judge import Verdict
from evercache.ops.demo.load import Sample
from evercache.ops.palette import BAND, COMPUTED, ERROR, GOOD, GRID, HIT, INK, SOFT

__all__ = ["TITLES", "Panel", "draw"]

TITLES = {"evercache": "evercache", "2013": "the 2013 design", "none": "no cache"}

#: Names of what stands beside the event that it ends.
_SHORT = {"replica thawed": "thawed", "old master back": "it is back"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One run: who, what its clients saw, what happened, and the verdict."""

    variant: str
    begun: float
    samples: Sequence[Sample]
    events: Sequence[Event]
    verdict: Verdict


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw the runs below each other and save them as a PNG (about 1700 x 1200 pixels)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 2.1 + 3.0 * len(panels)
    figure = Figure(figsize=(14, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(panels), 2, width_ratios=(4.1, 1), wspace=0.03, hspace=0.5)
    grid.update(left=0.06, right=0.985, top=1 - 1.75 / height, bottom=0.65 / height)
    _heading(figure, height)
    last = max((s.start + s.seconds - p.begun for p in panels for s in p.samples), default=1.0)
    for row, panel in enumerate(panels):
        axes = figure.add_subplot(grid[row, 0])
        _timeline(axes, panel, last, bottom=row == len(panels) - 1)
        _card(figure.add_subplot(grid[row, 1]), panel.verdict)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _timeline(axes: Any, panel: Panel, last: float, *, bottom: bool) -> None:
    axes.set_yscale("log")
    axes.set_xlim(0, last)
    axes.set_ylim(0.0008, 30)
    axes.set_yticks([0.001, 0.01, 0.1, 1, 10], ["1 ms", "10 ms", "0.1 s", "1 s", "10 s"])
    axes.minorticks_off()
    axes.grid(True, axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=SOFT, length=0, labelsize=10)
    reads = [sample for sample in panel.samples if not sample.edit]
    for wanted, color, size in ((False, COMPUTED, 9), (True, HIT, 9)):
        dots = [sample for sample in reads if not sample.failed and sample.hit is wanted]
        _scatter(axes, panel, dots, color, "o", size)
    errors = [sample for sample in panel.samples if sample.failed]
    for begin, end in _spans([(sample.start - panel.begun, sample.seconds) for sample in errors]):
        axes.axvspan(begin, end, color=ERROR, alpha=0.12, linewidth=0)
    _scatter(axes, panel, errors, ERROR, "x", 26)
    _bands(axes, panel, last)
    title = TITLES.get(panel.variant, panel.variant)
    axes.set_title(title, loc="left", fontsize=16, weight="bold", color=INK, pad=24, x=-0.002)
    end = max((sample.start - panel.begun for sample in panel.samples), default=0.0)
    if end < 0.7 * last:
        axes.text(
            end + 0.6,
            0.1,
            "nothing happens here, so it was measured for less long",
            fontsize=10.5,
            color=SOFT,
        )
    if bottom:
        axes.set_xlabel("seconds", color=SOFT, fontsize=10)


def _spans(times: Sequence[tuple[float, float]], least: float = 0.3) -> list[tuple[float, float]]:
    """Beginnings and lengths as intervals that do not overlap, each at least so long."""
    merged: list[tuple[float, float]] = []
    for begin, length in sorted(times):
        end = begin + max(length, least)
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _scatter(axes: Any, panel: Panel, samples: Sequence[Sample], color: str, marker: str, size: int) -> None:
    times = [sample.start - panel.begun for sample in samples]
    extra = {"linewidths": 1.4} if marker == "x" else {"linewidths": 0, "alpha": 0.7}
    lengths = [max(sample.seconds, 0.001) for sample in samples]
    axes.scatter(times, lengths, s=size, c=color, marker=marker, zorder=4 if marker == "x" else 3, **extra)


def _bands(axes: Any, panel: Panel, last: float) -> None:
    """What happened: a line where it began, its name above, and a band for as long as a node was away."""
    ends = {"replica frozen": "replica thawed", "master killed": "old master back"}
    starts = {event.label: event.start - panel.begun for event in panel.events}
    for event in panel.events:
        begin = event.start - panel.begun
        finish = starts.get(ends.get(event.label, ""), event.end - panel.begun)
        axes.axvspan(begin, max(finish, begin + 0.05), color=BAND, alpha=0.13, linewidth=0, zorder=0)
        axes.axvline(begin, color=BAND, linewidth=1.3, zorder=1)
        axes.annotate(
            _SHORT.get(event.label, event.label),
            (begin, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 5),
            textcoords="offset points",
            fontsize=9.5,
            color="#92600a",
        )


def _card(axes: Any, verdict: Verdict) -> None:
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    color = GOOD if verdict.errors == 0 else ERROR
    word = "error" if verdict.errors == 1 else "errors"
    axes.text(0.08, 0.84, f"{verdict.errors:,}", fontsize=40, weight="bold", color=color, va="center")
    axes.text(0.08, 0.60, word, fontsize=14, color=color, va="center")
    served = f"{verdict.requests - verdict.errors:,}"
    lines = [
        ("served", f"{served} requests"),
        ("page p50", _time(verdict.latency_p50)),
        ("page p99", _time(verdict.latency_p99)),
        ("from cache", f"{100 * verdict.hit_ratio:.0f} %"),
        ("stale reads", f"{verdict.stale_reads:,}"),
    ]
    for number, (name, value) in enumerate(lines):
        height = 0.43 - 0.107 * number
        axes.text(0.08, height, name, fontsize=11, color=SOFT, va="center")
        axes.text(0.98, height, value, fontsize=11.5, weight="bold", color=INK, va="center", ha="right")


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _heading(figure: Any, height: float) -> None:
    from matplotlib.lines import Line2D

    title = "The cache servers die. Who notices?"
    text = "Each dot is a page that a reader waited for, each cross an error. The same site, data and load."
    figure.text(0.06, 1 - 0.42 / height, title, fontsize=23, weight="bold", color=INK, va="center")
    figure.text(0.06, 1 - 0.84 / height, text, fontsize=12.5, color=SOFT, va="center")

    def mark(marker: str, color: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="", color=color, markersize=6, mew=1.6, label=label)

    handles = [
        mark("o", HIT, "page from the cache"),
        mark("o", COMPUTED, "page computed"),
        mark("x", ERROR, "error"),
    ]
    place = (0.99, 1 - 0.2 / height)
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=place, ncol=3, frameon=False, fontsize=11)
