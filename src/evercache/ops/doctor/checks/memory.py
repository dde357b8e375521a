"""How much memory, what goes when it is full, and whether that holds for replicas as well."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor.checks.words import changed, cli, quoted, size
from evercache.ops.doctor.facts import Facts, NodeFacts, number
from evercache.ops.doctor.registry import Finding, Severity, check, found, unseen
from evercache.ops.strain import strains

__all__: list[str] = []

#: The part of a machine's memory that its nodes may fill: a save copies the pages that change meanwhile.
SHARE = 0.7
#: The budget of a call (seconds).
SLOW = 0.25


@check(
    "maxmemory",
    "a bound of memory, an eviction policy, room for copies",
    Severity.warning,
    why="Without a bound the kernel ends the server when memory is full. Without an eviction policy it refuses "
    "writes; allkeys-* can evict the marks of invalidations. A save needs room for what changes meanwhile, and a "
    "replica with other bounds evicts on its own or fails when it is promoted.",
    mend="`CONFIG SET maxmemory …`, at most 70 % of the machine for all its nodes; `maxmemory-policy volatile-lru`",
    of="nodes",
)
def maxmemory(facts: Facts) -> Iterator[Finding]:
    """Each node; the nodes of one host together; all nodes alike."""
    bounds: dict[str, list[tuple[NodeFacts, float]]] = {}
    for node in facts.up_nodes:
        where = facts.label(node.address)
        bound, policy = number(node.info, "maxmemory"), node.info.get("maxmemory_policy")
        if bound is None or policy is None:
            yield unseen(f"{where}: {node.hidden.get('INFO', 'INFO shows no maxmemory')}")
            continue
        total = number(node.info, "total_system_memory")
        if not bound:
            yield found(f"{where} has no maxmemory", changed(node, f"maxmemory {_bound(facts, node)}"))
        elif total:
            bounds.setdefault(facts.ip(node.address.host), []).append((node, bound))
        if not policy.startswith("volatile-"):
            what = (
                "refuses writes when it is full" if policy == "noeviction" else "may evict marks of invalidations"
            )
            yield found(
                f"{where}: maxmemory-policy {policy} {what}",
                changed(node, "maxmemory-policy volatile-lru"),
            )
    for host, nodes in bounds.items():
        total = number(nodes[0][0].info, "total_system_memory") or 0.0
        asked = sum(bound for _, bound in nodes)
        if asked > SHARE * total:
            who = "its node" if len(nodes) == 1 else f"its {len(nodes)} nodes"
            yield found(
                f"{host}: {who} may fill {size(asked)} of {size(total)}, which leaves no room for a save",
                "\n".join(
                    changed(node, f"maxmemory {int(SHARE * total / len(nodes)) >> 20}mb") for node, _ in nodes
                ),
            )
    yield from _unlike(facts)


@check(
    "strain",
    "nodes keep what they are given, and answer at once",
    Severity.critical,
    why="A node that evicts what was just stored, refuses what it is given or rejects clients looks sound by its "
    "settings, and nearly every call computes. So it does where a node answers after the budget of a call, 250 ms.",
    mend="more memory (`maxmemory`) or fewer entries; see `INFO stats`, `SLOWLOG GET` and the load of its machine",
    of="nodes",
)
def strain(facts: Facts) -> Iterator[Finding]:
    """What happened between two looks, a moment apart."""
    for node in facts.up_nodes:
        where = facts.label(node.address)
        if not node.later_after:
            yield unseen(f"{where}: it was asked once only")
            continue
        for one in strains(node.info, node.later, node.later_after):
            mend = changed(node, one.mend) if one.setting else one.mend
            yield found(f"{where}: {one.seen}", mend, Severity.critical if one.critical else Severity.warning)
        if node.answered_in is not None and node.answered_in > SLOW:
            yield found(
                f"{where} answers after {node.answered_in:.2f} s",
                f"see the load of its machine, and slow commands\n{cli(node.address, 'SLOWLOG GET 10')}",
                Severity.warning,
            )


def _bound(facts: Facts, node: NodeFacts) -> str:
    """What the others have, or half of the machine for all its nodes."""
    others = [bound for one in facts.up_nodes if (bound := number(one.info, "maxmemory"))]
    if others:
        return f"{max(others):.0f}"
    here = sum(facts.ip(one.address.host) == facts.ip(node.address.host) for one in facts.nodes)
    return f"{int((number(node.info, 'total_system_memory') or 2 << 30) / 2 / here) >> 20}mb"


def _unlike(facts: Facts) -> Iterator[Finding]:
    """Replicas that differ from their master, as far as that is right itself: what is wrong is no model."""
    top = facts.master_node
    if top is None or top.error:
        return
    bound, policy = number(top.info, "maxmemory"), top.info.get("maxmemory_policy", "")
    for node in facts.replicas:
        where, own = facts.label(node.address), number(node.info, "maxmemory")
        if bound and own and own != bound:
            yield found(
                f"{where}: maxmemory {size(own)}, its master has {size(bound)}",
                changed(node, f"maxmemory {bound:.0f}"),
            )
        kept = node.info.get("maxmemory_policy", policy)
        if policy.startswith("volatile-") and kept.startswith("volatile-") and kept != policy:
            yield found(
                f"{where}: maxmemory-policy {kept}, its master has {policy}",
                changed(node, f"maxmemory-policy {quoted(policy)}"),
            )
