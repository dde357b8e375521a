"""`flask cache status` and `flask cache clear`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from evercache.integrations.flask.backends import EvercacheBackend

__all__ = ["add", "group"]


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
@with_appcontext
def clear() -> None:
    """End everything that the caches of this application keep. The exit code is 1 when no master has it."""
    done = [bool(backend.clear()) for backend in _backends()]
    click.echo("cleared" if all(done) else "not cleared: no master could be reached (see `flask cache status`)")
    raise SystemExit(0 if all(done) else 1)


def _backends() -> list[Any]:
    return list(current_app.extensions.get("cache", {}).values())


def add(app: Flask) -> None:
    """Add the commands, unless the application has a `cache` of its own."""
    if "cache" not in app.cli.commands:
        app.cli.add_command(group)
