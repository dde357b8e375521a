"""`evercache doctor`: look at a deployment, and say what is wrong with it and what mends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from evercache.errors import ConfigurationError, EvercacheError
from evercache.ops.cli.addresses import takes_url
from evercache.ops.cli.doctor_show import doctor_as_json, doctor_as_tables
from evercache.ops.cli.show import console
from evercache.ops.doctor import Facts, examine, gather, load, merged, save, verdict
from evercache.ops.doctor.facts import ClientFacts
from evercache.ops.doctor.shell import with_host
from evercache.ops.local import LocalDeployment
from evercache.ops.own import deployment_of

__all__ = ["CODES", "UNSEEN", "doctor", "facts_of"]

UNSEEN: Final = 3
#: Exit codes by verdict, as monitoring systems have them.
CODES: Final = {"sound": 0, "note": 0, "warning": 1, "critical": 2, "unseen": UNSEEN}


@click.command()
@takes_url("The servers, by their URL, instead of a local deployment.")
@click.option("--name", metavar="DEPLOYMENT", help="A local deployment instead of a URL.")
@click.option("--json", "json_", is_flag=True, help="JSON, for programs.")
@click.option(
    "--save", "save_", type=click.Path(path_type=Path, dir_okay=False), help="Also keep the facts in a file."
)
@click.option(
    "--from",
    "from_",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Examine the facts in a file instead; again for the files of other hosts.",
)
@click.option("--host", is_flag=True, help="Also look at this host: kernel, processes, files, supervisor.")
@click.option(
    "--settings",
    metavar="FILE",
    help="Time-outs and servers of a site's settings (settings_local.py, or a module).",
)
@click.option("-v", "--verbose", is_flag=True, help="Also the reasons, and every check that is fine.")
def doctor(
    address: str | None,
    name: str | None,
    json_: bool,
    save_: Path | None,
    from_: tuple[Path, ...],
    host: bool,
    settings: str | None,
    verbose: bool,
) -> int:
    """Look for what is wrong with a deployment, before it matters.

    It only reads. Without a URL it looks at EVERCACHE_URL, else at the local deployment. Run it on each host with
    --host --save, and examine the files together with --from.

    \b
    Exit codes:
      0  sound, as far as can be seen
      1  warnings
      2  critical; also if no server answers
      3  could not look: a bad URL or file, wrong usage, a refused user or password
    """
    try:
        facts = facts_of(address, name, from_, host, settings)
        if save_ is not None:
            save(facts, save_)
    except EvercacheError as error:
        click.echo(f"evercache: {error}", err=True)
        return UNSEEN
    results = examine(facts)
    if json_:
        click.echo(doctor_as_json(facts, results))
    else:
        console().print(doctor_as_tables(facts, results, verbose=verbose), crop=False)
    return CODES[verdict(facts, results)[0]]


def facts_of(
    address: str | None,
    name: str | None,
    files: tuple[Path, ...] = (),
    host: bool = False,
    settings: str | None = None,
) -> Facts:
    """The facts of a deployment that is named in one of these ways; EvercacheError."""
    if sum(map(bool, (address, name, files, settings))) > 1:
        raise ConfigurationError("give one of: a URL, --name, --from, --settings")
    if files:
        return merged([load(file) for file in files])
    names: dict[str, str] = {}
    client: Callable[[ClientFacts], ClientFacts] | None = None
    if settings:
        address, client = _of_site(settings)
    given = None if name or address else os.environ.get("EVERCACHE_URL")
    deployment = deployment_of(given)
    address = address or given
    if not address or deployment is not None:
        deployment = deployment or LocalDeployment.open(name or "default")
        address = deployment.url
        names = {f"127.0.0.1:{node.port}": node.name for node in deployment.config.nodes}
    with Console(stderr=True).status("asking"):
        facts = gather(address, names=names, client=client)
        return with_host(facts) if host else facts


def _of_site(name: str) -> tuple[str, Callable[[ClientFacts], ClientFacts]]:
    """The URL and the time-outs of a site that has PyBossa's settings; its code runs."""
    from evercache.integrations.pybossa.settings import SiteSettings
    from evercache.integrations.pybossa.settings import load as load_settings

    try:
        values = load_settings(name)
    except ConfigurationError:
        raise
    except Exception as error:  # whatever the code in it does; its message may hold a secret
        raise ConfigurationError(f"{name} cannot be read: {type(error).__name__}") from None
    site = SiteSettings.read(values)
    given = values.get("REDIS_SOCKET_TIMEOUT")
    timeout = float(given) if given is not None else None

    def told(client: ClientFacts) -> ClientFacts:
        return replace(client, answer_timeout=timeout, source=f"REDIS_SOCKET_TIMEOUT in {name}")

    return site.url, told
