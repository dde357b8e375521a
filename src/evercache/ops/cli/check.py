"""`evercache check`: the doctor as a plugin of Nagios and its kind. One line first, with performance data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from evercache.errors import EvercacheError
from evercache.ops import deploy
from evercache.ops.cli.addresses import takes_url
from evercache.ops.cli.doctor import CODES, UNSEEN, facts_of
from evercache.ops.doctor import Facts, Finding, Result, examine, registered, verdict
from evercache.ops.doctor.facts import number

__all__ = ["check"]

_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
#: Of a line; monitoring systems cut longer ones off.
_LONGEST: Final = 300


@click.command(short_help="The doctor, as a plugin of a monitoring system.")
@takes_url("The servers, by their URL, instead of a local deployment.")
@click.option("--name", metavar="DEPLOYMENT", help="A local deployment instead of a URL.")
@click.option(
    "--ignore", metavar="CHECK", multiple=True, help="A check of the doctor that is no alarm; repeatable."
)
@click.option(
    "--description",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The description of the deployment: its [intent] says what is no alarm.",
)
def check(address: str | None, name: str | None, ignore: tuple[str, ...], description: Path | None) -> int:
    """Look at a deployment for a monitoring system (the plugin format of Nagios).

    The first line is the verdict, with performance data; then a line for each finding. Without a URL it looks at
    EVERCACHE_URL, else at the local deployment.

    \b
    Exit codes:
      0  OK
      1  WARNING: it works, until something happens
      2  CRITICAL: it does not work, or the next fault loses data or service; also when no server answers
      3  UNKNOWN: a bad URL or description, wrong usage, a refused user or password
    """
    try:
        ignored = {*ignore, *(deploy.parse_file(description).intent.ignored if description else ())}
        strange = ignored - {one.name for one in registered()}
        if strange:
            raise click.UsageError(
                f"no check is named {', '.join(sorted(strange))}: `evercache doctor -v` lists them"
            )
        facts = facts_of(address, name)
    except EvercacheError as error:
        click.echo(f"EVERCACHE UNKNOWN: {str(error).partition(chr(10))[0]}")
        return UNSEEN
    results = [one for one in examine(facts) if one.check.name not in ignored]
    code, words = _judged(facts, results)
    click.echo(f"EVERCACHE {_WORDS[code]}: {words[:_LONGEST].replace('|', '/')} | {' '.join(_figures(facts))}")
    for result, one in _alarms(results):
        click.echo(f"{result.check.name}: {one.seen} -> {one.mend}".replace("\n", "; ").replace("|", "/"))
    return code


def _judged(facts: Facts, results: Sequence[Result]) -> tuple[int, str]:
    (state, reason), alarms = verdict(facts, results), _alarms(results)
    if not reason and not alarms:
        hidden = sum(one.state == "cannot see" for one in results)
        unseen = f", {hidden} could not be seen" if hidden else ""
        reason = f"data nodes: {len(facts.up_nodes)}, sentinels: {len(facts.up_sentinels)}{unseen}"
    names = dict.fromkeys(f"{result.check.name} ({one.seen})" for result, one in alarms)
    return CODES[state], reason or "; ".join(names)


def _alarms(results: Sequence[Result]) -> list[tuple[Result, Finding]]:
    """What was found, the gravest first; what another check explains is told by that."""
    grave = sorted(results, key=lambda one: -int(one.severity or 0))
    return [(result, one) for result in grave for one in result.own]


def _figures(facts: Facts) -> Iterator[str]:
    """Performance data: `label=value[unit];warn;crit;min;max`."""
    up, down = facts.up_nodes, sum(bool(one.error) for one in facts.servers)
    yield f"nodes={len(up)};;;0 sentinels={len(facts.up_sentinels)};;;0 silent={down};;;0"
    yield f"time={facts.seconds:.2f}s;;;0"
    shares = [100 * (number(n.info, "used_memory") or 0) / m for n in up if (m := number(n.info, "maxmemory") or 0)]
    if shares:
        yield f"memory={max(shares):.0f}%;;;0"
    top = facts.primary
    if top is not None:
        sent = number(top.info, "master_repl_offset") or 0
        lags = [sent - (number(one.info, "slave_repl_offset") or 0) for one in facts.replicas]
        yield f"lag={max([0.0, *lags]):.0f}B;;;0"
    for label, field in (("evictions", "evicted_keys"), ("rejected", "rejected_connections")):
        rates = [
            ((number(n.later, field) or 0) - (number(n.info, field) or 0)) / n.later_after
            for n in up
            if n.later_after
        ]
        if rates:
            yield f"{label}={max(0.0, sum(rates)):.1f};;;0"
