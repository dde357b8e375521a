"""How everything is timed: contestants in turn, in small blocks, on cores that are held still.

A *block* is some calls of one contestant in a row; a *round* is some blocks of each, one after the other, in an
order that rotates. Of the blocks of a round the lower quartile and the median count; a ratio is taken inside
the round, where both met the same machine, and the median over the rounds is reported.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.servers import Server

from benchmarks.results import Figure, Kind, Table

__all__ = ["Contestant", "Placement", "Scale", "Timed", "block", "cores", "entered", "hold", "move", "placements"]

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. `rounds` of `blocks` blocks for each contestant."""

    quick: bool
    rounds: int
    blocks: int

    @classmethod
    def of(cls, quick: bool) -> Scale:
        """The two that there are."""
        return cls(True, 3, 8) if quick else cls(False, 11, 25)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of doing the same work.

    `open` enters with the server and gives what is called; `needs` are the modules without which it is left out.
    """

    name: str
    open: Callable[[Server], AbstractContextManager[Any]]
    kind: Kind = "peer"
    needs: tuple[str, ...] = ()


def entered(
    contestants: Iterable[Contestant], server: Server, stack: ExitStack, notes: list[str]
) -> dict[Contestant, Any]:
    """Those that can be entered here, with what each gave; the others are left out with a note."""
    there: dict[Contestant, Any] = {}
    for one in contestants:
        try:
            for module in one.needs:
                importlib.import_module(module)
            there[one] = stack.enter_context(one.open(server))
        except ImportError as error:
            notes.append(f"left out: {one.name} ({error})")
        except Exception as error:
            if one.kind != "peer":
                raise
            notes.append(f"left out: {one.name} ({type(error).__name__}: {error})")
    return there


# -- cores


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the server runs; the caller stays on the first core. None: wherever the system likes."""

    name: str
    core: int | None


#: As the process began: whoever holds a thread to one core sees only that later.
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def cores() -> list[int]:
    """The cores that may be used, or none where the system does not let one choose."""
    return _CORES


def placements() -> list[Placement]:
    """The server beside the caller, and on a core of its own."""
    allowed = cores()
    if not allowed:
        return [Placement("not pinned", None)]
    same = Placement("server on the same core", allowed[0])
    return [Placement("server on another core", allowed[-1]), same] if len(allowed) > 1 else [same]


@contextlib.contextmanager
def hold(core: int | None) -> Iterator[None]:
    """This thread on one core; what it starts within inherits that."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pids: Iterable[int], wanted: Iterable[int]) -> None:
    """All threads of these processes to these cores."""
    target = set(wanted)
    if not target or not hasattr(os, "sched_setaffinity"):
        return
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), target)


# -- times


def block(call: Callable[[], Any], size: int) -> Callable[[], float]:
    """A block of `size` calls, after two that are not counted; gives seconds for one call."""
    turn = range(size)

    def run() -> float:
        call()
        call()
        began = time.perf_counter()
        for _ in turn:
            call()
        return (time.perf_counter() - began) / size

    return run


@dataclass(slots=True)
class Timed:
    """Seconds for one call, by contestant and round. Filled by one thread."""

    names: Sequence[str]
    rounds: list[dict[str, list[float]]] = field(default_factory=list)

    def turns(self, scale: Scale) -> Iterator[str]:
        """Whose turn it is; `add` the time before going on."""
        names = list(self.names)
        gc.collect()
        gc.freeze()
        for _ in range(scale.rounds):
            self.rounds.append({name: [] for name in names})
            for _ in range(scale.blocks):
                yield from names
                names.append(names.pop(0))
        gc.unfreeze()

    def add(self, name: str, seconds: float) -> None:
        """One block of the present round."""
        self.rounds[-1][name].append(seconds)

    def quartile(self, name: str) -> float:
        """The lower quartile of a round, in the median over the rounds; seconds."""
        return median(_quartile(one[name]) for one in self.rounds)

    def median(self, name: str) -> float:
        """The median of a round, in the median over the rounds; seconds."""
        return median(median(one[name]) for one in self.rounds)

    def ratio(self, name: str, of: str, by: Callable[[list[float]], float] | None = None) -> float | None:
        """Time of one for that of another in the same round, in the median over the rounds."""
        if name not in self.names or of not in self.names:
            return None
        by = by or _quartile
        return median(by(one[name]) / by(one[of]) for one in self.rounds)

    def table(self, title: str, kinds: Mapping[str, Kind], of: str, *, ranked: bool = True) -> Table:
        """Quartile, median and both ratios to `of`; in microseconds, the quickest first or as they were given."""
        figures = [
            Figure(
                name,
                (
                    self.quartile(name) * 1e6,
                    self.median(name) * 1e6,
                    self.ratio(name, of),
                    self.ratio(name, of, median),
                ),
                kinds[name],
            )
            for name in (sorted(self.names, key=self.quartile) if ranked else self.names)
        ]
        head = ("lower quartile, µs", "median, µs", f"x {of}", "by medians")
        return Table(title, head, tuple(figures))


def _quartile(times: list[float]) -> float:
    return quantiles(times, n=4)[0] if len(times) > 1 else times[0]
