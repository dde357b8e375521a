"""`flask cache`: its commands belong to the tools, and are imported when one of them is used."""

from __future__ import annotations

from importlib.metadata import entry_points

import click
from flask import Flask

__all__ = ["add", "group"]


class _Commands(click.Group):
    """A group whose commands are those of the entry point `flask` of `evercache.commands`."""

    def _tools(self) -> click.Group:
        for entry in entry_points(group="evercache.commands", name="flask"):
            try:
                tools = entry.load()
            except ModuleNotFoundError as error:
                raise click.ClickException(
                    f"`flask cache` needs {error.name}: pip install 'evercache[cli]'"
                ) from error
            assert isinstance(tools, click.Group)
            return tools
        raise click.ClickException(
            "`flask cache` finds no commands: evercache was not installed as a package, or by an older version; "
            "install it again"
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return self._tools().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, or None."""
        return self._tools().get_command(ctx, cmd_name)


group = _Commands("cache", help="The caches of this application.")


def add(app: Flask) -> None:
    """Add the commands, unless the application has a `cache` of its own."""
    if "cache" not in app.cli.commands:
        app.cli.add_command(group)
