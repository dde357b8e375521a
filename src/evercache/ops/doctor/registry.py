"""What a check is: a pure function of the facts, with its name, its severity, its reason and its fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from evercache.ops.doctor.facts import Facts

__all__ = [
    "HELD_FOR_DEAD",
    "REGISTERED",
    "Check",
    "Finding",
    "Result",
    "Severity",
    "check",
    "fine",
    "found",
    "is_command",
    "unseen",
]

State = Literal["found", "fine", "cannot see"]


class Severity(IntEnum):
    """How urgent it is."""

    note = 0
    #: It works, until something happens.
    warning = 1
    #: It does not work, or the next fault loses data or service.
    critical = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says of one thing."""

    state: State
    #: What was seen, with addresses; or why nothing could be seen.
    seen: str
    #: What mends it, one step a line: words, or a command that can be run as it stands (but for `<...>`).
    mend: str = ""
    #: Whether a shell on the host would show it.
    host: bool = False
    #: Where it differs from that of the check.
    severity: Severity | None = None
    #: Whether the server that it is about told nothing at all.
    silent: bool = False
    #: The check that found the cause: it is mended there.
    cause: str = ""
    #: The server that does not work because of it, as findings name it: what the check `explains` of it follows.
    disables: str = ""


#: How a line begins that is a command.
_PROGRAMS = ("valkey-cli ", "sed ", "sleep ", "chown ", "sysctl ", "echo ", "swapoff ")


def is_command(line: str) -> bool:
    """Whether a line of what mends something is to be run."""
    return line.startswith(_PROGRAMS)


def found(seen: str, mend: str, severity: Severity | None = None, *, disables: str = "") -> Finding:
    """Something is wrong."""
    return Finding("found", seen, mend, severity=severity, disables=disables)


def fine(seen: str) -> Finding:
    """Nothing is wrong, and why that needs a word."""
    return Finding("fine", seen)


def unseen(why: str, *, host: bool = False) -> Finding:
    """It could not be looked at: that is never good news."""
    return Finding("cannot see", why, host=host)


Of = Literal["", "nodes", "sentinels", "servers"]
Run = Callable[[Facts], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `run` yields what it found and what it could not see; nothing means that all is fine."""

    name: str
    title: str
    subject: str
    severity: Severity
    why: str
    mend: str
    #: Whether it needs sentinels; without any there is nothing to check.
    sentinel: bool
    #: Whether it has something to say when no sentinel knows the deployment's name.
    unknown: bool
    #: Whom it looks at one by one: of those that do not answer it can see nothing.
    of: Of
    run: Run
    #: The checks that fire as well for a server that a finding of this one `disables`.
    explains: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Result:
    """A check and what it said, at least one finding."""

    check: Check
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst: found, then cannot see, then fine."""
        states = {one.state for one in self.findings}
        return "found" if "found" in states else "cannot see" if "cannot see" in states else "fine"

    @property
    def own(self) -> tuple[Finding, ...]:
        """What was found here that no other check explains."""
        return tuple(one for one in self.findings if one.state == "found" and not one.cause)

    @property
    def severity(self) -> Severity | None:
        """The gravest of what was found; None when nothing was."""
        grave = [
            self.check.severity if one.severity is None else one.severity
            for one in self.findings
            if one.state == "found"
        ]
        return max(grave, default=None)


#: Checks that fire as well for a server that is held for dead since it refuses everybody.
HELD_FOR_DEAD = frozenset(
    {"one-master", "named-master", "reachable", "replicas-follow", "promotable", "passwords", "dead-remembered"}
)

#: In no order; `examination.registered` gives them in that in which they are shown.
REGISTERED: list[Check] = []


def check(
    name: str,
    title: str,
    severity: Severity,
    *,
    why: str,
    mend: str,
    sentinel: bool = False,
    unknown: bool = False,
    of: Of = "",
    explains: Iterable[str] = (),
) -> Callable[[Run], Run]:
    """Register a function as a check; its subject is the name of its module."""

    def register(run: Run) -> Run:
        subject = run.__module__.rpartition(".")[2]
        follows = frozenset(explains)
        REGISTERED.append(Check(name, title, subject, severity, why, mend, sentinel, unknown, of, run, follows))
        return run

    return register
