"""The command `evercache`: a thin front on `evercache.ops`. Its exit codes are in `evercache.ops.cli.exits`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of the process); returns the exit code."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401

        from evercache.ops.cli.commands import run
    except KeyboardInterrupt:  # the imports take a moment, on a busy machine some
        print("evercache: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("evercache"):
            raise
        print(
            f"evercache: the command line needs {error.name}: run  pip install 'evercache[server]'",
            file=sys.stderr,
        )
        return 2
    return run(arguments)
