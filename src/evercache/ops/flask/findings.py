"""What `flask cache doctor` finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "exit_code"]

Level = Literal["error", "risk", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it does not work. `risk`: it works, until something happens. `note`: good to know."""

    level: Level
    problem: str
    mend: str


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing to fix; 1: there are risks; 2: it does not work."""
    levels = {finding.level for finding in findings}
    return 2 if "error" in levels else 1 if "risk" in levels else 0
