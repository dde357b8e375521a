"""All that is known of a deployment at one moment: what its servers, its hosts and its client said. Values only.

What could not be seen is named in `hidden`, with the reason; it is never taken for good. No field holds a secret: a
password is "set" or "" from the moment it is gathered on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from evercache.ops.replies import number, to_whole, whole
from evercache.protocol.shapes import to_epoch
from evercache.protocol.types import Address

__all__ = [
    "FORMAT",
    "Certificate",
    "ClientFacts",
    "Clock",
    "Facts",
    "Group",
    "HostFacts",
    "NodeFacts",
    "ProcessFacts",
    "ProgramFacts",
    "SentinelFacts",
    "address_of",
    "epoch_of",
    "flags_of",
    "is_loopback",
    "number",
    "to_whole",
    "whole",
]

#: Of the file that holds facts.
FORMAT = 1

Texts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Clock:
    """What a server said the time is, and when it was asked: seconds since 1970, ours for `sent` and `received`."""

    server: float
    sent: float
    received: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whom a certificate is for, who issued it, and between which moments it is valid: seconds since 1970."""

    name: str
    issuer: str
    begins: float
    ends: float
    #: The names and addresses that it is for.
    names: tuple[str, ...] = ()
    #: Whether that of its server is among them, or need not be.
    fits: bool = True

    def valid(self, now: float) -> bool:
        """Whether those that verify it accept it."""
        return self.fits and self.begins <= now < self.ends


@dataclass(frozen=True, slots=True)
class Group:
    """One master with its replicas, as one sentinel sees them."""

    name: str
    master: Texts
    replicas: tuple[Texts, ...] = ()
    #: The other sentinels.
    sentinels: tuple[Texts, ...] = ()
    #: What `SENTINEL CKQUORUM` answered, errors as well.
    ckquorum: str = ""


