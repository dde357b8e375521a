"""What can be chosen when the demo is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evercache.errors import ConfigurationError

__all__ = ["DemoOptions"]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`seconds` for each of the two runs with events; `quick` shortens everything; files go to `out`."""

    seconds: float = 36.0
    quick: bool = False
    out: Path = Path("evercache-demo")

    def __post_init__(self) -> None:
        if self.seconds < 20:
            raise ConfigurationError(
                f"--seconds {self.seconds:g} is too short: give at least 20, a promotion takes two"
            )

    @property
    def faulty(self) -> float:
        """Length of a run in which servers die, in seconds."""
        return 24.0 if self.quick else self.seconds

    @property
    def bare(self) -> float:
        """Length of the run without a cache, in seconds."""
        return 5.0 if self.quick else 10.0
