"""The report: sections of docs/faults.md that the command rewrites, and the same figures as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tests.faults.catalog import CATALOG
from tests.faults.judge import Figures
from tests.faults.repeated import Soaked

__all__ = ["PAGE", "merge", "write_section"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
#: The newest figures of each cell, beside the other reports of a run.
STORE = ROOT / "build" / "faults.json"

HEAD = (
    "| fault | load | over own | stalest | lost | errors, hung | reads, hits | pause | noise | promoted, ack |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def merge(figures: Iterable[Figures]) -> list[Figures]:
    """Put new cells over those of earlier runs; all of them, in the order of the list of faults.

    Cells of a run that had other figures than today's are left out.
    """
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    if STORE.exists():
        names = {field.name for field in fields(Figures)}
        earlier = (one for one in json.loads(STORE.read_text()) if one.keys() == names)
        cells = {(one["fault"], one["load"]): one for one in earlier}
    cells |= {(one.fault, one.load): one.as_dict() for one in figures}
    order = {name: index for index, name in enumerate(CATALOG)}
    kept = sorted((key for key in cells if key[0] in order), key=lambda key: (order[key[0]], _rank(key[1])))
    STORE.parent.mkdir(exist_ok=True)
    STORE.write_text(json.dumps([cells[key] for key in kept], indent=1))
    return [Figures(**cells[key]) for key in kept]


def _rank(load: str) -> int:
    return ("threads", "tasks", "prefork").index(load)


def table(figures: Sequence[Figures]) -> str:
    """One row for each cell."""
    rows = []
    for one in figures:
        promoted = "" if one.promoted is None else _ms(one.promoted)
        stale = _ms(one.stale)
        if one.stale_cut_off:
            stale += f" (cut off: {_ms(one.stale_cut_off)})"
        if one.stale_last > 0.1:
            stale += f" (last moments: {_ms(one.stale_last)})"
        mark = "" if one.kept else " **broken**"
        rows.append(
            f"| {one.fault}{mark} | {one.load} | {_ms(one.beyond)} | {stale} | {one.lost} "
            f"| {one.exceptions}, {one.hung} | {one.reads_in_fault}, {one.hits_in_fault:.0%} "
            f"| {_ms(one.pause)} | {_ms(one.noise)} | {promoted} |"
        )
    return HEAD + "\n".join(rows) + "\n"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def explanations() -> str:
    """What each fault does, and what is promised differently there."""
    rows = ["| fault | what happens | bounds that differ |", "|---|---|---|"]
    rows += [f"| {one.name} | {one.what} | {one.bounds.why} |" for one in CATALOG.values()]
    return "\n".join(rows) + "\n"


def summary(figures: Sequence[Figures]) -> str:
    """The sums over all cells."""
    broken = [one for one in figures if not one.kept]
    noisiest = max((one.noise for one in figures), default=0.0)
    text = (
        f"{len(figures)} cells: {len(figures) - len(broken)} kept every promise, {len(broken)} did not. "
        f"In all {sum(one.reads for one in figures):,} reads and {sum(one.edits for one in figures):,} "
        f"invalidations; {sum(one.exceptions for one in figures)} exceptions, {sum(one.hung for one in figures)} "
        f"hung callers, {sum(one.lost for one in figures)} acknowledged invalidations lost. "
        f"The longest that a thread which only sleeps was late (the machine's own noise): {_ms(noisiest)}.\n"
    )
    for one in broken:
        text += "".join(f"\n- {one.fault}, {one.load}: {breach}" for breach in one.breaches)
    return text + ("\n" if broken else "")


def write_section(name: str, text: str) -> None:
    """Replace what stands between the markers of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    assert begin in page, f"{PAGE} has no section {name}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    PAGE.write_text(pattern.sub(lambda _: f"{begin}\n\n{text.strip()}\n\n{end}", page), encoding="utf-8")


def write_matrix(figures: Iterable[Figures]) -> None:
    """The newest figures of every cell into the page."""
    cells = merge(figures)
    write_section("matrix", summary(cells) + "\n" + table(cells))
    write_section("faults", explanations())


def growth_table(soaked: Soaked) -> str:
    """What each process held, first third and last third."""
    count, minutes = len(soaked.faults), soaked.seconds / 60
    rows = [
        f"{count} faults in {minutes:.1f} minutes. Means of the first and the last third, after the first tenth:\n",
        "| process | | first third | last third |",
        "|---|---|---|---|",
    ]
    for one in soaked.growth:
        mark = "" if one.kept else " **grows**"
        shown = (one.first, one.last) if one.what != "rss" else (one.first / 1e6, one.last / 1e6)
        name = "RSS (MB)" if one.what == "rss" else one.what
        rows.append(f"| {one.process} | {name}{mark} | {shown[0]:.1f} | {shown[1]:.1f} |")
    return "\n".join(rows) + "\n"
