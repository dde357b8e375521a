"""`python -m evercache.integrations.pybossa check SETTINGS`: what settings do, what is risky, what to change."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

from evercache.errors import ConfigurationError
from evercache.integrations.pybossa.advice import Finding, advise, describe
from evercache.integrations.pybossa.settings import load
from evercache.integrations.pybossa.survey import survey

__all__ = ["main"]

GOOD: Final = 0
RISKY: Final = 1
WRONG: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing to fix; 1: there are risks; 2: it will not work, or the settings cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m evercache.integrations.pybossa",
        description="Exit codes: 0 nothing to fix, 1 there are risks, 2 it will not work.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what settings will do, what is risky, and what to change")
    check.add_argument("settings", help="a file (settings_local.py) or the name of a module")
    check.add_argument("--offline", action="store_true", help="do not ask the servers")
    told = parser.parse_args(arguments)
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the current folder, as with python -m
    try:
        values = load(told.settings)
    except ConfigurationError as error:
        print(f"error: {error}")
        return WRONG
    except Exception as error:  # whatever the code in it does; its message may hold a secret
        print(f"error: {told.settings} cannot be read: {type(error).__name__} {_place(error)}".rstrip())
        return WRONG
    return _report(values, offline=told.offline)


def _place(error: Exception) -> str:
    lines = [f"line {frame.lineno} of {frame.filename}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"in {lines[-1]}" if lines else ""


def _report(values: Mapping[str, Any], *, offline: bool) -> int:
    settings, findings = advise(values, os.environ)
    if settings is not None:
        for line in describe(settings):
            print(line)
        if not offline and not any(finding.level == "error" for finding in findings):
            findings += survey(settings)
    for level in ("error", "risk", "note"):
        for finding in findings:
            if finding.level == level:
                print(f"{level}: {finding.text}")
    return _code(findings)


def _code(findings: Sequence[Finding]) -> int:
    levels = {finding.level for finding in findings}
    return WRONG if "error" in levels else RISKY if "risk" in levels else GOOD


if __name__ == "__main__":
    sys.exit(main())