@dataclass(frozen=True, slots=True)
class SentinelFacts:
    """One sentinel. `error` says why it did not answer; `hidden` lists what it did not answer, and why."""

    address: Address
    error: str = ""
    #: Whether it runs, and refuses the user or the password.
    refused: bool = False
    myid: str = ""
    groups: tuple[Group, ...] = ()
    config: Texts = field(default_factory=dict)
    info: Texts = field(default_factory=dict)
    #: Whether it answers somebody without a password; None where that is not known.
    open: bool | None = None
    clock: Clock | None = None
    #: The newest epoch that it knows, of whatever election; None where it could not be heard.
    epoch: int | None = None
    #: What it presents, also where it was not accepted; None without TLS, or where it could not be seen.
    certificate: Certificate | None = None
    hidden: Texts = field(default_factory=dict)

    def group(self, name: str | None) -> Group | None:
        """What it says of the group of this name."""
        return next((one for one in self.groups if one.name == name), None)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One data node; `error`, `refused` and `hidden` as for a sentinel."""

    address: Address
    error: str = ""
    refused: bool = False
    #: The first word of ROLE: master, slave, or empty.
    role: str = ""
    info: Texts = field(default_factory=dict)
    config: Texts = field(default_factory=dict)
    #: As whom we are logged in.
    user: str = ""
    open: bool | None = None
    clock: Clock | None = None
    #: For each user that a sentinel is logged in as: the commands of a failover, and "OK" or why not.
    sentinel_users: Mapping[str, Texts] = field(default_factory=dict)
    #: What it would leave out when it reads its append-only file, for lack of rights; None where it does not tell.
    left_out: tuple[str, ...] | None = None
    #: How many clients are logged in as the default user; None where that is not told.
    as_default: int | None = None
    #: How many connections processes with each version of evercache have here.
    libraries: Mapping[str, int] = field(default_factory=dict)
    #: What changes of INFO, once more so many seconds later (0: it was not asked again).
    later: Texts = field(default_factory=dict)
    later_after: float = 0.0
    #: The shorter of two times (seconds) that an answer took; None: not known.
    answered_in: float | None = None
    #: As of a sentinel.
    certificate: Certificate | None = None
    hidden: Texts = field(default_factory=dict)

    @property
    def replica(self) -> bool:
        """Whether it says that it is a replica."""
        return self.role == "slave"

    @property
    def source(self) -> Address | None:
        """Whom it follows, as it says itself."""
        if not self.replica or "master_host" not in self.info:
            return None
        return Address(self.info["master_host"], whole(self.info, "master_port"))

    def setting(self, name: str) -> str | None:
        """A setting, by its present name or the one before it; None where it cannot be seen."""
        old = name.replace("replica", "slave")
        return self.config.get(name, self.config.get(old))

    @property
    def unwritten(self) -> bool:
        """Whether its last write to the disk failed: then it refuses writes, and answers PING with an error."""
        return any(self.info.get(f"{what}_status", "ok") != "ok" for what in ("aof_last_write", "rdb_last_bgsave"))

    @property
    def version(self) -> tuple[str, tuple[int, ...]]:
        """The kind of server (valkey, redis) and its version."""
        for kind in ("valkey", "redis"):
            if text := self.info.get(f"{kind}_version"):
                return kind, tuple(one for part in text.split(".") if (one := to_whole(part, -1)) >= 0)
        return "", ()


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """How a server is kept running. Times in seconds."""

    #: "supervisor" or "systemd".
    kind: str
    name: str
    #: The file that says so.
    source: str
    #: Whether it is started again when it ends by itself.
    autorestart: bool
    #: Between its end and the new start.
    restart_delay: float = 0.0
    #: From the request to stop to SIGKILL.
    stop_timeout: float = 10.0
    stop_signal: str = "TERM"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One server, as its host shows it."""

    port: int
    pid: int
    sentinel: bool
    config_file: str = ""
    #: What stands in that file: names in lower case, and values; passwords are "set".
    directives: tuple[tuple[str, str], ...] = ()
    #: Why the server cannot write the file again; empty when it can.
    unwritable: str = ""
    daemonized: bool = False
    program: ProgramFacts | None = None
    hidden: Texts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One machine, seen from a shell on it."""

    name: str
    #: Of the deployment's addresses (host parts, as announced) those that are this machine's.
    addresses: tuple[str, ...] = ()
    overcommit: str = ""
    huge_pages: str = ""
    swap_bytes: int | None = None
    processes: tuple[ProcessFacts, ...] = ()
    hidden: Texts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """How the application talks to the servers. Times in seconds, None for ever."""

    #: Without passwords.
    url: str
    #: memory, standalone, replicated or sentinel.
    kind: str
    service: str | None = None
    connect_timeout: float | None = None
    answer_timeout: float | None = None
    #: Where the time-outs are from.
    source: str = "the URL"
    #: Whether it speaks TLS; by which certificate it logs in, and the file; the authorities that it trusts.
    secure: bool = False
    certificate: Certificate | None = None
    certificate_file: str = ""
    authorities: tuple[Certificate, ...] = ()
    authorities_file: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """A deployment at one moment."""

    client: ClientFacts
    sentinels: tuple[SentinelFacts, ...] = ()
    nodes: tuple[NodeFacts, ...] = ()
    hosts: tuple[HostFacts, ...] = ()
    #: Addresses that a URL names, whether or not anybody else knows them.
    named: tuple[Address, ...] = ()
    #: Host names and their addresses; empty for a name that does not resolve.
    resolved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Names of the servers of a local deployment, by address.
    names: Texts = field(default_factory=dict)
    #: Seconds since 1970, and how long the gathering took.
    taken: float = 0.0
    seconds: float = 0.0
    format: int = FORMAT

    @property
    def watched(self) -> bool:
        """Whether sentinels look after the deployment."""
        return self.client.kind == "sentinel"

    @property
    def up_sentinels(self) -> tuple[SentinelFacts, ...]:
        """Those that answered, each process once."""
        processes = {one.info.get("run_id", str(one.address)): one for one in self.sentinels[::-1] if not one.error}
        return tuple(processes.values())[::-1]

    @property
    def up_nodes(self) -> tuple[NodeFacts, ...]:
        """Those that answered, each process once."""
        processes = {one.info.get("run_id", str(one.address)): one for one in self.nodes[::-1] if not one.error}
        return tuple(processes.values())[::-1]

    @property
    def servers(self) -> tuple[NodeFacts | SentinelFacts, ...]:
        """All that was asked."""
        return (*self.nodes, *self.sentinels)

    @property
    def up_servers(self) -> tuple[NodeFacts | SentinelFacts, ...]:
        """Those that answered, each process once."""
        return (*self.up_nodes, *self.up_sentinels)

    @property
    def replicas(self) -> tuple[NodeFacts, ...]:
        """Those that answered, and say that they are replicas."""
        return tuple(one for one in self.up_nodes if one.replica)

    def groups(self) -> Iterator[tuple[SentinelFacts, Group]]:
        """What each sentinel that answered says of the deployment's group."""
        for sentinel in self.up_sentinels:
            group = sentinel.group(self.client.service)
            if group is not None:
                yield sentinel, group

    @property
    def master(self) -> Address | None:
        """Who is named as master: by the newest epoch; without sentinels, the node that says so."""
        views = [(epoch_of(group.master), group) for _, group in self.groups()]
        if views:
            newest = max(epoch for epoch, _ in views)
            votes = [address_of(group.master) for epoch, group in views if epoch == newest]
            return max(votes, key=votes.count)
        claims = [one.address for one in self.up_nodes if one.role == "master"]
        return claims[0] if claims and not self.watched else None

    @property
    def master_node(self) -> NodeFacts | None:
        """The node that is named as master, if it was asked."""
        return self.node(self.master) if self.master is not None else None

    @property
    def primary(self) -> NodeFacts | None:
        """The node that takes writes: the one that is named, if it says so too; else the other that does, with the
        most replicas."""
        named, claims = self.master_node, [one for one in self.up_nodes if one.role == "master"]
        if named is not None and named.role == "master":
            return named
        return max(claims, key=lambda one: whole(one.info, "connected_slaves"), default=None)

    @property
    def known_sentinels(self) -> tuple[Address, ...]:
        """Each sentinel that answers or that others remember, by the address that the others know it by."""
        views = [other for _, group in self.groups() for other in group.sentinels]
        ids = [one.myid for one in self.up_sentinels]
        own = {other.get("runid", ""): address_of(other) for other in views}
        found = [
            own.get(one.myid, one.address) if ids.count(one.myid) == 1 else one.address for one in self.up_sentinels
        ]
        answering = {self.place(one.address) for one in self.sentinels if not one.error}
        rest = [address_of(other) for other in views if other.get("runid") not in ids]
        places = answering | {self.place(one) for one in found}
        for address in rest:
            if self.place(address) not in places:
                places.add(self.place(address))
                found.append(address)
        return tuple(found)

    def place(self, address: Address) -> str:
        """One text for all names of one server: its IP where that is known, and its port."""
        if address.path is not None:
            return address.path
        return str(Address(self.ip(address.host), address.port))

    def ip(self, host: str) -> str:
        """The IP of a host name, or the name where there is none."""
        return next(iter(self.resolved.get(host, ())), host)

    def node(self, address: Address) -> NodeFacts | None:
        """The node at an address."""
        place = self.place(address)
        return next((one for one in self.nodes if self.place(one.address) == place), None)

    def process(self, address: Address) -> ProcessFacts | None:
        """The process behind an address, if a shell on its host saw it."""
        host = self.host(address)
        return next((one for one in host.processes if one.port == address.port), None) if host else None

    def host(self, address: Address) -> HostFacts | None:
        """The host of an address, if there was a shell on it."""
        wanted = {address.host, self.ip(address.host)}
        return next((one for one in self.hosts if wanted & set(one.addresses)), None)

    def label(self, address: Address) -> str:
        """How an address is written for people."""
        name = self.names.get(str(address))
        return f"{name} ({address})" if name else str(address)

    @property
    def single_machine(self) -> bool:
        """Whether everything listens on one loopback address: a deployment of one machine."""
        hosts = {self.ip(one.address.host) for one in self.servers}
        return len(hosts) == 1 and all(is_loopback(host) for host in hosts)


def address_of(texts: Texts) -> Address:
    """The address in an entry of SENTINEL MASTERS, REPLICAS or SENTINELS."""
    return Address(texts.get("ip", ""), whole(texts, "port"))


def epoch_of(texts: Texts) -> int:
    """The configuration epoch in an entry of SENTINEL MASTERS; 0 where there is none."""
    with suppress(ValueError):
        return to_epoch(texts.get("config-epoch", ""))
    return 0


def flags_of(texts: Texts) -> frozenset[str]:
    """The flags in such an entry."""
    return frozenset(texts.get("flags", "").split(","))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host.removeprefix("-")).is_loopback
    except ValueError:
        return host.removeprefix("-") == "localhost"
