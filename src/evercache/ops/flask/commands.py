"""`flask cache status`, `doctor`, `warm` and `clear`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TextIO

import click
from flask import current_app
from flask.cli import with_appcontext

from evercache.integrations.flask.backends import EvercacheBackend, NullCache
from evercache.ops.flask import doctor as doctoring
from evercache.ops.flask import warm as warming
from evercache.ops.flask.findings import exit_code
from evercache.ops.warm.pace import Outcome, Report, run

__all__ = ["group"]

_INTERRUPTED = 130


@click.group("cache")
def group() -> None:
    """The caches of this application."""


@group.command()
@click.option("--json", "json_", is_flag=True, help="One line of JSON.")
@with_appcontext
def status(json_: bool) -> None:
    """How the servers stand, and what is wrong with them. The exit code is 1 when something is."""
    reports: list[dict[str, Any]] = []
    for backend in _backends():
        if isinstance(backend, EvercacheBackend):
            reports.append(asdict(backend.evercache.health()))
        else:
            reports.append(
                {"ok": False, "url": type(backend).__name__, "problems": ["it is no cache of evercache"]}
            )
    if json_:
        click.echo(json.dumps(reports))
    else:
        for report in reports:
            click.echo(f"{report['url']}: {'well' if report['ok'] else 'not well'}")
            for node in report.get("nodes", ()):
                click.echo(f"  {node['address']} ({node['role']}): used for {node['use']}")
            for problem in report["problems"]:
                click.echo(f"  ! {problem}")
    raise SystemExit(0 if all(report["ok"] for report in reports) else 1)


@group.command()
@click.option("--json", "json_", is_flag=True, help="One line of JSON.")
@click.option("--patience", type=click.FloatRange(0), default=5.0, help="Seconds in which all has to be well (5).")
@with_appcontext
def doctor(json_: bool, patience: float) -> None:
    """What is wrong with settings and servers, or will be, each with its fix.

    The exit code is 0 when there is nothing to fix, 1 when there are risks, 2 when the cache does not work.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    findings = doctoring.examine(app, patience=patience)
    if json_:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for level in ("error", "risk", "note"):
            for finding in findings:
                if finding.level == level:
                    steps = finding.mend.replace("\n", "\n        ")
                    click.echo(f"{level}: {finding.problem}\n  fix: {steps}")
        if not findings:
            click.echo("nothing to fix")
    raise SystemExit(exit_code(findings))


@group.command()
@click.argument("calls", type=click.File(encoding="utf-8"), metavar="FILE")
@click.option("--function", "-f", default="", help="The memoized function of lines that name none.")
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, help="Calls at a time (4).")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Calls that begin in a second, at most.")
@click.option(
    "--patience", type=click.FloatRange(0), default=5.0, help="Seconds in which there has to be a master (5)."
)
@with_appcontext
def warm(calls: TextIO, function: str, jobs: int, rate: float | None, patience: float) -> None:
    """Call what the lines of FILE name (- is the standard input), unless it is cached already.

    A line is a path (/project/7), or JSON: {"path": ..., "headers": {...}} or {"function": "shop.stats.totals",
    "args": [7], "kwargs": {}}. With --function it is the arguments: a JSON list by position, an object by name,
    another value or a text as the only one.

    Run it again to go on where it ended. The exit code is 1 when a call failed or nothing can be kept.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    backends = _backends()
    if all(isinstance(backend, NullCache) for backend in backends):
        click.echo("the cache is off, so nothing would be kept: see `flask cache doctor`")
        raise SystemExit(1)
    ours = [backend for backend in backends if isinstance(backend, EvercacheBackend)]
    if any(backend.evercache.location.kind == "memory" for backend in ours):
        click.echo("the entries are kept in this process, and end with it: set EVERCACHE_URL to servers", err=True)
    for backend in ours:
        if not _reached(backend, patience):
            click.echo(
                f"no master can be reached, so nothing would be kept: {backend.evercache.location.redacted()}"
            )
            raise SystemExit(1)
    lines: Iterable[str]
    if calls.seekable():
        total = sum(1 for _ in calls)
        calls.seek(0)
        lines = calls
    else:
        lines = list(calls)
        total = len(lines)
    before, report, began = _lost(ours), Report(), time.monotonic()
    with click.progressbar(length=total, label="warming", file=sys.stderr) as bar:
        last = 0

        def done(outcome: Outcome) -> None:
            nonlocal last
            bar.update(max(0, outcome.line - last))
            last = max(last, outcome.line)

        try:
            work = warming.tasks(warming.Warmer(app), warming.parse(lines, function))
            run(work, report, workers=jobs, rate=rate, done=done)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
    for failure in report.failures:
        click.echo(f"line {failure.line}: {failure.why}", err=True)
    if report.failed > len(report.failures):
        click.echo(f"... and {report.failed - len(report.failures)} more", err=True)
    not_kept = _lost(ours) - before
    told = f"{report.warmed} warmed, {report.cached} cached already, {report.failed} failed"
    told += f", {not_kept} results not kept (None, refused, or no master)" if not_kept else ""
    click.echo(
        f"{told}, in {time.monotonic() - began:.1f} s" + ("; stopped: run it again to go on" if stopped else "")
    )
    away = not_kept and not all(_reached(backend, patience) for backend in ours)
    raise SystemExit(_INTERRUPTED if stopped else 1 if report.failed or away else 0)


def _reached(backend: EvercacheBackend, patience: float) -> bool:
    until = time.monotonic() + patience
    while backend.evercache.stamp() is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _lost(backends: list[EvercacheBackend]) -> int:
    """How many results were computed and not stored, since the process began."""
    counters = [backend.evercache.stats().counters for backend in backends]
    return sum(max(0, one.computed - one.raised - one.stored) for one in counters)


@group.command()
@with_appcontext
def clear() -> None:
    """End everything that the caches of this application keep. The exit code is 1 when no master has it."""
    done = [bool(backend.clear()) for backend in _backends()]
    click.echo("cleared" if all(done) else "not cleared: no master could be reached (see `flask cache status`)")
    raise SystemExit(0 if all(done) else 1)


def _backends() -> list[Any]:
    return list(current_app.extensions.get("cache", {}).values())
