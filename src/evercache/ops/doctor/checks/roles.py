"""Who is master, and whether everybody can be reached by the address that is told."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from evercache.ops.doctor.checks.words import cli, quoted
from evercache.ops.doctor.facts import Facts, NodeFacts, address_of, flags_of, number, whole
from evercache.ops.doctor.registry import Finding, Severity, check, found, unseen
from evercache.protocol.types import Address

__all__: list[str] = []


@check(
    "one-master",
    "exactly one node says that it is master",
    Severity.critical,
    why="With two masters some writes go to one that will be thrown away; with none nobody can write.",
    mend="make the wrong one follow: `REPLICAOF <host> <port>` of the master that the sentinels name",
    of="nodes",
)
def one_master(facts: Facts) -> Iterator[Finding]:
    """Of all nodes that answer, whoever named them."""
    masters = [one for one in facts.up_nodes if one.role == "master"]
    silent = [one for one in facts.nodes if one.error]
    if len(masters) == 1:
        return
    if not masters:
        if not silent and facts.up_nodes:
            first = facts.master_node or max(facts.up_nodes, key=lambda one: whole(one.info, "slave_repl_offset"))
            yield found("every node says that it is a replica", cli(first.address, "REPLICAOF NO ONE"))
        elif facts.up_nodes and all(_is_down(facts, one.address) for one in silent):
            names = ", ".join(facts.label(one.address) for one in silent)
            yield found(
                f"no node that answers is master; down: {names}",
                "start it, or see the checks of the sentinels: why was no other promoted?",
            )
        return  # else the master may be among those that tell us nothing
    named, right = facts.master, facts.primary
    if named is None or right is None:
        names = ", ".join(facts.label(one.address) for one in masters)
        yield found(
            f"{len(masters)} nodes say that they are master: {names}",
            "REPLICAOF <host> <port> on those that are not to be it",
        )
        return
    place = right.address if right.role == "master" and right is not facts.master_node else named
    for node in masters:
        if node is not right:
            yield found(
                f"{facts.label(node.address)} says that it is master, beside {facts.label(place)}",
                cli(node.address, f"REPLICAOF {quoted(place.host)} {place.port}"),
            )


def _is_down(facts: Facts, address: Address) -> bool:
    """Whether nobody reaches it, and not only we do not."""
    entries = [entry for _, group in facts.groups() for entry in (group.master, *group.replicas)]
    mine = [entry for entry in entries if facts.place(address_of(entry)) == facts.place(address)]
    return all({"s_down", "disconnected"} & flags_of(entry) for entry in mine)


@check(
    "named-master",
    "the master that the sentinels name is one",
    Severity.critical,
    why="Clients ask the sentinels. When the node that they name is down or a replica, no write succeeds, and "
    "when all nodes are replicas the sentinels never repair that by themselves.",
    mend="`REPLICAOF NO ONE` on the node that is named, if no other takes writes; else `FAILOVER TO` the named "
    "one on the other",
    sentinel=True,
)
def named_master(facts: Facts) -> Iterator[Finding]:
    """It answers, and says master."""
    address, node = facts.master, facts.master_node
    if address is None:
        return
    if node is None:
        yield unseen(f"{facts.label(address)} was not asked")
    elif node.error:
        downs = [one for one, group in facts.groups() if {"s_down", "o_down"} & flags_of(group.master)]
        if downs:
            asked = [
                cli(one.address, f"SENTINEL CKQUORUM {quoted(facts.client.service)}") for one, _ in facts.groups()
            ]
            yield found(
                f"{facts.label(address)} is down ({node.error}), and still named as master",
                "\n".join(["start it; or see why nothing is promoted", *asked]),
            )
        else:
            yield unseen(f"{facts.label(address)}: {node.error}")
    elif node.role != "master":
        source = f" of {facts.label(node.source)}" if node.source else ""
        yield found(
            f"{facts.label(address)} is named as master, and says that it is a replica{source}",
            _given_back(facts, address, node),
        )


def _given_back(facts: Facts, address: Address, node: NodeFacts) -> str:
    """How the node that is named becomes master. One that takes writes hands over to it, so that none is lost, and
    there are never two."""
    other = facts.primary
    if other is None:
        return cli(address, "REPLICAOF NO ONE")
    if node.source is None or facts.place(node.source) != facts.place(other.address):
        follow = cli(address, f"REPLICAOF {quoted(other.address.host)} {other.address.port}")
        return f"{follow}\nwhen its link is up, look again: {facts.label(other.address)} takes writes"
    return cli(other.address, f"FAILOVER TO {quoted(address.host)} {address.port} TIMEOUT 10000")


@check(
    "reachable",
    "every announced address can be reached from here",
    Severity.critical,
    why="Clients go where the sentinels send them. Behind NAT or in containers that may be an address that "
    "exists inside only, or another server's.",
    mend="`replica-announce-ip` and `-port` on the node, `sentinel announce-ip` and `-port` on the sentinel",
)
def reachable(facts: Facts) -> Iterator[Finding]:
    """What sentinels hold for healthy answers here as well, and is the server that they mean."""
    entries = [
        (entry, facts.label(sentinel.address), kind)
        for sentinel, group in facts.groups()
        for kind, several in (("node", (group.master, *group.replicas)), ("sentinel", group.sentinels))
        for entry in several
    ]
    # What the sentinels know to be down is another check's matter.
    down = {facts.place(address_of(one)) for one, _, _ in entries if {"s_down", "disconnected"} & flags_of(one)}
    told: dict[str, tuple[Address, str, str]] = {}
    for entry, by, kind in entries:
        told.setdefault(facts.place(address_of(entry)), (address_of(entry), by, kind))
    for address in facts.named:
        told.setdefault(facts.place(address), (address, "the URL", "URL"))
    errors = {facts.place(one.address): one.error for one in facts.servers}
    for place, (address, by, kind) in told.items():
        if errors.get(place) and place not in down:
            mend = _mend(kind, errors[place], facts.label(address))
            yield found(f"{facts.label(address)}, named by {by}: {errors[place]}", mend)
    yield from _others(facts)


def _mend(kind: str, error: str, where: str) -> str:
    if error.startswith(("WRONGPASS", "NOAUTH", "ERR invalid password")):
        return "the right user name and password in the URL"
    if error.startswith("NOPERM"):
        return "what the user in the URL may do: docs/doctor.md"
    if error.startswith(("LOADING", "MASTERDOWN", "BUSY")):
        return f"wait until {where} has loaded its data, and look again"
    if "speak" in error and "TLS" in error:
        return error.partition(": ")[2]
    if kind == "URL":
        return "start it, or give its right address in the URL"
    setting = "replica-announce-ip" if kind == "node" else "`sentinel announce-ip`"
    return f"start it; behind NAT: {setting} in the file of {where}"


def _others(facts: Facts) -> Iterator[Finding]:
    """Another server answers at an announced address: the run ids differ, and the sentinel's is no old one."""
    for sentinel, group in facts.groups():
        for entry in (group.master, *group.replicas):
            node = facts.node(address_of(entry))
            age = number(entry, "info-refresh")
            if node is None or node.error or age is None or not entry.get("runid"):
                continue
            uptime = number(node.info, "uptime_in_seconds") or 0.0
            if node.info.get("run_id") not in (None, entry["runid"]) and uptime > age / 1000 + 5:
                yield found(
                    f"{facts.label(node.address)} is not the server that {facts.label(sentinel.address)} means: "
                    f"run id {node.info['run_id'][:8]}… here, {entry['runid'][:8]}… there",
                    "replica-announce-ip and -port of the server that is meant",
                )
                return


