"""What speaks against a planned failover: facts gathered once, and a pure look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evercache.errors import ServerError, UnavailableError
from evercache.ops.greetings import RESET, current_epochs, trouble
from evercache.ops.replies import text, texts
from evercache.ops.survey import Survey, Targets, ask, healthy
from evercache.protocol.shapes import understood
from evercache.protocol.types import Address

__all__ = ["Facts", "NodeSettings", "obstacles"]

#: A replica that is further behind (bytes) has to catch up first: writes would stand still for that long.
NEAR = 10_000_000
#: The patience of sentinels that do not say theirs (seconds): their default.
_SILENCE = 30.0


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node is set to; None: it does not say."""

    priority: int | None = None
    #: Whether it asks others for a password, and whether it has one to give to its master.
    asks_password: bool | None = None
    gives_password: bool | None = None
    min_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of a deployment just now."""

    seen: Survey | None = None
    settings: Mapping[Address, NodeSettings] = field(default_factory=dict)
    #: The sentinel that is to be told.
    sentinel: Address | None = None
    #: What it says of the majority: begins with OK when a failover can be authorised.
    quorum: str = ""
    #: The replicas that it would choose from, by what it knows of them.
    promotable: tuple[Address, ...] = ()
    #: For so long (seconds) a master may be silent before the sentinels replace it.
    down_after: float = _SILENCE
    #: Why the sentinels cannot be elected any more, if that is so.
    epochs: str = ""

    @property
    def master(self) -> Address | None:
        """The present one."""
        return None if self.seen is None else self.seen.master

    @property
    def candidates(self) -> tuple[Address, ...]:
        """The replicas that a sentinel may promote."""
        if self.seen is None:
            return ()
        return tuple(
            node.address
            for node in self.seen.nodes
            if node.use == "reads" and self.settings.get(node.address, NodeSettings()).priority != 0
        )

    @staticmethod
    def gather(targets: Targets, seen: Survey) -> Facts:
        """Ask the nodes for their settings, and one sentinel whether it has a majority."""
        up = [node.address for node in seen.nodes if node.state == "up"]
        settings = {address: _settings(targets, address) for address in up}
        epochs, _ = current_epochs(up, targets.node_options, targets.service or "", len(seen.sentinels))
        config = max((one.epoch for one in seen.sentinels), default=0)
        sentinel, quorum = None, ""
        for one in seen.sentinels:
            if one.state != "up" or one.master != seen.master:
                continue
            try:
                command = ("SENTINEL", "CKQUORUM", targets.service or "")
                (reply,) = ask(one.address, targets.sentinel_options, command, errors=True)
            except UnavailableError as error:
                reply = error
            sentinel, quorum = one.address, text(reply)
            if quorum.startswith("OK"):
                break
        return Facts(
            seen,
            settings,
            sentinel,
            quorum,
            *_promotable(targets, sentinel),
            epochs=trouble(max(epochs.values(), default=None), config),
        )


def obstacles(facts: Facts) -> list[str]:
    """Why a failover would do harm or could not work now, one sentence each with what to do; none: go ahead."""
    seen = facts.seen
    if seen is None or seen.master is None:
        return ["no master is known: `evercache status` says who does not answer"]
    found = []
    if not seen.settled:
        found.append("a failover is under way, or the sentinels disagree: wait until `evercache status` is whole")
    if facts.sentinel is None:
        found.append("no sentinel answers that names the master: start them, or check their password")
    elif not facts.quorum.startswith("OK"):
        found.append(f"the sentinels could not authorise it ({facts.quorum}): start the missing ones")
    if facts.epochs:
        found.append(f"the sentinels: {facts.epochs}: {RESET}")
    master = next((node for node in seen.nodes if node.address == seen.master), None)
    if master is not None and master.state in ("denied", "loading"):
        found.append(f"the master {seen.master} does not serve us: {master.reason or master.detail}")
    elif master is None or master.state != "up":
        found.append(f"the master {seen.master} does not answer, so Sentinel will replace it by itself")
    if not facts.candidates:
        reasons = "; ".join(_unfit(facts).values()) or "there is none"
        found.append(f"no replica could be promoted: {reasons}")
    for node in seen.nodes:
        if node.address in facts.candidates and node.lag_bytes is not None and node.lag_bytes > NEAR:
            found.append(f"{node.name} is {node.lag_bytes:,} bytes behind: writes would wait until it has them")
    if facts.candidates:
        unfit = _unfit(facts)
        for address in facts.promotable:
            if address not in facts.candidates and address != seen.master:
                why = unfit.get(address, f"{address}: it is not known")
                found.append(
                    f"a replica might be promoted that lacks writes ({why}): fix that, or set its "
                    "replica-priority to 0 and wait ten seconds"
                )
    return found + _settings_against(facts)


def _unfit(facts: Facts) -> dict[Address, str]:
    assert facts.seen is not None
    found = {}
    for node in facts.seen.nodes:
        if node.address == facts.seen.master or node.address in facts.candidates:
            continue
        why = node.reason or node.detail or node.state
        if node.use == "reads":
            why = "its replica-priority is 0, so it is never promoted"
        found[node.address] = f"{node.name}: {why}"
    return found


def _settings_against(facts: Facts) -> list[str]:
    """What would be wrong afterwards."""
    assert facts.seen is not None
    found = []
    master = facts.settings.get(facts.seen.master, NodeSettings()) if facts.seen.master else NodeSettings()
    followers = sum(node.state == "up" for node in facts.seen.nodes) - 1
    for address in facts.candidates:
        settings = facts.settings.get(address, NodeSettings())
        if settings.asks_password and master.gives_password is False:
            found.append(
                f"{facts.seen.master} could not follow {address} afterwards: it has no password to give; "
                "set primaryauth (masterauth) there"
            )
        if settings.min_replicas is not None and settings.min_replicas > followers:
            found.append(
                f"{address} would refuse writes afterwards: it wants {settings.min_replicas} replicas "
                f"(min-replicas-to-write), and {followers} would follow it"
            )
    return found


def _promotable(targets: Targets, sentinel: Address | None) -> tuple[tuple[Address, ...], float]:
    """By the rules of Sentinel: the lowest priority first, also where the link has been down for a while."""
    if sentinel is None:
        return (), _SILENCE
    service = targets.service or ""
    commands = (("SENTINEL", "MASTER", service), ("SENTINEL", "REPLICAS", service))
    try:
        replies = ask(sentinel, targets.sentinel_options, *commands)
        with understood(str(sentinel)):
            return _promotable_of(*replies)
    except UnavailableError:
        return (), _SILENCE


def _promotable_of(master: Any, replicas: Any) -> tuple[tuple[Address, ...], float]:
    silence = int(texts(master)["down-after-milliseconds"])
    found = tuple(
        Address(one["ip"], int(one["port"]))
        for one in map(texts, replicas)
        if healthy(one["flags"])
        and one.get("slave-priority") != "0"
        and int(one.get("master-link-down-time", "0")) <= 10 * silence
    )
    return found, silence / 1000


def _settings(targets: Targets, address: Address) -> NodeSettings:
    names = ("replica-priority", "requirepass", "masterauth", "min-replicas-to-write")
    try:
        replies = ask(
            address, targets.node_options, *(("CONFIG", "GET", name) for name in names), timeout=1.0, errors=True
        )
        with understood(str(address)):
            return _settings_of(replies)
    except UnavailableError:
        return NodeSettings()


def _settings_of(replies: list[Any]) -> NodeSettings:
    priority, asks, gives, least = map(_value, replies)
    return NodeSettings(
        None if priority is None else int(priority),
        None if asks is None else bool(asks),
        None if gives is None else bool(gives),
        None if least is None else int(least),
    )


def _value(reply: Any) -> str | None:
    """Of one setting; None where the server does not say (`CONFIG` is denied or renamed)."""
    if isinstance(reply, ServerError) or not reply:
        return None
    return text(next(iter(reply.values())) if isinstance(reply, dict) else reply[1])
