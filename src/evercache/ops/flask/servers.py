"""What `evercache doctor` finds at the servers of a cache, for `flask cache doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor import Facts, Severity, examine, gather
from evercache.ops.flask.findings import Finding, Level
from evercache.url import Location

__all__ = ["of_facts", "survey"]

_LEVELS: dict[Severity, Level] = {Severity.critical: "error", Severity.warning: "risk", Severity.note: "note"}


def survey(location: Location) -> Iterator[Finding]:
    """Ask everybody; nothing is changed."""
    if location.kind != "memory":
        yield from of_facts(gather(location))


def of_facts(facts: Facts) -> Iterator[Finding]:
    """What is wrong; what cannot be seen from here is for `evercache doctor` to say."""
    for result in examine(facts):
        check = result.check
        for one in result.findings:
            if one.state == "found":
                severity = check.severity if one.severity is None else one.severity
                yield Finding(_LEVELS[severity], f"{one.seen} (wanted: {check.title})", one.mend or check.mend)
