"""Advice that the next start of a rendered host would undo: where the description has the same setting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from evercache.ops.doctor.facts import NodeFacts, SentinelFacts

__all__ = ["lasting", "rendered"]

#: Settings of servers, and where the description of `evercache render` has them.
_DESCRIBED = {
    "maxmemory": "server.memory",
    "maxmemory-policy": "server.eviction",
    "appendonly": "persistence.mode",
    "repl-backlog-size": "replication.backlog",
    "client-output-buffer-limit": "replication.backlog",
    "replica-priority": "hosts[].priority",
    "min-replicas-to-write": "replication.min_replicas_to_write",
    "requirepass": "passwords",
    "masterauth": "passwords.replication",
    "quorum": "sentinel.quorum",
    "down-after-milliseconds": "sentinel.down_after_ms",
    "auth-pass": "passwords.sentinel",
    "reboot-down-after-period": "sentinel.reboot_down_after_ms",
}
_SET = re.compile(r"(?:CONFIG SET|SENTINEL SET \S+) (\S+)")


def rendered(server: NodeFacts | SentinelFacts) -> bool:
    """Whether it runs on a copy of a file that `evercache render` has made, put together anew at each start."""
    path = PurePosixPath(server.info.get("config_file", ""))
    node = isinstance(server, NodeFacts)
    if node and PurePosixPath(server.config.get("aclfile", "users.acl")).name != "users.acl":
        return False
    return (path.parent.name, path.name) in (
        {("node", "valkey.conf"), ("node", "redis.conf")} if node else {("sentinel", "sentinel.conf")}
    )


def lasting(mend: str, servers: Iterable[NodeFacts | SentinelFacts]) -> str:
    """The advice, with what makes it last where a server that it is for was rendered."""
    names = [name.removeprefix("primary-").removeprefix("master-") for name in _SET.findall(mend)]
    names = [name for name in names if not name.startswith("tls-")]  # the same files, read again
    if not names or not any(
        f"-h {s.address.host} -p {s.address.port} " in mend or "on each" in mend for s in servers
    ):
        return mend
    where = ", ".join(dict.fromkeys(_DESCRIBED[name] for name in names if name in _DESCRIBED))
    if not where:
        return f"{mend}\nthe next start sets what `evercache render` makes: render and install again"
    return (
        f"{mend}\nthe next start undoes that: set {where} in the description, run `evercache render` and install.sh"
    )
