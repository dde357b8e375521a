"""How a diagnosis looks: for people at 80 columns and more, and as JSON for programs.

Commands stand on lines of their own, which are never broken, so that they can be copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from evercache.ops.doctor import Facts, Finding, Result, Severity, verdict
from evercache.ops.doctor.registry import is_command

__all__ = ["doctor_as_json", "doctor_as_tables"]

_STYLES = {Severity.critical: "bold red", Severity.warning: "yellow", Severity.note: "cyan"}
_MARKS = {Severity.critical: "●", Severity.warning: "▲", Severity.note: "○"}


def doctor_as_tables(facts: Facts, results: Sequence[Result], *, verbose: bool = False) -> RenderableType:
    """What was found, the gravest first; what could not be seen; and a line that says how it stands."""
    parts: list[RenderableType] = [_head(facts)]
    for result in sorted(results, key=lambda one: _weight(one, results)):
        if result.own:
            parts.append(_found(result, results))
    if any(one.state == "cannot see" for result in results for one in result.findings):
        parts.append(_hidden(results, verbose=verbose))
    if verbose:
        parts.append(_fine(results))
    parts.append(_end(facts, results))
    return Group(*parts)


#: What is nearer to the ground explains what is above it.
_GROUND = (
    "host",
    "persistence",
    "memory",
    "supervision",
    "security",
    "sentinels",
    "roles",
    "replication",
    "client",
)


def _weight(result: Result, results: Sequence[Result]) -> tuple[bool, int, int]:
    """Causes of other findings first, then the gravest, then what is nearest to the ground."""
    subject = result.check.subject
    place = _GROUND.index(subject) if subject in _GROUND else len(_GROUND)
    return not _follows(result, results), -int(result.severity or Severity.note), place


def _follows(cause: Result, results: Sequence[Result]) -> list[tuple[str, Finding]]:
    """What other checks found that is mended with this."""
    return [
        (result.check.name, one)
        for result in results
        for one in result.findings
        if one.cause and one.cause == cause.check.name
    ]


def _head(facts: Facts) -> RenderableType:
    seen = len(facts.up_nodes), len(facts.up_sentinels)
    silent = [one for one in facts.servers if one.error]
    text = Text.assemble(
        (facts.client.url, "bold"),
        f"\n{_count(seen[0], 'node')} and {_count(seen[1], 'sentinel')} answered in {facts.seconds:.1f} s",
    )
    if silent:
        text.append(f"; {len(silent)} did not", style="yellow")
    text.append(f", {datetime.fromtimestamp(facts.taken, UTC):%Y-%m-%d %H:%M:%S} UTC")
    for one in silent:
        text.append(f"\n  {facts.label(one.address)}: {one.error}", style="yellow")
    if facts.hosts:
        names = [host.name if host.addresses else f"{host.name} (none of the servers)" for host in facts.hosts]
        text.append(f"\nfrom a shell: {', '.join(names)}")
    return Padding(text, (0, 0, 1, 0), expand=False)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _found(result: Result, results: Sequence[Result]) -> RenderableType:
    severity = result.severity or Severity.note
    style = _STYLES[severity]
    heading = Text.assemble((f"{_MARKS[severity]} {severity.name}", style), "  ", (result.check.name, "bold"))
    parts: list[RenderableType] = [heading]
    rows: list[tuple[str, Text]] = [("want", Text(result.check.title))]
    for seen, steps in _alike(result.own):
        rows += [("seen", Text(one, style="bold")) for one in seen]
        if steps and is_command(steps[0]):
            rows.append(("fix", Text("run in a shell", style="green")))
        for step in steps:
            if not is_command(step):
                rows.append(("fix", Text(step, style="green")))
                continue
            if rows:
                parts.append(_rows(rows))
                rows = []
            parts.append(Text(f"      {step}", "green", no_wrap=True, overflow="ignore"))
    rows += [("so", Text(f"{name}: {other.seen}")) for name, other in _follows(result, results)]
    rows.append(("why", Text(result.check.why, style="dim")))
    return Group(*parts, _rows(rows), Text())


def _rows(rows: Sequence[tuple[str, Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(width=5, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    return Padding(table, (0, 0, 0, 2), expand=False)


def _alike(found: Sequence[Finding]) -> Iterator[tuple[list[str], list[str]]]:
    """What was seen, and what to do step by step: one entry for all that is mended alike at several servers."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for one in found:
        steps = one.mend.splitlines()
        # Without the program and the server that it is for.
        alike = tuple(" ".join(step.split()[5:]) if is_command(step) else step for step in steps)
        groups.setdefault(alike, []).append(one)
    for several in groups.values():
        steps = []
        for mend in dict.fromkeys(one.mend for one in several):
            steps += [step for step in mend.splitlines() if is_command(step) or step not in steps]
        yield [one.seen for one in several], steps


