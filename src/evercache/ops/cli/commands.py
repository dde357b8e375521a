"""The commands, by click: messages go to standard error, what a program may read to standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from evercache.errors import ConfigurationError, EvercacheError
from evercache.ops.bench import bench
from evercache.ops.cli import exits
from evercache.ops.cli.addresses import takes_url
from evercache.ops.cli.check import check
from evercache.ops.cli.doctor import UNSEEN, doctor
from evercache.ops.cli.drill import drill
from evercache.ops.cli.render import render
from evercache.ops.cli.show import as_json, as_tables, bench_as_json, bench_as_table, console
from evercache.ops.cli.warm import warm
from evercache.ops.failover import Failover
from evercache.ops.local import LocalDeployment
from evercache.ops.own import deployment_of, listed
from evercache.ops.remote import targets_of
from evercache.ops.survey import Survey, strained, survey

__all__ = ["cli", "run"]

Command = Callable[..., Any]


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; errors become one message on standard error and an exit code."""
    try:
        given = None if arguments is None else list(arguments)
        result = cli.main(args=given, prog_name="evercache", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        context = error.ctx if isinstance(error, click.UsageError) else None
        # Of `doctor`, 2 would tell a monitoring system of a fault that nobody saw.
        return UNSEEN if context is not None and context.command in (doctor, check) else error.exit_code
    except EvercacheError as error:
        click.echo(f"evercache: {error}", err=True)
        return exits.exit_code(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("evercache: interrupted", err=True)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone: nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


_EXITS = "\b\nExit codes:\n" + "\n".join(
    f"  {line.split('|')[1].strip():>3}  {line.split('|')[2].strip()}"
    for line in (exits.__doc__ or "").splitlines()
    if line.startswith("| ") and line.split("|")[1].strip().isdigit()
)


@click.group(epilog=_EXITS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("evercache"), prog_name="evercache")
def cli() -> None:
    """Cache servers on this machine, and the state of any deployment."""


def _named(function: Command) -> Command:
    return click.option("--name", default="default", show_default=True, help="Which local deployment.")(function)


@cli.command(short_help="Start a master, two replicas and three sentinels.")
@_named
@click.option("--server", type=click.Path(path_type=Path), help="The valkey-server or redis-server program to run.")
@click.option("--memory", default="256mb", show_default=True, help="Memory of each node of a new deployment.")
def up(name: str, server: Path | None, memory: str) -> None:
    """Start a master, two replicas and three sentinels; print the URL to use.

    What runs stays as it is, what is dead is started, what is frozen is thawed.
    """
    deployment = LocalDeployment.open(name, server=server, memory=memory)
    messages = Console(stderr=True, highlight=False)

    def say(message: str) -> None:
        if message.startswith(("created", "started", "thawed", "given up", "left", "the server", "Supervisor")):
            messages.print(message, markup=False, soft_wrap=True)
        else:
            waiting.update(message)

    with messages.status("starting") as waiting:
        started = deployment.bring_up(say)
    if not started:
        click.echo(f"deployment {name!r} already runs", err=True)
    option = "" if name == "default" else f" --name {name}"
    click.echo(
        f'the URL to use; export EVERCACHE_URL="$(evercache url{option})" gives it to your programs:', err=True
    )
    click.echo(deployment.url)


@cli.command()
@_named
@click.option("--purge", is_flag=True, help="Also remove its data, ports and passwords.")
def down(name: str, purge: bool) -> None:
    """Stop all nodes of a local deployment."""
    LocalDeployment.open(name).down(purge)
    click.echo(f"deployment {name!r} is down{' and removed' if purge else ''}", err=True)


@cli.command("list", short_help="Show the deployments on this machine, and what is left of lost ones.")
def list_() -> int:
    """Show the deployments on this machine, and processes of those whose folder is gone.

    The exit code is 1 when there are such processes; `evercache down --name DEPLOYMENT` ends them.
    """
    orphans = 0
    for one in listed():
        if one.orphans:
            orphans += len(one.orphans)
            ids = ", ".join(map(str, one.orphans))
            click.echo(
                f"{one.name}  its folder is gone, its processes run ({ids}): evercache down --name {one.name}"
            )
        else:
            click.echo(f"{one.name}  {'runs' if one.running else 'is down'}  {one.folder}")
    return 1 if orphans else 0


@cli.command()
@_named
def url(name: str) -> None:
    """Print the URL of a local deployment, with its passwords."""
    click.echo(LocalDeployment.open(name).url)


@cli.command(short_help="Show each node: its role, whether it is in sync, its lag.")
@click.option("--name", help="Which local deployment.  [default: EVERCACHE_URL if set, else default]")
@takes_url("Any deployment, by its URL, instead of a local one.")
@click.option("--json", "json_", is_flag=True, help="One line of JSON.")
@click.option("--watch", is_flag=True, help="Every second, until Ctrl-C.")
def status(name: str | None, address: str | None, json_: bool, watch: bool) -> int:
    """Show each node: role, in sync, lag, memory, keys, and what this library uses it for.

    The exit code is 1 when something is down or out of sync, or a node evicts or refuses what it is given.
    """
    if name and address:
        raise click.UsageError("give --name or a URL, not both")
    title, look = _looker(name, address)
    if not watch:
        seen = look()
        if json_:
            click.echo(as_json(title, seen))
        else:
            console().print(as_tables(title, seen))
        return 0 if seen.whole and not seen.strains else 1
    if json_:
        while True:
            click.echo(as_json(title, look()))
            time.sleep(1)
    with Live(as_tables(title, look()), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(as_tables(title, look()), refresh=True)


@cli.command(short_help="Promote a replica in the place of a healthy master.")
@click.option("--name", help="Which local deployment.  [default: EVERCACHE_URL if set, else default]")
@takes_url("Any deployment, by its URL, instead of a local one.")
@click.option("--check", is_flag=True, help="Only say whether it could be done now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def failover(name: str | None, address: str | None, check: bool, yes: bool) -> None:
    """Have a replica promoted in the place of a healthy master, without losing a write.

    Writes stand still for about two seconds; reads go on. It is refused, with the reasons and exit code 8, where it
    would do harm or could not work.
    """
    if name and address:
        raise click.UsageError("give --name or a URL, not both")
    address = address or (None if name else os.environ.get("EVERCACHE_URL"))
    targets = targets_of(address) if address else LocalDeployment.open(name or "default").targets
    messages = Console(stderr=True, highlight=False)
    handing = Failover(targets, lambda text: messages.print(text, markup=False, soft_wrap=True))
    facts = handing.check()
    after = " or ".join(map(str, facts.candidates))
    click.echo(f"{facts.master} is the master; after it {after}. Nothing speaks against it.", err=True)
    if check:
        return
    if not yes:
        try:
            click.confirm("Writes will stand still for about two seconds. Go on?", abort=True, err=True)
        except click.Abort:
            if sys.stdin.isatty():
                raise
            raise click.UsageError(
                "the question was not answered: give --yes, or --check, which changes nothing"
            ) from None
    done = handing.run()
    click.echo(f"whole again after {done.whole_after:.1f} s ({done.way})", err=True)
    click.echo(str(done.new))


def _looker(name: str | None, address: str | None) -> tuple[str, Callable[[], Survey]]:
    given = None if name or address else os.environ.get("EVERCACHE_URL")
    deployment = deployment_of(given)
    if address or (given and deployment is None):
        targets = targets_of(address or given or "")
        return targets.service or "server", lambda: strained(targets, survey(targets))
    deployment = deployment or LocalDeployment.open(name or "default")
    _ = deployment.config  # unknown? say so now
    return deployment.name, lambda: strained(deployment.targets, deployment.status().survey)


@cli.command("bench", short_help="Measure what calls cost at your servers.")
@takes_url("The servers, by their URL, instead of a local deployment.")
@click.option("--name", help="A local deployment instead of a URL.  [default: EVERCACHE_URL if set, else default]")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 600), help="How long.")
@click.option("--namespace", help="For users that may only touch certain keys.  [default: one of its own]")
@click.option("--json", "json_", is_flag=True, help="One line of JSON.")
def bench_(address: str | None, name: str | None, seconds: float, namespace: str | None, json_: bool) -> None:
    """Measure what a hit, a fill and an invalidation cost at your servers.

    Of what it writes, entries are left that expire within a minute.
    """
    if name and address:
        raise click.UsageError("give a URL or --name, not both")
    address = address or (None if name else os.environ.get("EVERCACHE_URL"))
    address = address or LocalDeployment.open(name or "default").url
    with Console(stderr=True).status("measuring"):
        measured = bench(address, seconds=seconds, namespace=namespace)
    if json_:
        click.echo(bench_as_json(measured))
    else:
        console().print(bench_as_table(measured))


cli.add_command(check, "check")
cli.add_command(doctor)
cli.add_command(drill)
cli.add_command(render)
cli.add_command(warm)


def _on_node(verb: str, done: str, text: str) -> None:
    @cli.command(verb, help=text)
    @click.argument("node")
    @_named
    def command(node: str, name: str) -> None:
        getattr(LocalDeployment.open(name), verb)(node)
        click.echo(f"{node} {done}", err=True)


_on_node("kill", "is dead until `evercache start` or `up`", "Kill a node at once (SIGKILL).")
_on_node("freeze", "is frozen until `evercache thaw`", "Freeze a node (SIGSTOP): connected, but silent.")
_on_node("thaw", "is thawed", "Let a frozen node go on.")
_on_node("start", "runs", "Start a dead node.")


@cli.command("add-replica")
@_named
def add_replica(name: str) -> None:
    """Add a replica, and wait until it is in sync."""
    added = LocalDeployment.open(name).add_replica()
    click.echo(f"{added} is in sync; the sentinels notice it within 10 s", err=True)


@cli.command()
@click.argument("node")
@_named
@click.option("-f", "--follow", is_flag=True, help="Go on, until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0), help="How many.")
def logs(node: str, name: str, follow: bool, lines: int) -> None:
    """Show the end of a node's log."""
    path = LocalDeployment.open(name).log_file(node)
    for text in _log(path, lines, follow):
        click.echo(text, nl=False)


def _log(path: Path, lines: int, follow: bool) -> Iterator[str]:
    if not path.exists() and not follow:
        raise EvercacheError(f"{path.stem} has no log yet: it was never started")
    position, inode = 0, -1
    while True:
        if path.exists():
            with path.open(errors="replace") as file:
                found = os.fstat(file.fileno())
                if inode == -1:
                    whole = file.readlines()
                    yield from whole[max(0, len(whole) - lines) :]
                else:
                    # Supervisor moves a full log away and begins another one.
                    file.seek(position if found.st_ino == inode and found.st_size >= position else 0)
                    yield from iter(file.readline, "")
                position, inode = file.tell(), found.st_ino
        if not follow:
            return
        time.sleep(0.2)


@cli.command(short_help="Run a real site whose cache servers die meanwhile.")
@click.option("--seconds", default=36.0, show_default=True, help="Length of each run with dying servers.")
@click.option("--quick", is_flag=True, help="Shorter runs.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evercache-demo"),
    show_default=True,
    help="Folder for the picture and the report.",
)
def demo(seconds: float, quick: bool, out: Path) -> int:
    """Run a real site whose cache servers die while it is read, and report."""
    try:
        from evercache.ops.demo import DemoOptions, run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("evercache"):
            raise
        raise ConfigurationError(f"the demo needs {error.name}: run  pip install 'evercache[demo]'") from error
    return run(DemoOptions(seconds=seconds, quick=quick, out=out))
