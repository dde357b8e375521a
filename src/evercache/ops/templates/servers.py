"""`valkey.conf` / `redis.conf` and `sentinel.conf`: one text for a developer's machine and for production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "STATE",
    "Files",
    "NodeConf",
    "SentinelConf",
    "client_bounds",
    "failover_timeout_ms",
    "node_text",
    "quoted",
    "reboot_word",
    "sentinel_text",
]

Place = tuple[str, int]

#: Lines of a sentinel's file, after `sentinel `, that are what it has learnt: nobody but itself may change them.
STATE: Final = (
    "myid",
    "monitor",
    "config-epoch",
    "leader-epoch",
    "current-epoch",
    "known-replica",
    "known-slave",
    "known-sentinel",
)


@dataclass(frozen=True, slots=True)
class Files:
    """Of TLS."""

    ca: str
    certificate: str
    key: str
    clients: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConf:
    """What the file of a data node depends on."""

    bind: Sequence[str]
    port: int
    folder: str
    #: Who may log in, and as whom it logs in at its master.
    access: Sequence[str]
    master: Place | None
    memory: str
    #: From `client_bounds`.
    bounds: Sequence[str] = ()
    eviction: str = "volatile-lru"
    append: bool = True
    save: str = ""
    min_replicas: int = 0
    max_lag: int = 10
    backlog: int = 16 << 20
    #: Seconds that a first copy waits for further replicas that need one.
    sync_delay: int = 0
    announce: Place | None = None
    priority: int = 100
    tls: Files | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelConf:
    """What the file of a sentinel depends on. Times in milliseconds."""

    bind: Sequence[str]
    port: int
    folder: str
    access: Sequence[str]
    service: str
    ident: str
    master: Place
    quorum: int
    #: As whom it logs in at nodes and sentinels.
    login: Sequence[str]
    down_after_ms: int
    failover_timeout_ms: int
    reboot_down_after_ms: int
    #: How the setting for rebooted masters begins; see `reboot_word`.
    reboot_word: str
    replicas: Sequence[Place]
    others: Sequence[tuple[Place, str]]
    #: From `client_bounds`.
    bounds: Sequence[str] = ()
    announce: Place | None = None
    names: bool = False
    tls: Files | None = None


def failover_timeout_ms(down_after_ms: int) -> int:
    """The limit of each step of a failover: an election, a promotion and a partial copy take a few seconds each.

    After a failover that failed, the next one begins twice this long after it.
    """
    return max(10_000, 2 * down_after_ms + 2000)


def reboot_word(version: Sequence[int]) -> str:
    """How the setting begins: Redis has it since 7.0. A Valkey that reads the old name writes both later on."""
    return "primary" if tuple(version) >= (9,) else "master" if tuple(version) >= (7,) else ""


def client_bounds(version: Sequence[int], memory: int = 0) -> tuple[str, ...]:
    """Bound the memory of all clients together for commands and answers; `memory` is the server's `maxmemory`.

    Without a bound, one client that sends commands and reads no answers uses up the memory of the machine. A node
    evicts all entries first, since these buffers count against `maxmemory`. Redis 6 can only bound each client.
    """
    if tuple(version) >= (7,):
        return (f"maxmemory-clients {max(memory // 4, 64 << 20) >> 20}mb",)
    return "client-output-buffer-limit normal 256mb 64mb 60", "client-query-buffer-limit 64mb"


def node_text(conf: NodeConf) -> str:
    """The file of a data node, which is changed through the server when its role changes."""
    hard, soft = max(256, 2 * conf.backlog >> 20), max(64, conf.backlog >> 20)
    lines = [
        *_common(conf.bind, conf.port, conf.folder, conf.tls),
        *(["tls-replication yes"] if conf.tls else []),
        "",
        "# Who may do what.",
        *conf.access,
        "",
        "# Memory. Only entries carry a TTL: any allkeys-* policy could evict the marks of invalidations.",
        f"maxmemory {conf.memory}",
        f"maxmemory-policy {conf.eviction}",
        *conf.bounds,
        *(f"lazyfree-lazy-{what} yes" for what in ("eviction", "expire", "server-del")),
        "replica-lazy-flush yes",
        "",
        "# What survives a restart: at most one second is lost." if conf.append else "# What survives a restart.",
        f"save {conf.save}" if conf.save else 'save ""',
        f"appendonly {'yes' if conf.append else 'no'}",
        "appendfsync everysec",
        "",
        "# Replication: the backlog holds what a replica may miss; the buffer must not be smaller.",
        *([f"replicaof {conf.master[0]} {conf.master[1]}"] if conf.master else []),
        *_announced(conf.announce, "replica-announce-ip {}", "replica-announce-port {}"),
        f"replica-priority {conf.priority}",
        f"min-replicas-to-write {conf.min_replicas}",
        f"min-replicas-max-lag {conf.max_lag}",
        f"repl-backlog-size {conf.backlog >> 10}kb",
        f"client-output-buffer-limit replica {hard}mb {soft}mb 60",
        "repl-diskless-sync yes",
        f"repl-diskless-sync-delay {conf.sync_delay}",
    ]
    return "\n".join(lines) + "\n"


def sentinel_text(conf: SentinelConf) -> str:
    """The first file of a sentinel, which it rewrites from then on.

    It knows the others and the replicas from its file: no waiting until they meet.
    """
    service = conf.service
    lines = [
        *_common(conf.bind, conf.port, conf.folder, conf.tls),
        *(["tls-replication yes"] if conf.tls else []),
        "",
        "# Who may do what.",
        *conf.access,
        *conf.bounds,
        "",
        "# How the others reach it.",
        *(["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"] if conf.names else []),
        *_announced(conf.announce, "sentinel announce-ip {}", "sentinel announce-port {}"),
        f"sentinel myid {conf.ident}",
        "",
        "# Whom it watches.",
        f"sentinel monitor {service} {conf.master[0]} {conf.master[1]} {conf.quorum}",
        *conf.login,
        f"sentinel down-after-milliseconds {service} {conf.down_after_ms}",
        f"sentinel failover-timeout {service} {conf.failover_timeout_ms}",
        "# One at a time, so that a failover leaves a replica to read from.",
        f"sentinel parallel-syncs {service} 1",
    ]
    if conf.reboot_word:
        lines += [
            "# A master that is back and loads its data for long answers, and would count as alive.",
            f"sentinel {conf.reboot_word}-reboot-down-after-period {service} {conf.reboot_down_after_ms}",
        ]
    lines += [f"sentinel known-replica {service} {host} {port}" for host, port in conf.replicas]
    lines += [f"sentinel known-sentinel {service} {host} {port} {ident}" for (host, port), ident in conf.others]
    return "\n".join(lines) + "\n"


def _common(bind: Sequence[str], port: int, folder: str, tls: Files | None) -> list[str]:
    lines = [
        "# Where it listens.",
        "bind " + " ".join(bind),
        "protected-mode yes" if "*" not in bind else "protected-mode no",
    ]
    if tls is None:
        lines.append(f"port {port}")
    else:
        lines += [
            "port 0",
            f"tls-port {port}",
            f"tls-ca-cert-file {quoted(tls.ca)}",
            f"tls-cert-file {quoted(tls.certificate)}",
            f"tls-key-file {quoted(tls.key)}",
            f"tls-auth-clients {'yes' if tls.clients else 'no'}",
        ]
    return [
        *lines,
        "",
        "# In the foreground, its log on standard output. The pid file is gone after a polite end only.",
        f"dir {quoted(folder)}",
        f"pidfile {quoted(folder + '/server.pid')}",
        'logfile ""',
    ]


def _announced(place: Place | None, *forms: str) -> list[str]:
    return [form.format(value) for form, value in zip(forms, place, strict=True)] if place else []


def quoted(path: str) -> str:
    """A path as configuration files have it."""
    text = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
