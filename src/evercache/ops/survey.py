"""The state of a deployment, asked of its servers: who is what, in sync, and what the library uses it for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from evercache.clock import monotonic
from evercache.errors import Loading, ProtocolError, ServerError, UnavailableError
from evercache.net.blocking import BlockingWire
from evercache.net.types import ConnectionOptions
from evercache.ops.replies import lines, text, texts
from evercache.ops.strain import COUNTERS, strains
from evercache.protocol.shapes import to_address, to_epoch, understood, whole
from evercache.protocol.types import Address, Command
from evercache.topology.facts import parse_replication

__all__ = ["NodeReport", "SentinelReport", "Survey", "Targets", "ask", "healthy", "strained", "survey"]

#: A replica further behind than this many seconds serves no reads.
LAG_BOUND = 10.0


def ask(
    address: Address, options: ConnectionOptions, *commands: Command, timeout: float = 0.6, errors: bool = False
) -> list[Any]:
    """Run commands on a connection of its own; raises `UnavailableError`, also for an error reply.

    With `errors`, an error reply stands in the list instead.
    """
    endpoint = BlockingWire().endpoint(address, options)
    try:
        replies = endpoint.execute(commands, monotonic() + timeout)
    finally:
        endpoint.disconnect()
    for reply in replies:
        if isinstance(reply, ServerError) and not errors:
            raise reply
    return replies


@dataclass(frozen=True, slots=True)
class Targets:
    """Whom to ask. Without `service` there are no sentinels, and the master is who says so."""

    nodes: Mapping[str, Address]
    node_options: ConnectionOptions
    sentinels: Mapping[str, Address]
    sentinel_options: ConnectionOptions
    service: str | None = None
    #: Whether nodes that the sentinels name beyond `nodes` are asked too.
    discover: bool = False


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One data node. `state`: up, loading, denied, odd (not understood) or silent; local deployments add dead and
    frozen."""

    name: str
    address: Address
    state: str
    detail: str = ""
    role: str = ""
    master_port: int = 0
    link_up: bool = False
    offset: int = 0
    in_sync: bool = False
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    memory: int = 0
    keys: int = 0
    ops: int = 0
    version: str = ""
    use: str = "nothing"
    reason: str = ""
    #: The replicas that follow this node, as it lists them.
    listed: tuple[Address, ...] = ()
    #: Where it takes writes only while replicas follow (`min-replicas-to-write`): how many it counts; else None.
    counted: int | None = None
    #: The fields of INFO by which `strained` sees what happens, and when (monotonic) they were true.
    counters: Mapping[str, str] = field(default_factory=dict)
    counted_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SentinelReport:
    """One sentinel, and what it believes."""

    name: str
    address: Address
    state: str
    detail: str = ""
    master: Address | None = None
    epoch: int = -1
    flags: str = ""
    replicas: tuple[Address, ...] = ()
    healthy_replicas: int = 0
    healthy_sentinels: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """A deployment at one moment."""

    nodes: tuple[NodeReport, ...]
    sentinels: tuple[SentinelReport, ...]
    #: The address that the sentinels with the highest epoch name (without sentinels: the node that says so).
    master: Address | None
    #: What nodes suffer from right now, one sentence each; see `strained`.
    strains: tuple[str, ...] = ()

    @property
    def master_name(self) -> str | None:
        """The name of the data node that is master, if it is among the nodes."""
        return next((node.name for node in self.nodes if node.address == self.master), None)

    @property
    def settled(self) -> bool:
        """Whether every sentinel that answers names the same master, and no failover is under way."""
        up = [one for one in self.sentinels if one.state == "up"]
        return bool(up) and all(one.master == self.master and "failover_in_progress" not in one.flags for one in up)

    @property
    def whole(self) -> bool:
        """One master that all agree on, every other node in sync, every sentinel sees all others."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps it from being whole, one short sentence each."""
        found = [
            f"{node.name}: {(node.reason or node.detail or node.state).removeprefix(f'{node.name}: ')}"
            for node in self.nodes
            if node.use == "nothing"
        ]
        if self.master is None:
            found.append("no master is known")
        for one in self.sentinels:
            if one.state != "up" or one.master is None:
                found.append(f"{one.name}: {(one.detail or one.state).removeprefix(f'{one.name}: ')}")
            elif one.master != self.master:
                found.append(f"{one.name}: names {one.master} as master")
            elif one.flags != "master":
                found.append(f"{one.name}: sees the master as {one.flags}")
            elif len(self.nodes) > 1 and not one.healthy_replicas:
                # Fewer than all is no fault: sentinels look for new ones every 10 s only.
                found.append(f"{one.name}: sees no replica that it could promote")
            elif one.healthy_sentinels < len(self.sentinels) - 1:
                others = len(self.sentinels) - 1
                found.append(f"{one.name}: sees {one.healthy_sentinels} of {others} other sentinels")
        return tuple(found)


