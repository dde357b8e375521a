"""The report at the end: what was promised, what was seen, in the terminal and in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evercache.demo.design2013 import SOCKET_TIMEOUT
from evercache.demo.events import Event
from evercache.demo.judge import STALE_LIMIT, Verdict
from evercache.demo.picture import TITLES

__all__ = ["BUDGET", "WARM", "Promise", "print_report", "promises", "write_json"]

#: A cached call may take this long (seconds) beyond its function's own time.
BUDGET = 0.25
#: This share of what was cached before a restart of every node must still be cached after it.
WARM = 0.95
#: A run with fewer requests than this, in each second, has shown nothing.
FEWEST_PER_SECOND = 10


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, and what was seen of it."""

    text: str
    seen: str
    kept: bool


def promises(verdict: Verdict, wanted_events: Sequence[str], events: Sequence[Event]) -> list[Promise]:
    """What evercache must have kept; that the run was a real test is one of them."""
    warm = verdict.warmth
    missed = [label for label in wanted_events if label not in {event.label for event in events}]
    enough = (
        verdict.requests >= FEWEST_PER_SECOND * verdict.seconds and verdict.edits > verdict.unacknowledged
    )
    return [
        Promise("no errors", f"{verdict.errors}{_kinds(verdict)}", verdict.errors == 0),
        Promise(
            f"no cached call longer than its function + {1000 * BUDGET:.0f} ms",
            f"{1000 * verdict.beyond:.0f} ms ({verdict.beyond_page})",
            verdict.beyond <= BUDGET,
        ),
        Promise(
            f"no read stale by more than {1000 * STALE_LIMIT:.0f} ms",
            f"{verdict.stale_reads} (worst {1000 * verdict.worst_staleness:.0f} ms)",
            verdict.stale_reads == 0,
        ),
        Promise(
            f"{100 * WARM:.0f} % of the pages still cached after all nodes restarted",
            f"{100 * warm.share:.1f} % ({warm.after} of {warm.before})" if warm else "not tried",
            warm is not None and warm.share >= WARM,
        ),
        Promise(
            "everything that was to happen happened, under load",
            f"{', '.join(missed)} did not happen"
            if missed
            else f"{verdict.requests / verdict.seconds:.0f} requests/s"
            if verdict.seconds
            else "no requests",
            not missed and enough and verdict.seconds > 0,
        ),
    ]


def _kinds(verdict: Verdict) -> str:
    if not verdict.error_kinds:
        return ""
    most = sorted(verdict.error_kinds.items(), key=lambda item: -item[1])[:3]
    return " (" + ", ".join(f"{name} {number}" for name, number in most) + ")"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _cells(verdict: Verdict, variant: str) -> list[str]:
    cached = variant != "none"
    warm = verdict.warmth
    kinds = "\n".join(f"{name} × {number}" for name, number in sorted(verdict.error_kinds.items()))
    return [
        f"{verdict.requests:,} ({verdict.requests / (verdict.seconds or 1):.0f}/s)",
        f"[green]{verdict.errors}[/]"
        if verdict.errors == 0
        else f"[bold red]{verdict.errors:,}[/]\n[red]{kinds}[/]",
        f"{_ms(verdict.beyond)} (p99 {_ms(verdict.beyond_p99)})" if cached else "–",
        f"{_ms(verdict.latency_p50)} / {_ms(verdict.latency_p99)}",
        _ms(verdict.latency_max),
        f"{verdict.stale_reads:,} (worst {_ms(verdict.worst_staleness)})" if cached else "–",
        f"{100 * verdict.hit_ratio:.1f} %" if cached else "–",
        f"{verdict.queries:,} run, {verdict.queries_saved:,} saved",
        f"{verdict.edits} ({verdict.unacknowledged} not acknowledged)" if cached else f"{verdict.edits}",
        f"{verdict.reads_before_unacknowledged:,} (worst {_ms(verdict.worst_before_unacknowledged)})"
        if cached
        else "–",
        f"{100 * warm.share:.1f} % ({warm.after} of {warm.before})" if warm else "–",
    ]


_ROWS = (
    "requests",
    "errors",
    "slowest cached call beyond its function's own time",
    "page latency p50 / p99",
    "slowest page",
    f"stale reads (> {1000 * STALE_LIMIT:.0f} ms after the acknowledgement)",
    "hit ratio",
    "database queries",
    "edits",
    "reads before an unacknowledged edit reached them",
    "still cached after the restart of all nodes",
)


def print_report(
    console: Console, verdicts: Mapping[str, Verdict], kept: Sequence[Promise], files: Sequence[Path]
) -> None:
    """Print the runs side by side, the promises, and where the files are."""
    table = Table(
        title="The same site, data and load", title_justify="left", title_style="bold", pad_edge=False
    )
    table.add_column("")
    for variant in verdicts:
        table.add_column(TITLES[variant], justify="right", style="bold" if variant == "evercache" else None)
    columns = [_cells(verdict, variant) for variant, verdict in verdicts.items()]
    for row, name in enumerate(_ROWS):
        table.add_row(name, *(column[row] for column in columns))
    console.print()
    console.print(table)
    console.print(
        "A cached call is measured inside the application; the time in which its function ran (in whichever\n"
        "process) is taken off. Edits that found no master are counted apart: evercache obeys them at\n"
        "once in the process that made them and brings them to the master later.\n"
        "In the 2013 design a socket times out after "
        f"{SOCKET_TIMEOUT:.0f} s; by default it hung for ever.",
        style="dim",
    )
    if kept:
        console.print()
        for promise in kept:
            mark = "[green]✔[/]" if promise.kept else "[bold red]✘[/]"
            console.print(f" {mark} {promise.text}: [bold]{promise.seen}[/]", highlight=False)
    console.print()
    for path in files:
        console.print(f"   {path}", highlight=False, soft_wrap=True)


def write_json(
    path: Path,
    verdicts: Mapping[str, Verdict],
    kept: Sequence[Promise],
    events: Mapping[str, Sequence[tuple[str, float, float]]],
) -> None:
    """Write the figures of the report; events as (label, start, end) in seconds of their run."""
    runs = {
        name: {**asdict(verdict), "events": list(events.get(name, ()))} for name, verdict in verdicts.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"runs": runs, "promises": [asdict(promise) for promise in kept]}, indent=2) + "\n"
    )