def _hidden(results: Sequence[Result], *, verbose: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    host = False
    for result in results:
        hidden = [one for one in result.findings if one.state == "cannot see" and not one.silent]
        if not hidden:
            continue
        host = host or any(one.host for one in hidden)
        first = hidden[0].seen + (f" (and {len(hidden) - 1} more)" if len(hidden) > 1 and not verbose else "")
        mark = " *" if any(one.host for one in hidden) else ""
        table.add_row(f"{result.check.name}{mark}", Text(first))
        if verbose:
            for one in hidden[1:]:
                table.add_row("", Text(one.seen))
    silent = [result.check.name for result in results if any(one.silent for one in result.findings)]
    if silent:
        table.add_row("silent servers", Text(f"did not answer for {', '.join(silent)}"))
    parts: list[RenderableType] = [Rule("could not be seen", align="left", style="dim"), table]
    if host:
        parts.append(
            Text("* a shell shows it: run `evercache doctor --host --save FILE` there, then --from", style="dim")
        )
    return Padding(Group(*parts), (0, 0, 1, 0))


def _fine(results: Sequence[Result]) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True, style="green")
    table.add_column(overflow="fold")
    for result in results:
        if result.state == "fine":
            words = [one.seen for one in result.findings if one.seen]
            title = result.check.title + (f": {'; '.join(words)}" if words else "")
            table.add_row(f"✓ {result.check.name}", Text(title))
    return Padding(Group(Rule("fine", align="left", style="dim"), table), (0, 0, 1, 0))


def _end(facts: Facts, results: Sequence[Result]) -> Text:
    fine = sum(result.state == "fine" for result in results)
    hidden = sum(result.state == "cannot see" for result in results)
    counts = {level: sum(result.severity is level for result in results if result.own) for level in Severity}
    rest = f"{fine} of {len(results)} checks are fine" + (f", {hidden} could not be seen" if hidden else "")
    state, reason = verdict(facts, results)
    if reason:
        words = f"could not look: {reason}" if state == "unseen" else f"critical: {reason}"
        return Text(words, style="bold red")
    if state == "sound":
        return Text(f"sound, as far as can be seen: {rest}", style="green")
    totals = [
        f"{counts[level]} {level.name}" + "s" * (counts[level] > 1 and level is not Severity.critical)
        for level in sorted(Severity, reverse=True)
        if counts[level]
    ]
    return Text(f"{', '.join(totals)}; {rest}", style=_STYLES[Severity[state]])


def doctor_as_json(facts: Facts, results: Sequence[Result]) -> str:
    """One line of JSON. It holds no password."""
    document: dict[str, Any] = {
        "url": facts.client.url,
        "taken": facts.taken,
        "state": verdict(facts, results)[0],
        "checks": [
            {
                "name": result.check.name,
                "subject": result.check.subject,
                "state": result.state,
                "severity": result.severity.name if result.severity is not None else None,
                "why": result.check.why,
                "findings": [
                    {
                        "state": one.state,
                        "seen": one.seen,
                        "mend": one.mend or None,
                        "commands": [line for line in one.mend.splitlines() if is_command(line)],
                        "needs_host": one.host,
                        "cause": one.cause or None,
                    }
                    for one in result.findings
                    if one.seen
                ],
            }
            for result in results
        ],
        "silent": {str(one.address): one.error for one in facts.servers if one.error},
    }
    return json.dumps(document)
