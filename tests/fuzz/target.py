"""One parser under attack: what it is fed with, what must hold whatever that is, and a bug to try the hunters on.

The same target is driven by Hypothesis (`tests/fuzz/search.py`) and, guided by coverage, by atheris
(`tests/fuzz/guided.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.edits import Change
from tests.fuzz.guard import guarded

__all__ = ["Bug", "Target", "must"]


@dataclass(frozen=True, slots=True)
class Bug:
    """One slip in a parser, made on purpose: both hunters must find it."""

    name: str
    change: Change


@dataclass(frozen=True, slots=True)
class Target:
    """`check` takes any bytes and raises for a broken promise: an error that is not documented, a wrong result.

    What holds for all of them stands in `guard`: bounded time and memory, and no code of the input's runs.
    """

    name: str
    check: Callable[[bytes], None]
    #: Inputs as they occur; hunters change them.
    seeds: tuple[bytes, ...]
    #: Pieces that a hunter puts in.
    words: tuple[bytes, ...]
    bugs: tuple[Bug, ...]
    #: What hunters found in former versions of the library.
    found: tuple[bytes, ...] = ()

    def run(self, data: bytes) -> None:
        """Feed it."""
        guarded(self.check, data)


def must(condition: object, what: str) -> None:
    """A promise; broken, it ends the run."""
    if not condition:
        raise AssertionError(what)
