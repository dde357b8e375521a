"""One run: what is cached already is passed over, the rest is called, and the site is watched meanwhile.

The cache itself is the journal. Before calls are made, one round trip for some dozens of them tells which have an
entry that is fresh; those are done. So a run that was stopped in any way goes on where it ended, on any machine,
and two runs at the same time share the work: what the other computes is waited for, not computed again.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

from evercache.errors import ConfigurationError, MasterUnknown
from evercache.ops.warm.keeping import followed
from evercache.ops.warm.lists import BadLine
from evercache.ops.warm.pace import Governor, Outcome, Report, Task, run
from evercache.ops.warm.probe import Probe, Times
from evercache.ops.warm.targets import Item, Standing, Target, clients_of

__all__ = ["Result", "Warming"]

#: Calls that one round trip asks about. Their values come too, so it is no more.
LOOK = 64
#: Seconds for which the site is watched before anything is called.
BEFORE = 2.0
_GLANCE = 0.1

Call = tuple[Target, Item] | BadLine


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    report: Report
    seconds: float
    stopped: Literal["", "interrupted", "no master"]
    #: The fewest workers that were at work, because the servers were slow; and how often they were.
    least: int
    slow_times: int
    #: The reads of the probe; None when there was none.
    before: Times | None = None
    during: Times | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Warming:
    """How a run is to be made. `patience`: seconds without a master after which it gives up."""

    targets: Sequence[Target]
    workers: int = 4
    rate: float | None = None
    probe: bool = True
    patience: float = 60.0
    #: Set by a signal: nothing more is begun.
    stop: threading.Event = field(default_factory=threading.Event)
    #: Told of each line, and now and then of the state of things.
    done: Callable[[Outcome], None] = lambda outcome: None
    say: Callable[[str], None] = lambda text: None
    watching: Probe | None = None
    governor: Governor | None = None
    _gave_up: bool = False

    def check(self) -> None:
        """ConfigurationError where nothing would be kept, MasterUnknown when no master comes in time."""
        for cache in clients_of(self.targets):
            if cache._find() is None:
                raise ConfigurationError("the cache is switched off (EVERCACHE_DISABLED, or it was closed)")
            if cache.location.kind == "memory":
                raise ConfigurationError("its entries are kept in this process and end with it: set EVERCACHE_URL")
            end = time.monotonic() + min(5.0, self.patience)
            while cache.stamp() is None:
                if time.monotonic() > end or self.stop.is_set():
                    raise MasterUnknown(
                        f"no master can be reached, so nothing would be kept: {cache.location.redacted()}"
                    )
                time.sleep(_GLANCE)

    def run(self, calls: Iterable[Call]) -> Result:
        """Have these calls cached."""
        report = Report()
        notes: list[str] = []
        with contextlib.ExitStack() as stack:
            self._watch(stack, notes)
            began = time.monotonic()
            run(
                self._tasks(iter(calls)),
                report,
                workers=self.workers,
                rate=self.rate,
                done=self.done,
                governor=self.governor,
                may_go_on=self._may_go_on,
                stop=self.stop,
            )
            seconds = time.monotonic() - began
        governor, probe = self.governor, self.watching
        notes += self._short_lived(seconds)
        return Result(
            report,
            seconds,
            "no master" if self._gave_up else "interrupted" if self.stop.is_set() else "",
            self.workers if governor is None else governor.least,
            0 if governor is None else governor.slow_times,
            None if probe is None else probe.before,
            None if probe is None else probe.during,
            tuple(notes),
        )

    # -- what is to be done

    def _tasks(self, calls: Iterator[Call]) -> Iterator[Task]:
        while some := list(islice(calls, LOOK)):
            for target in dict.fromkeys(call[0] for call in some if not isinstance(call, BadLine)):
                items = [call[1] for call in some if not isinstance(call, BadLine) and call[0] is target]
                yield from self._of_target(target, items)
            for call in some:
                if isinstance(call, BadLine):
                    yield Task(partial(_told, Outcome(call.line, "failed", call.why)), 0)

    def _of_target(self, target: Target, items: Sequence[Item]) -> Iterator[Task]:
        groups: dict[tuple[Standing, str], list[Item]] = {}
        for item, standing in zip(items, target.standing(items), strict=True):
            if standing == "fresh":
                yield Task(partial(_told, Outcome(item.line, "cached")), 0)
            elif target.many:
                groups.setdefault((standing, target.others(item)), []).append(item)
            else:
                yield Task(partial(target.call, item, standing == "stale"))
        for (standing, _), group in groups.items():
            yield Task(partial(target.call_many, group, standing == "stale"), len(group))

    # -- how the servers stand

    def _may_go_on(self) -> bool:
        """Whether every cache has a master, after waiting for it."""
        end = None
        for cache in clients_of(self.targets):
            while not followed(cache):
                if end is None:
                    end = time.monotonic() + self.patience
                    self.say("waiting for a master")
                if self.stop.wait(_GLANCE):
                    return False
                if time.monotonic() > end:
                    self._gave_up = True
                    return False
        if end is not None:
            self.say("there is a master again")
        return True

    def _watch(self, stack: contextlib.ExitStack, notes: list[str]) -> None:
        """Begin to watch the site, by the first of the caches."""
        if not self.probe:
            return
        cache = clients_of(self.targets)[0]
        governor = Governor(self.workers, 0.0)
        probe = Probe(cache, governor.saw)
        self.say("measuring the site before")
        try:
            stack.enter_context(probe)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            notes.append(f"the site was not watched: address_map= cannot be given to another process ({error})")
            return
        if not probe.wait(BEFORE, self.stop):
            notes.append("the site was not watched: the process that reads gave no answer")
            return
        governor.usual = probe.before.quantile(0.5)
        self.watching, self.governor = probe, governor
        probe.begin()

    def _short_lived(self, seconds: float) -> Iterator[str]:
        for target in self.targets:
            ttl = target.core.policy.ttl
            if not callable(ttl) and ttl < seconds:
                yield f"entries of {target.core.name} live for {ttl:.0f} s, and this took {seconds:.0f} s"


def _told(outcome: Outcome) -> tuple[Outcome]:
    return (outcome,)