def survey(targets: Targets) -> Survey:
    """Ask everybody at once; takes as long as the slowest answer, at most about a second."""
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="evercache-survey") as pool:
        asked = [pool.submit(_sentinel, n, a, targets) for n, a in targets.sentinels.items()]
        known = dict(targets.nodes)
        reports = [pool.submit(_node, n, a, targets.node_options) for n, a in known.items()]
        sentinels = tuple(one.result() for one in asked)
        if targets.discover:
            named = [a for one in sentinels for a in (one.master, *one.replicas) if a is not None]
            new = [a for a in dict.fromkeys(named) if a not in known.values()]
            reports += [pool.submit(_node, str(a), a, targets.node_options) for a in new]
            # Sentinels hear of a new replica at their next look, up to ten seconds later, and of one that was
            # left following a former master not at all; the node that it follows knows it.
            asked_nodes = {*known.values(), *new}
            listed = dict.fromkeys(a for one in reports for a in one.result().listed if a not in asked_nodes)
            reports += [pool.submit(_node, str(a), a, targets.node_options) for a in listed]
        nodes = tuple(one.result() for one in reports)
    master = _elected(sentinels) if targets.sentinels else _claimed(nodes)
    return Survey(tuple(_judged(node, nodes, master) for node in nodes), sentinels, master)


def strained(targets: Targets, seen: Survey, pause: float = 0.5) -> Survey:
    """The same with what happens at its nodes during a pause (seconds): evictions, refusals."""
    up = [node for node in seen.nodes if node.state == "up" and node.counters]
    time.sleep(pause if up else 0)
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="evercache-survey") as pool:
        later = list(pool.map(lambda node: _node(node.name, node.address, targets.node_options), up))
    found = [
        f"{one.name}: {what.seen}"
        for one, again in zip(up, later, strict=True)
        if again.counters
        for what in strains(one.counters, again.counters, max(0.001, again.counted_at - one.counted_at))
    ]
    return replace(seen, strains=tuple(found))


def _sentinel(name: str, address: Address, targets: Targets) -> SentinelReport:
    service = targets.service or ""
    commands: list[Command] = [
        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
        ("SENTINEL", "MASTER", service),
        ("SENTINEL", "REPLICAS", service),
        ("SENTINEL", "SENTINELS", service),
    ]
    try:
        replies = ask(address, targets.sentinel_options, *commands)
        with understood(f"{address}, which should be a sentinel,"):
            return _sentinel_report(name, address, replies)
    except UnavailableError as error:
        if "No such master" in str(error):
            return SentinelReport(name, address, "up", f"it does not know the service {service!r}")
        return SentinelReport(name, address, _state_of(error), str(error))


def _sentinel_report(name: str, address: Address, replies: list[Any]) -> SentinelReport:
    where, facts, replicas, others = replies
    master = texts(facts)
    followers = [texts(one) for one in replicas]
    return SentinelReport(
        name,
        address,
        "up",
        master=to_address(text(where[0]), text(where[1])),
        epoch=to_epoch(master["config-epoch"]),
        flags=master["flags"],
        replicas=tuple(a for one in followers if (a := to_address(one["ip"], one["port"])) is not None),
        healthy_replicas=sum(healthy(one["flags"]) for one in followers),
        healthy_sentinels=sum(healthy(texts(one)["flags"]) for one in others),
    )


