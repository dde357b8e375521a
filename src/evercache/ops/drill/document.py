"""The report as values, and as JSON. It holds no password."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from evercache.ops.drill.measure import Figures, lost_at_the_end
from evercache.ops.drill.records import Written
from evercache.ops.drill.verdict import Promise, promises_of_all, together
from evercache.ops.survey import Survey

if TYPE_CHECKING:
    from evercache.ops.drill.subject import Subject

__all__ = ["FORMAT", "Mark", "Report", "StepReport", "as_json", "assemble", "environment"]

#: Of the JSON document; raised when a reader of it would have to change.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened, `at` seconds after the fault. `kind`: fault, promoted, undone, whole."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step. `state`: done, skipped, failed, interrupted, or left out (the drill ended before)."""

    name: str
    title: str
    does: str
    like: str
    expect: str
    node: str
    state: str
    trouble: str = ""
    marks: tuple[Mark, ...] = ()
    figures: Figures | None = None
    promises: tuple[Promise, ...] = ()

    @property
    def kept(self) -> bool | None:
        """Whether every promise was; None: one could not be judged. What did not happen broke none."""
        return together(self.promises)


@dataclass(frozen=True, slots=True)
class Report:
    """A drill. `state`: kept, broken (a promise was), unjudged (none was, but the machine was too busy to judge
    one), interrupted, failed (could not go on), nothing (was done).
    """

    state: str
    environment: Mapping[str, Any]
    steps: tuple[StepReport, ...]
    promises: tuple[Promise, ...]
    whole: bool
    trouble: str = ""

    @property
    def measured(self) -> tuple[StepReport, ...]:
        """The steps in which something was done to the servers."""
        return tuple(step for step in self.steps if step.figures is not None)

    @property
    def finished(self) -> tuple[StepReport, ...]:
        """The steps that went to their end."""
        return tuple(step for step in self.steps if step.state == "done")


def assemble(
    facts: Mapping[str, Any],
    steps: Sequence[StepReport],
    written: Written,
    replaced_within: float,
    whole: bool,
    trouble: str,
) -> Report:
    """The report of what was seen."""
    measured = [(step.title, step.figures) for step in steps if step.figures is not None]
    promises = promises_of_all(
        measured,
        lost_at_the_end(written),
        sum(one.number for one in written.undelivered),
        len(written.hung),
        replaced_within,
        whole,
    )
    kept = together([*promises, *(promise for step in steps for promise in step.promises)])
    if trouble:
        state = "failed"
    elif kept is False:
        state = "broken"
    elif any(step.state in ("interrupted", "left out") for step in steps):
        state = "interrupted"
    elif kept is None:
        state = "unjudged"
    else:
        state = "kept" if measured else "nothing"
    return Report(state, facts, tuple(steps), tuple(promises), whole, trouble)


def environment(
    seen: Survey, subject: Subject, fleet: tuple[int, int], started: datetime, lasted: float
) -> dict[str, Any]:
    """Where and when it was, and with what."""
    facts: dict[str, Any] = {
        "deployment": subject.name,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(lasted, 1),
        "evercache": version("evercache"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "servers": sorted({node.version for node in seen.nodes if node.version}),
        "nodes": [{"name": node.name, "address": str(node.address), "role": node.role} for node in seen.nodes],
        "sentinels": [{"name": one.name, "address": str(one.address)} for one in seen.sentinels],
        "client_processes": fleet[0],
        "readers_per_process": fleet[1],
    }
    if subject.deployment is not None:
        config = subject.deployment.config
        facts["down_after_ms"] = config.down_after_ms
        facts["failover_timeout_ms"] = config.failover_timeout_ms
    return facts


def as_json(report: Report) -> str:
    """The whole report; times in seconds."""
    document = {
        "format": FORMAT,
        "state": report.state,
        "whole": report.whole,
        "trouble": report.trouble or None,
        "environment": dict(report.environment),
        "promises": [asdict(promise) for promise in report.promises],
        "steps": [asdict(step) | {"kept": step.kept} for step in report.steps],
    }
    return json.dumps(_rounded(document), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    """Microseconds are enough, and read better than what floats are made of."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
