"""The report at the end: what was promised, what was seen, in the terminal and in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evercache.ops.demo.design2013 import SOCKET_TIMEOUT
from evercache.ops.demo.events import Event
from evercache.ops.demo.judge import STALE_LIMIT, Verdict
from evercache.ops.demo.picture import TITLES
from evercache.ops.meter import within

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
    #: None: the machine was too busy to judge.
    kept: bool | None


def promises(verdict: Verdict, wanted_events: Sequence[str], events: Sequence[Event]) -> list[Promise]:
    """What evercache must have kept; that the run was a real test is one of them."""
    warm = verdict.warmth
    missed = [label for label in wanted_events if label not in {event.label for event in events}]
    enough = verdict.requests >= FEWEST_PER_SECOND * verdict.seconds and verdict.edits > verdict.unacknowledged
    slow = within(BUDGET, verdict.beyond_seen, verdict.beyond)
    stale = within(STALE_LIMIT, verdict.worst_staleness_seen, verdict.worst_staleness)
    return [
        Promise("no errors", f"{verdict.errors}{_kinds(verdict)}", verdict.errors == 0),
        Promise(
            f"no cached call longer than its function + {1000 * BUDGET:.0f} ms",
            _stood(slow, verdict.beyond_seen, verdict.beyond_stalled)
            or f"{1000 * verdict.beyond:.0f} ms ({verdict.beyond_page})",
            slow,
        ),
        Promise(
            f"no read stale by more than {1000 * STALE_LIMIT:.0f} ms",
            _stood(stale, verdict.worst_staleness_seen, verdict.worst_staleness_stalled)
            or f"{verdict.stale_reads} (worst {1000 * verdict.worst_staleness:.0f} ms)",
            stale,
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


def _stood(kept: bool | None, seen: float, stalled: float) -> str:
    """What is said where the machine's stalls alone broke a bound."""
    words = f"not judged: the machine stood still for {1000 * stalled:.0f} ms of {1000 * seen:.0f} ms"
    return words if kept is None else ""


def _kinds(verdict: Verdict) -> str:
    if not verdict.error_kinds:
        return ""
    most = sorted(verdict.error_kinds.items(), key=lambda item: -item[1])[:3]
    return " (" + ", ".join(f"{name} {number}" for name, number in most) + ")"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _rows(verdict: Verdict, variant: str) -> list[tuple[str, str]]:
    """Name and value of each line of the table (short enough for a terminal of 80 columns)."""
    cached = variant != "none"
    warm = verdict.warmth
    errors = "[green]0[/]" if verdict.errors == 0 else f"[bold red]{verdict.errors:,}[/]"
    rows = [
        ("requests", f"{verdict.requests:,}", True),
        ("requests per second", f"{verdict.requests / (verdict.seconds or 1):.0f}", True),
        ("errors", errors, True),
        ("slowest cached call*", _ms(verdict.beyond), cached),
        ("cached call p99*", _ms(verdict.beyond_p99), cached),
        ("page latency p50", _ms(verdict.latency_p50), True),
        ("page latency p99", _ms(verdict.latency_p99), True),
        ("slowest page", _ms(verdict.latency_max), True),
        (f"stale reads > {1000 * STALE_LIMIT:.0f} ms", f"{verdict.stale_reads:,}", cached),
        ("worst staleness", _ms(verdict.worst_staleness), cached),
        ("hit ratio", f"{100 * verdict.hit_ratio:.1f} %", cached),
        ("database queries", f"{verdict.queries:,}", True),
        ("queries saved", f"{verdict.queries_saved:,}", True),
        ("edits", f"{verdict.edits}", True),
        ("edits not acknowledged", f"{verdict.unacknowledged}", cached),
        ("reads that lacked those", f"{verdict.reads_before_unacknowledged:,}", cached),
        ("for as long as", _ms(verdict.worst_before_unacknowledged), cached),
        ("cached before, unedited", f"{warm.before}" if warm else "", warm is not None),
        (
            "cached after restart",
            f"{warm.after} = {100 * warm.share:.1f} %" if warm else "",
            warm is not None,
        ),
    ]
    return [(name, value if shown else "–") for name, value, shown in rows]


def print_report(
    console: Console, verdicts: Mapping[str, Verdict], kept: Sequence[Promise], files: Sequence[Path]
) -> None:
    """Print the runs side by side, the promises, and where the files are."""
    table = Table(title="The same site, data and load", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("")
    for variant in verdicts:
        table.add_column(TITLES[variant], justify="right", style="bold" if variant == "evercache" else None)
    columns = [_rows(verdict, variant) for variant, verdict in verdicts.items()]
    for line in zip(*columns, strict=True):
        table.add_row(line[0][0], *(value for _, value in line))
    console.print()
    console.print(table)
    for variant, verdict in verdicts.items():
        if verdict.errors:
            console.print(f"errors of {TITLES[variant]}:{_kinds(verdict)}", style="red", highlight=False)
    console.print(
        "* beyond its function's own time: measured around the call inside the application, without the time "
        "in which the function of that page ran, and without the machine's own stalls. Stale: by the time from the "
        "acknowledged invalidation of what a read shows to the start of the read. Edits that found no master are "
        "counted apart; evercache obeys them at once in the process that made them and brings them to the master "
        f"later. A socket of the 2013 design times out after {SOCKET_TIMEOUT:.0f} s; by default it hung for "
        "ever.",
        style="dim",
        highlight=False,
    )
    if kept:
        console.print()
        for promise in kept:
            mark = {True: "[green]✔[/]", None: "[bold yellow]?[/]", False: "[bold red]✘[/]"}[promise.kept]
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
    runs = {name: {**asdict(verdict), "events": list(events.get(name, ()))} for name, verdict in verdicts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": runs, "promises": [asdict(promise) for promise in kept]}, indent=2) + "\n")
