"""`evercache warm`: has calls of an application's functions cached before the first visitors come."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from evercache.errors import ConfigurationError
from evercache.ops.cli import exits
from evercache.ops.cli.show import console
from evercache.ops.warm.lists import BadLine, Reader, csv_items, json_items
from evercache.ops.warm.pace import TOLD, Outcome
from evercache.ops.warm.probe import Times
from evercache.ops.warm.sample import Hot, hot_calls
from evercache.ops.warm.targets import Target, clients_of, find_targets, finish
from evercache.ops.warm.warming import Call, Result, Warming

__all__ = ["warm"]

#: Seconds between two lines where there is no terminal for a bar.
_SAY_EVERY = 30.0


@click.command(short_help="Fill cached functions before visitors come.")
@click.argument("functions", nargs=-1, required=True, metavar="MODULE:FUNCTION...")
@click.option(
    "--args",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The calls: JSON lines, or .csv; - is stdin.",
)
@click.option("--from-hot", is_flag=True, help="The calls that were hot, by the sample that the library keeps.")
@click.option("--top", type=click.IntRange(1), help="With --from-hot: the hottest so many.  [default: all]")
@click.option("--workers", "-j", type=click.IntRange(1, 256), default=4, show_default=True, help="Calls at a time.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Calls that begin in a second, at most.")
@click.option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False),
    default=".",
    help="Where the modules are.  [default: here]",
)
@click.option(
    "--skip-bad", is_flag=True, help="Pass over lines that are no calls, instead of stopping before the first."
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds without a master before it gives up.",
)
@click.option("--no-probe", is_flag=True, help="Do not measure what the site feels, nor give way to it.")
@click.option("--json", "json_", is_flag=True, help="One line of JSON.")
def warm(
    functions: tuple[str, ...],
    file: Path | None,
    from_hot: bool,
    top: int | None,
    workers: int,
    rate: float | None,
    app_dir: str,
    skip_bad: bool,
    patience: float,
    no_probe: bool,
    json_: bool,
) -> int:
    """Fill cached functions, from a list of arguments or from the calls that were hot.

    A function is named as gunicorn names an application, module:function; with --from-hot also module:cache, which
    is all of its functions. What is cached already is not computed again: run it again to go on where it ended.

    A line of the list is the arguments of one call: a JSON list by position, an object by name, any other value the
    only one. The first row of a .csv names the parameters.
    """
    if (file is None) == (not from_hot):
        raise click.UsageError("give either --args FILE or --from-hot")
    if top is not None and not from_hot:
        raise click.UsageError("--top belongs to --from-hot")
    targets = find_targets(functions, app_dir)
    if file is not None and len(targets) != 1:
        raise click.UsageError("--args is a list for one function")
    messages = Console(stderr=True, highlight=False)
    warming = Warming(targets, workers=workers, rate=rate, probe=not no_probe, patience=patience)
    with contextlib.ExitStack() as stack:
        stack.callback(finish)
        for cache in clients_of(targets):
            stack.callback(cache.close)
        warming.check()
        calls: Iterable[Call]
        if file is None:
            hot = hot_calls(targets, top)
            messages.print(_hot_told(hot), markup=False, soft_wrap=True)
            total, calls = len(hot.calls), hot.calls
            if not total:
                return 1
        else:
            total, calls = stack.enter_context(_listed(targets[0], file, skip_bad))
        stack.enter_context(_signals(warming, messages))
        result = _run(warming, calls, total, messages)
    if json_:
        click.echo(_as_json(result))
    else:
        _tell_failures(result, messages, "line" if file is not None else "call")
        console().print(_as_table(result, total))
    if result.stopped == "interrupted":
        return exits.INTERRUPTED
    return 1 if result.stopped or result.report.failed or result.report.lost else 0


# -- what is to be called


def _hot_told(hot: Hot) -> str:
    told = f"{len(hot.calls):,} calls of the sample"
    if hot.lost:
        told += f"; {hot.lost:,} more cannot be made again, since their arguments are objects or too long"
    if hot.unfit:
        told += f"; {hot.unfit:,} do not fit the function as it is now"
    if not hot.calls and not hot.lost and not hot.unfit:
        told += ": is hot_samples= of the cache set, and did it run for a minute? (" + (
            f"the sample has {hot.others:,} calls of other functions)" if hot.others else "it is empty)"
        )
    return told


@contextlib.contextmanager
def _listed(target: Target, file: Path, skip_bad: bool) -> Iterator[tuple[int, Iterator[Call]]]:
    """How many calls a list has, and they; ConfigurationError when a line is none."""
    with contextlib.ExitStack() as stack:
        lines: IO[str]
        if str(file) == "-":
            lines = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline=""))
            shutil.copyfileobj(sys.stdin, lines)
        else:
            try:
                lines = stack.enter_context(file.open(encoding="utf-8", newline=""))
            except OSError as error:
                raise ConfigurationError(f"the list cannot be read: {error}") from error
        reader = Reader(target)
        read = csv_items if file.suffix.lower() == ".csv" else json_items
        total, bad = 0, []
        lines.seek(0)
        for item in read(reader, lines):
            total += 1
            if isinstance(item, BadLine):
                bad.append(item)
        if bad and not skip_bad:
            told = "\n".join(f"  line {one.line}: {one.why}" for one in bad[:TOLD])
            more = f"\n  ... and {len(bad) - TOLD:,} more" if len(bad) > TOLD else ""
            raise ConfigurationError(
                f"{len(bad):,} of {total:,} lines are no calls of {target.core.name}, so nothing was begun "
                f"(--skip-bad passes over them):\n{told}{more}"
            )
        lines.seek(0)
        yield total, (item if isinstance(item, BadLine) else (target, item) for item in read(reader, lines))


# -- the run


@contextlib.contextmanager
def _signals(warming: Warming, messages: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM: what is under way is finished and kept; a second time it is left at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if warming.stop.is_set():
            os.write(2, b"\x1b[?25h" if messages.is_terminal else b"")  # the cursor that the bar hides
            os._exit(exits.INTERRUPTED)
        warming.stop.set()
        os.write(2, b"\nfinishing what is under way; once more to leave it\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(warming: Warming, calls: Iterable[Call], total: int, messages: Console) -> Result:
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
    )
    with shown:
        bar = shown.add_task("warming", total=total, state="")
        state = _State(warming, shown, bar, total, messages)
        warming.done, warming.say = state.done, state.say
        return warming.run(calls)


class _State:
    """What is told while it runs. Called by one thread."""

    def __init__(self, warming: Warming, shown: Progress, bar: TaskID, total: int, messages: Console) -> None:
        self._warming, self._shown, self._bar = warming, shown, bar
        self._total, self._messages = total, messages
        self._lines = self._computed = 0
        self._told = time.monotonic()
        self._began: float | None = None

    def say(self, text: str) -> None:
        self._messages.print(text, markup=False)

    def done(self, outcome: Outcome) -> None:
        self._lines += 1
        self._computed += outcome.what == "warmed"
        now = time.monotonic()
        # What is told a second is of the run, not of the look at the site before it.
        self._began = self._began or now
        terminal = self._messages.is_terminal
        if now - self._told < (0.2 if terminal else _SAY_EVERY) and self._lines != self._total:
            return
        self._told = now
        if terminal:
            self._shown.update(self._bar, completed=self._lines, state=self._words(now))
        else:
            self.say(f"{self._lines:,} of {self._total:,}: {self._words(now)}")

    def _words(self, now: float) -> str:
        seconds = now - (self._began or now)
        words = f"{self._computed / seconds:,.0f} computed a second" if seconds > 0.5 else ""
        probe, governor = self._warming.watching, self._warming.governor
        if probe is not None and probe.during.count:
            words += f"{', ' if words else ''}site p99 {probe.during.quantile(0.99) * 1e3:.1f} ms"
        if governor is not None and governor.limit < governor.workers:
            words += f", giving way: {governor.limit} of {governor.workers} workers"
        return words


# -- what is told at the end


def _tell_failures(result: Result, messages: Console, word: str) -> None:
    report = result.report
    for failure in report.failures:
        messages.print(f"{word} {failure.line}: {failure.why}", markup=False, soft_wrap=True)
    if report.failed > len(report.failures):
        messages.print(f"... and {report.failed - len(report.failures):,} more", markup=False)


def _as_table(result: Result, total: int) -> RenderableType:
    report = result.report
    counts = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "calls",
        "computed",
        "cached already",
        "failed",
        "not kept",
        "left",
        "time",
        "computed a second",
    ):
        counts.add_column(column, justify="right")
    counts.add_row(
        f"{total:,}",
        f"{report.warmed:,}",
        f"{report.cached:,}",
        Text(f"{report.failed:,}", style="red" if report.failed else ""),
        Text(f"{report.declined + report.lost:,}", style="red" if report.lost else ""),
        f"{total - report.done:,}",
        f"{result.seconds:.1f} s",
        f"{report.warmed / max(0.001, result.seconds):,.0f}",
    )
    parts: list[RenderableType] = [counts]
    if result.before is not None and result.during is not None and result.during.count:
        site = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        site.add_column("the site's reads meanwhile")
        for column in ("reads", "median", "p99", "longest", "missed"):
            site.add_column(column, justify="right")
        for name, times in (("before", result.before), ("under this", result.during)):
            site.add_row(name, f"{times.count:,}", *_ms(times), f"{times.failed:,}")
        parts.append(site)
    if result.slow_times:
        parts.append(Text(f"the servers were slow {result.slow_times} times: {result.least} workers at the least"))
    if report.declined:
        parts.append(
            Text(f"{report.declined:,} are not cached: cache_if=, a TTL of 0, no codec, or no value for the id")
        )
    if report.lost:
        parts.append(Text(f"{report.lost:,} were lost: no master had them, or they were invalidated", style="red"))
    parts += [Text(note, style="yellow") for note in result.notes]
    if result.stopped:
        why = "interrupted" if result.stopped == "interrupted" else "stopped: there was no master"
        parts.append(Text(f"{why}; run it again to go on", style="bold yellow"))
    return Group(*parts)


def _ms(times: Times) -> tuple[str, str, str]:
    one, two, three = times.quantile(0.5) * 1e3, times.quantile(0.99) * 1e3, times.longest * 1e3
    return f"{one:.2f} ms", f"{two:.2f} ms", f"{three:.1f} ms"


def _as_json(result: Result) -> str:
    """One line; times in seconds."""
    report = result.report
    document: dict[str, Any] = {
        "computed": report.warmed,
        "cached": report.cached,
        "failed": report.failed,
        "declined": report.declined,
        "lost": report.lost,
        "seconds": round(result.seconds, 3),
        "stopped": result.stopped or None,
        "least_workers": result.least,
        "slow_times": result.slow_times,
        "failures": [{"line": one.line, "why": one.why} for one in report.failures],
        "notes": list(result.notes),
    }
    for name, times in (("before", result.before), ("during", result.during)):
        document[name] = times and {
            "reads": times.count,
            "median": times.quantile(0.5),
            "p99": times.quantile(0.99),
            "longest": times.longest,
            "missed": times.failed,
        }
    return json.dumps(document)