def healthy(flags: str) -> bool:
    """Whether a sentinel reaches what it gives these flags."""
    # "master_down" is what the other sentinel last said of the master, kept long after it recovered.
    return not {"s_down", "o_down", "disconnected"} & set(flags.split(","))


def _node(name: str, address: Address, options: ConnectionOptions) -> NodeReport:
    try:
        (info,) = ask(address, options, ("INFO",))
        with understood(str(address)):
            return _node_report(name, address, info)
    except UnavailableError as error:
        return NodeReport(name, address, _state_of(error), str(error))


def _node_report(name: str, address: Address, info: Any) -> NodeReport:
    facts = lines(info)
    role = "replica" if facts.get("role") == "slave" else facts.get("role", "")
    offset = facts.get("slave_repl_offset" if role == "replica" else "master_repl_offset", "0")
    keyspace = (value for field, value in facts.items() if field[:2] == "db" and field[2:].isdigit())
    return NodeReport(
        name,
        address,
        "loading" if facts.get("loading") == "1" else "up",
        role=role,
        master_port=whole(facts.get("master_port", "0")),
        link_up=facts.get("master_link_status") == "up",
        offset=whole(offset),
        lag_seconds=float(facts["master_last_io_seconds_ago"]) if role == "replica" else None,
        memory=whole(facts.get("used_memory", "0")),
        keys=sum(whole(space.split("keys=", 1)[1].split(",", 1)[0]) for space in keyspace),
        ops=whole(facts.get("instantaneous_ops_per_sec", "0")),
        version=facts.get("valkey_version") or facts.get("redis_version", ""),
        listed=parse_replication(info).replicas,
        counted=whole(facts["min_slaves_good_slaves"]) if "min_slaves_good_slaves" in facts else None,
        counters={name: facts[name] for name in COUNTERS if name in facts},
        counted_at=monotonic(),
    )


def _state_of(error: UnavailableError) -> str:
    if isinstance(error, Loading):
        return "loading"
    if isinstance(error, ProtocolError):
        return "odd"
    return "denied" if isinstance(error, ServerError) else "silent"


def _elected(sentinels: tuple[SentinelReport, ...]) -> Address | None:
    named = [one for one in sentinels if one.master is not None]
    if not named:
        return None
    newest = max(one.epoch for one in named)
    # At one epoch the address may differ for moments: what most say.
    votes = [one.master for one in named if one.epoch == newest]
    return max(votes, key=votes.count)


def _claimed(nodes: tuple[NodeReport, ...]) -> Address | None:
    masters = [node.address for node in nodes if node.role == "master"]
    return masters[0] if len(masters) == 1 else None


def _judged(node: NodeReport, nodes: tuple[NodeReport, ...], master: Address | None) -> NodeReport:
    """What the library would use the node for, by the rules that its own monitor follows."""
    if node.state != "up":
        silent = node.detail.partition(": ")[2] if "TLS" in node.detail else "it does not answer"
        words = {"loading": "it is loading its data", "denied": node.detail, "silent": silent}
        return replace(node, reason=words.get(node.state, node.detail))
    if node.role == "master":
        if master is not None and node.address != master:
            return replace(node, reason=f"it says master, but the sentinels name {master}")
        if node.counted == 0:
            return replace(node, reason="it takes no writes until a replica follows (min-replicas-to-write)")
        alone = not any(other.role == "replica" and other.link_up for other in nodes)
        return replace(node, in_sync=True, use="writes and reads" if alone else "writes")
    if not node.link_up:
        return replace(node, reason="its link to the master is down")
    top = next((other for other in nodes if other.address == master and other.role == "master"), None)
    behind = max(0, top.offset - node.offset) if top else None
    node = replace(node, lag_bytes=behind)
    if node.lag_seconds is not None and node.lag_seconds > LAG_BOUND:
        return replace(node, reason=f"it received nothing from its master for {node.lag_seconds:.0f} s")
    return replace(node, in_sync=True, use="reads")