@check(
    "names-mixed",
    "addresses are all IPs or all host names",
    Severity.warning,
    why="A sentinel compares texts: one server known by its IP here and by its name there is two servers, one of "
    "which never comes back.",
    mend="IPs everywhere; or names everywhere, with `sentinel resolve-hostnames yes` and `announce-hostnames yes`",
    sentinel=True,
    of="nodes",
)
def names_mixed(facts: Facts) -> Iterator[Finding]:
    """Of masters and replicas, as the sentinels and the nodes themselves tell them."""
    hosts: dict[str, str] = {}
    for sentinel, group in facts.groups():
        for entry in (group.master, *group.replicas):
            hosts.setdefault(entry.get("ip", ""), f"named by {facts.label(sentinel.address)}")
            if other := entry.get("master-host", "").strip("?"):
                hosts.setdefault(other, f"followed by {facts.label(address_of(entry))}")
    for node in facts.replicas:
        if node.source is not None:
            hosts.setdefault(node.source.host, f"followed by {facts.label(node.address)}")
    names = {host: by for host, by in hosts.items() if host and not _is_ip(host)}
    numbers = [host for host in hosts if _is_ip(host)]
    if names and numbers:
        some = ", ".join(f"{host} ({by})" for host, by in names.items())
        words = "; ".join(f"{host} → {facts.ip(host)}" for host in names) + " in `replicaof` and `sentinel monitor`"
        # To the same master by its other name: a replica goes on where it was.
        follow = [
            cli(node.address, f"REPLICAOF {facts.ip(node.source.host)} {node.source.port}")
            for node in facts.replicas
            if node.source is not None and node.source.host in names and _is_ip(facts.ip(node.source.host))
        ]
        yield found(f"host names ({some}) beside IPs ({', '.join(numbers)})", "\n".join([*follow, words]))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
