"""`evercache drill`: let servers of one's own fail while clients read, and write a report about it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from evercache.ops.cli import exits
from evercache.ops.cli.addresses import takes_url
from evercache.ops.cli.show import console
from evercache.ops.drill import STEPS, Answer, Drill, Left, Options, Report, Step, files, headline, restore
from evercache.ops.local import LocalDeployment

__all__ = ["drill"]

_STEPS = "\b\nSteps:\n" + "\n".join(f"  {step.name:<16}{step.title}" for step in STEPS.values())


@click.command(epilog=_STEPS, short_help="Let your servers fail, and report what clients saw.")
@click.option("--name", help="Which deployment of `evercache up`.  [default: default]")
@takes_url("Any servers with Sentinel; there only hand-over, a planned failover, is done.")
@click.option(
    "--step", "steps", multiple=True, metavar="STEP", help="Only this one; again for more, in this order."
)
@click.option("--yes", is_flag=True, help="Do not ask before each step.")
@click.option(
    "--seconds",
    default=6.0,
    show_default=True,
    type=click.FloatRange(1, 120),
    help="How long a fault lasts at least.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evercache-drill"),
    show_default=True,
    help="Folder for the report.",
)
@click.option("--restore", "restore_", is_flag=True, help="Only put back what a drill that was killed has left.")
def drill(
    name: str | None,
    address: str | None,
    steps: tuple[str, ...],
    yes: bool,
    seconds: float,
    out: Path,
    restore_: bool,
) -> int:
    """Let your servers fail, step by step, and report what a client saw.

    Kills the master, freezes it, freezes a replica, cuts off a sentinel, restarts everything, and asks before each.
    Processes read and invalidate through evercache meanwhile, under keys of their own. At the end, also after
    Ctrl-C, everything runs again, the keys are gone, and the report is in drill.html (to hand on) and drill.json.

    EVERCACHE_URL is not used: what is to fail is named. The exit code is 1 when a promise was broken, and 10 when
    the machine was too busy to judge one.
    """
    if name and address:
        raise click.UsageError("give --name or a URL, not both")
    messages = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        messages.print(text, markup=False, soft_wrap=True)

    if restore_:
        if address:
            raise click.UsageError("--restore is for deployments of `evercache up`")
        deployment = LocalDeployment.open(name or "default")
        _ = deployment.config  # unknown? say so now
        say(
            "everything is back"
            if restore(deployment, say)
            else "no drill has left anything; see `evercache status`"
        )
        return 0
    options = Options(name or "default", url=address, steps=steps, hold=seconds, out=out)
    asked = _Asking(messages, yes)
    drilling = Drill(options, asked, say)
    seen = drilling.check()
    where = f"the servers of {address and 'the URL'}" if address else f"deployment {options.name!r}"
    nodes = ", ".join(f"{node.name} ({node.role})" for node in seen.nodes)
    say(f"a drill of {where}: {nodes}, {len(seen.sentinels)} sentinels")
    say("other users of these servers will notice; cached entries stay")
    asked.steps = len(drilling.steps)
    try:
        report = drilling.run()
    except Left:
        say("a process in the background puts the rest back: `evercache status` shows when all is whole")
        return exits.INTERRUPTED
    _show(report)
    for path in files(out):
        click.echo(path.resolve())
    if report.state == "interrupted":
        return exits.INTERRUPTED
    return {"kept": 0, "nothing": 0, "unjudged": exits.UNJUDGED}.get(report.state, 1)


class _Asking:
    """The question before each step."""

    def __init__(self, messages: Console, yes: bool) -> None:
        self.steps = 0
        self._messages, self._yes, self._number = messages, yes, 0

    def __call__(self, step: Step, does: str) -> Answer:
        self._number += 1
        self._messages.print(f"\n[bold]{self._number}/{self.steps} {step.title}[/]", soft_wrap=True)
        self._messages.print(f"    {does}", markup=False, soft_wrap=True)
        if self._yes:
            return Answer.yes
        self._messages.print(f"    Expected: {step.expect}", markup=False, soft_wrap=True)
        try:
            given: Answer = click.prompt("    Go on? [yes/skip/quit]", value_proc=_answer, err=True)
        except click.Abort:
            if not sys.stdin.isatty():
                self._messages.print("there is nobody to ask: give --yes", soft_wrap=True)
            raise KeyboardInterrupt from None
        return given


def _answer(given: str) -> Answer:
    """Also by the first letters."""
    for answer in Answer:
        if given and answer.value.startswith(given.strip().lower()):
            return answer
    raise click.BadParameter("say yes, skip or quit")


def _show(report: Report) -> None:
    title, text = headline(report)
    out = console()
    style = {"kept": "green", "interrupted": "yellow", "nothing": "yellow", "unjudged": "yellow"}
    out.print()
    out.print(title, style=f"bold {style.get(report.state, 'red')}")
    out.print(text, markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for promise in report.promises:
        mark = {True: "[green]✔[/]", None: "[bold yellow]?[/]", False: "[bold red]✘[/]"}[promise.kept]
        table.add_row(mark, promise.text, f"[bold]{promise.seen}[/]", f"[dim]{promise.bound}[/]")
    out.print(table)
    out.print()
