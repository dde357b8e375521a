"""How a command takes a URL: as its argument or as `--url`, whichever somebody remembers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

__all__ = ["takes_url"]


def takes_url(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the argument [URL] and the option --url; it gets one of them as `address`, or None."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("as_argument", metavar="[URL]", required=False)
        @click.option("--url", "as_option", metavar="URL", help=help)
        @functools.wraps(function)
        def command(*args: Any, as_argument: str | None, as_option: str | None, **options: Any) -> Any:
            if as_argument and as_option:
                raise click.UsageError("give the URL once: as an argument, or by --url")
            return function(*args, address=as_argument or as_option, **options)

        return command

    return decorate
