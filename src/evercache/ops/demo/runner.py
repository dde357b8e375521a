"""Runs the demo from beginning to end: data, servers, three runs of the site, report."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from redis.exceptions import RedisError
from rich.console import Console

from evercache.errors import DemoFailed, EvercacheError
from evercache.ops.demo.data import FLIGHTS, fetch_archive, load_flights
from evercache.ops.demo.design2013 import SentinelAddress
from evercache.ops.demo.events import Deployment, Happenings, play
from evercache.ops.demo.journal import read_journal
from evercache.ops.demo.judge import Verdict, judge, warmth
from evercache.ops.demo.load import Load
from evercache.ops.demo.options import DemoOptions
from evercache.ops.demo.pages import Database, Page
from evercache.ops.demo.picture import TITLES, Panel, draw
from evercache.ops.demo.report import print_report, promises, write_json
from evercache.ops.demo.server import SiteServer
from evercache.ops.demo.site import SiteOptions
from evercache.ops.local import LocalDeployment
from evercache.ops.stalls import UNJUDGED

__all__ = ["EVENTS", "run_demo", "run_site"]

#: What must happen while evercache is watched.
EVENTS = (
    "master killed",
    "old master back",
    "replica added",
    "replica frozen",
    "replica thawed",
    "all nodes restarted",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What the site is about: the database file and the names of its pages."""

    database: Path
    carriers: list[str]
    routes: list[str]

    @property
    def pages(self) -> list[Page]:
        """Every page of the site."""
        named = [Page("month", str(month)) for month in range(1, 13)]
        named += [Page("carrier", name) for name in self.carriers]
        named += [Page("route", name) for name in self.routes]
        return [Page("front"), Page("leaderboard"), *named]


def run_demo(options: DemoOptions) -> int:
    """See `evercache.ops.demo.run`."""
    console = Console()
    begun = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:6.1f} s[/]  {text}", highlight=False)

    try:
        with _interruptible(), tempfile.TemporaryDirectory(prefix="evercache-demo-") as folder:
            return _run(options, Path(folder), console, say)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has ended")
        return 130
    except EvercacheError as error:
        console.print(f"[bold red]The demo failed:[/] {error}", highlight=False, soft_wrap=True)
        return 1


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: DemoOptions, folder: Path, console: Console, say: Callable[[str], None]) -> int:
    archive = fetch_archive(say)
    say("loading the flights into SQLite")
    path = folder / "flights.db"
    number = load_flights(archive, path)
    if number != FLIGHTS:
        raise DemoFailed(f"{archive} holds {number} flights instead of {FLIGHTS}: delete it and start again")
    database = Database(path)
    subject = Subject(path, database.carriers(), database.routes())
    database.close()
    say(f"{number:,} flights, {len(subject.pages)} pages")

    panels = {"none": run_site("none", options.bare, subject, folder, None, say)}
    deployment = LocalDeployment.open("demo", home=folder / "servers")
    try:
        say("starting one master, two replicas and three sentinels on loopback")
        deployment.up()
        for variant in ("2013", "evercache"):
            wait_until_whole(deployment)
            panels[variant] = run_site(variant, options.faulty, subject, folder, deployment, say)
    finally:
        if deployment.exists:
            deployment.down(purge=True)

    panels = {variant: panels[variant] for variant in ("evercache", "2013", "none")}
    verdicts: dict[str, Verdict] = {variant: panel.verdict for variant, panel in panels.items()}
    kept = promises(verdicts["evercache"], EVENTS, panels["evercache"].events)
    picture, figures = (options.out / name for name in ("report.png", "report.json"))
    say("drawing the picture")
    try:
        draw(list(panels.values()), picture)
        events = {
            variant: [(event.label, event.start - panel.begun, event.end - panel.begun) for event in panel.events]
            for variant, panel in panels.items()
        }
        write_json(figures, verdicts, kept, events)
    except OSError as error:
        raise DemoFailed(f"cannot write the report to {options.out}: {error}") from error
    print_report(console, verdicts, kept, [picture.resolve(), figures.resolve()])
    short = [promise for promise in kept if promise.kept is False]
    if short:
        console.print(f"\n[bold red]{len(short)} of {len(kept)} promises fell short.[/]")
        return 1
    if any(promise.kept is None for promise in kept):
        console.print("\n[bold yellow]The machine was too busy to judge; no promise was broken.[/]")
        return UNJUDGED
    console.print("\n[bold green]All promises kept.[/]")
    return 0


def run_site(
    variant: str,
    seconds: float,
    subject: Subject,
    folder: Path,
    deployment: Deployment | None,
    say: Callable[[str], None],
) -> Panel:
    """Serve and load the site for so many seconds (with events if there is a deployment), and judge it."""
    journal = folder / f"journal-{variant}"
    url = deployment.url if deployment is not None else ""
    site = SiteOptions(variant, str(subject.database), str(journal), url)
    say(f"[bold]{TITLES[variant]}[/]: {seconds:.0f} s of readers and editors")
    happened = Happenings()
    with SiteServer(site, folder) as server:
        load = Load(server.port, subject.carriers, subject.routes)
        begun = time.monotonic()
        load.start()
        try:
            if deployment is None:
                time.sleep(seconds)
            else:
                happened = play(deployment, variant, subject.pages, seconds, lambda text: say(f"  {text}"))
        except BaseException:
            load.give_up()
            raise
        samples = load.stop()
    records = read_journal(journal)
    warm = None
    if happened.looked is not None:
        warm = warmth(happened.before, happened.after, happened.looked, records)
    verdict = judge(samples, records, warm)
    say(f"  {verdict.requests:,} requests, {verdict.errors:,} errors")
    return Panel(variant, begun, samples, happened.events, verdict)


def wait_until_whole(deployment: Deployment, replicas: int = 2, seconds: float = 20) -> None:
    """Wait until the sentinels know a master with so many replicas in sync; raises `DemoFailed` otherwise."""
    address = SentinelAddress.of_url(deployment.url)
    deadline = time.monotonic() + seconds
    seen = "no answer"
    while time.monotonic() < deadline:
        sentinel = address.sentinel(1.0)
        try:
            with sentinel.master_for(address.service) as master:  # type: ignore[no-untyped-call]
                info = master.info("replication")
            lines = [value for key, value in info.items() if key.startswith("slave") and isinstance(value, dict)]
            online = sum(line.get("state") == "online" for line in lines)
            seen = f"{online} of {replicas} replicas in sync"
            known = sentinel.discover_slaves(address.service)  # type: ignore[no-untyped-call]
            if online >= replicas and len(known) >= replicas:
                return
        except RedisError as error:
            seen = str(error)
        finally:
            for client in sentinel.sentinels:
                client.close()
        time.sleep(0.2)
    raise DemoFailed(f"the servers did not become whole within {seconds:.0f} s ({seen}): start the demo again")
