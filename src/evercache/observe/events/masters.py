"""Of the master, and of the sentinels that name it."""

from __future__ import annotations

from typing import ClassVar

from evercache.observe.event import Begins, Ends, Event

__all__ = [
    "CommandsRefused",
    "CommandsTaken",
    "Confirmed",
    "MasterChanged",
    "MasterLost",
    "MasterServes",
    "SentinelAnswers",
    "SentinelHeard",
    "SentinelMute",
    "SentinelRemoved",
    "SentinelSilent",
    "TopologyKnown",
    "TopologyUnknown",
    "Unconfirmed",
]


# -- the master


class MasterChanged(Event, frozen=True):
    """Another master is followed."""

    text: ClassVar[str] = "the master is {e.new} (epoch {e.epoch})"
    closes: ClassVar[tuple[str, ...]] = ("master", "log")
    #: Empty where none was known before.
    old: str
    new: str
    epoch: int


class MasterLost(Begins, frozen=True):
    """The master does not answer, or refuses; `refused` is the error code of its refusal."""

    text: ClassVar[str] = "the master {e.address} does not serve: {e.why}"
    opens: ClassVar[str] = "master"
    address: str
    why: str
    refused: str = ""

    @property
    def phase(self) -> str:
        """What a server says (a wrong password, say) is another trouble than its silence before."""
        return self.refused


class MasterServes(Ends, frozen=True):
    """The master answers again."""

    text: ClassVar[str] = "the master {e.address} serves again"
    closes: ClassVar[tuple[str, ...]] = ("master",)
    address: str


class CommandsRefused(Begins, frozen=True):
    """The master answers with an error to what the cache asks."""

    text: ClassVar[str] = "the master refuses commands of the cache: {e.why}"
    opens: ClassVar[str] = "refused {e.code}"
    code: str
    why: str


class CommandsTaken(Ends, frozen=True):
    """The master does what it had refused."""

    text: ClassVar[str] = "the master takes commands again (it had refused them with {e.code})"
    closes: ClassVar[tuple[str, ...]] = ("refused {e.code}",)
    code: str


class TopologyUnknown(Begins, frozen=True):
    """Who is master cannot be found out."""

    text: ClassVar[str] = "{e.why}"
    opens: ClassVar[str] = "topology"
    why: str


class TopologyKnown(Ends, frozen=True):
    """Who is master is known again."""

    text: ClassVar[str] = "the topology is known again: the master is {e.master}"
    closes: ClassVar[tuple[str, ...]] = ("topology",)
    master: str


class Unconfirmed(Begins, frozen=True):
    """The master cannot be reached or confirmed; what that means depends on `consistency=`."""

    text: ClassVar[str] = "the master is not confirmed, {e.what}"
    opens: ClassVar[str] = "unconfirmed"
    consistency: str

    @property
    def what(self) -> str:
        """What is done."""
        if self.consistency == "strict":
            return "so nothing is served from the cache and writes queue: does a majority of sentinels run?"
        return "so replicas serve what may have been invalidated by processes that still reach it"


class Confirmed(Ends, frozen=True):
    """The master is confirmed again."""

    text: ClassVar[str] = "the master is confirmed again"
    closes: ClassVar[tuple[str, ...]] = ("unconfirmed",)


# -- the sentinels


class SentinelSilent(Begins, frozen=True):
    """A sentinel did not answer twice, or not like one."""

    text: ClassVar[str] = "sentinel {e.address}: {e.why}"
    opens: ClassVar[str] = "sentinel {e.address}"
    address: str
    why: str


class SentinelAnswers(Ends, frozen=True):
    """A sentinel answers again."""

    text: ClassVar[str] = "sentinel {e.address} answers again"
    closes: ClassVar[tuple[str, ...]] = ("sentinel {e.address}",)
    address: str


class SentinelRemoved(Ends, frozen=True):
    """A sentinel in trouble is asked no more: the others do not name it."""

    text: ClassVar[str] = "sentinel {e.address} is asked no more"
    closes: ClassVar[tuple[str, ...]] = ("sentinel {e.address}", "mute {e.address}")
    address: str


class SentinelMute(Begins, frozen=True):
    """A sentinel refuses to tell its events: a failover is noticed by asking, up to a second later."""

    text: ClassVar[str] = "sentinel {e.address} does not send its events: {e.why}"
    opens: ClassVar[str] = "mute {e.address}"
    address: str
    why: str


class SentinelHeard(Ends, frozen=True):
    """A sentinel sends its events."""

    text: ClassVar[str] = "sentinel {e.address} sends its events"
    closes: ClassVar[tuple[str, ...]] = ("mute {e.address}",)
    address: str
