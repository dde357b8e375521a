"""Whether the replicas follow, and whether they can catch up after an outage."""

from __future__ import annotations

import re
from collections.abc import Iterator

from evercache.ops.doctor.checks.words import changed, cli, per_second, quoted, size
from evercache.ops.doctor.facts import Facts, NodeFacts, flags_of, number
from evercache.ops.doctor.registry import Finding, Severity, check, fine, found, unseen

__all__: list[str] = []

#: A replica that heard nothing for so many seconds, or is so far behind, is late.
LAG_SECONDS = 10.0
LAG_BYTES = 64 * 1024 * 1024
#: An outage that the backlog is to hold, and the least size that any site needs.
OUTAGE = 60.0
LEAST_BACKLOG = 1024 * 1024
LEAST_OUTPUT = 32 * 1024 * 1024
#: Bytes a second at which a snapshot reaches a replica.
_TRANSFER = 50e6


@check(
    "replicas-follow",
    "every replica follows that master, up and not late",
    Severity.critical,
    why="A replica whose link is broken still counts as healthy to the sentinels and to most clients: every new "
    "key reads as missing there, and every old one stays.",
    mend="`REPLICAOF <host> <port>` of the master; if it does so and the link stays down, see its log",
    of="nodes",
)
def replicas_follow(facts: Facts) -> Iterator[Finding]:
    """What each says of itself: Sentinel's flags say nothing of a broken link."""
    master, top = facts.master, facts.master_node
    for node in facts.replicas:
        where, source = facts.label(node.address), node.source
        if master is None or facts.place(node.address) == facts.place(master):
            continue  # other checks say so
        if source is not None and facts.place(source) != facts.place(master):
            if facts.primary is None or facts.primary is not top:
                continue  # what is named takes no writes: nobody is better off following it
            yield found(
                f"{where} follows {facts.label(source)}, not {facts.label(master)}",
                cli(node.address, f"REPLICAOF {quoted(master.host)} {master.port}"),
            )
        elif node.info.get("master_link_status") != "up":
            yield found(
                f"{where}: its link to {facts.label(master)} is down{_since(node)}", _mend_of_link(node, facts)
            )
        elif (heard := number(node.info, "master_last_io_seconds_ago")) is not None and heard > LAG_SECONDS:
            yield found(f"{where} received nothing from its master for {heard:.0f} s", _mend_of_link(node, facts))
        else:
            behind = _offset(top, "master_repl_offset") - _offset(node, "slave_repl_offset")
            if top is not None and not top.error and behind > LAG_BYTES:
                yield found(
                    f"{where} is {size(behind)} behind its master",
                    "see its load and its network; INFO replication shows whether it catches up",
                )


def _since(node: NodeFacts) -> str:
    if node.info.get("master_sync_in_progress") == "1":
        return " (it copies the data now)"
    down = number(node.info, "master_link_down_since_seconds")
    return f" for {down:.0f} s" if down is not None and down >= 0 else ""


def _mend_of_link(node: NodeFacts, facts: Facts) -> str:
    top = facts.master_node
    if top is not None and not top.error and top.open is False and node.setting("masterauth") == "":
        return changed(node, "masterauth <password>")
    return f"see its log\n{cli(node.address, 'INFO replication')}"


def _offset(node: NodeFacts | None, name: str) -> float:
    return (number(node.info, name) or 0.0) if node is not None else 0.0


@check(
    "backlog",
    "the backlog holds an outage; the output buffer is no loop",
    Severity.warning,
    why="A replica that was away for longer than the backlog reaches copies everything anew; if its output "
    "buffer is smaller than what is written meanwhile, the copy is cut off and begins again, for ever.",
    mend='`CONFIG SET repl-backlog-size …`, `CONFIG SET client-output-buffer-limit "replica … … 60"`, on every '
    "node",
    of="nodes",
)
def backlog(facts: Facts) -> Iterator[Finding]:
    """For a minute of writes at the rate that the master has had."""
    if not facts.replicas and len(facts.nodes) < 2:
        yield fine("there are no replicas")
        return
    rate = _written(facts.master_node)
    for node in facts.up_nodes:
        where = facts.label(node.address)
        kept = number(node.info, "repl_backlog_size")
        need = max(rate * OUTAGE, LEAST_BACKLOG)
        if kept is None:
            yield unseen(f"{where}: INFO shows no repl_backlog_size")
        elif kept < need:
            yield found(
                f"{where}: repl-backlog-size {size(kept)} holds {_duration(kept, rate)}",
                changed(node, f"repl-backlog-size {_round(need)}mb"),
            )
        limits = node.config.get("client-output-buffer-limit")
        if limits is None:
            yield unseen(f"{where}: {node.hidden.get('CONFIG', 'CONFIG shows no client-output-buffer-limit')}")
            continue
        least = max(rate * max(OUTAGE, (number(node.info, "used_memory_dataset") or 0.0) / _TRANSFER), LEAST_OUTPUT)
        hard, soft, seconds = _output_limit(limits)
        if 0 < hard < least or (0 < soft < least / 2 and seconds < OUTAGE):
            most = _round(max(least, 256 << 20))
            yield found(
                f"{where}: the output buffer of a replica is cut at {size(hard)} ({size(soft)} for {seconds} s)",
                changed(node, f'client-output-buffer-limit "replica {most}mb {most // 4}mb 60"'),
            )


def _written(master: NodeFacts | None) -> float:
    """Bytes a second that the master sends to one replica: the mean of its life, or now, whichever is more."""
    if master is None or master.error:
        return 0.0
    info = master.info
    replicas = max(number(info, "connected_slaves") or 1.0, 1.0)
    uptime = number(info, "uptime_in_seconds") or 0.0
    sent = number(info, "total_net_repl_output_bytes") or 0.0
    # What was sent includes the first copies; soon after a start they would drown the rest.
    mean = sent / uptime / replicas if uptime > 600 else 0.0
    now = (number(info, "instantaneous_output_repl_kbps") or 0.0) * 1024 / replicas
    return max(mean, now)


def _duration(kept: float, rate: float) -> str:
    if not rate:
        return f"less than the least that is sensible, {size(LEAST_BACKLOG)}"
    return f"{kept / rate:.0f} s at {per_second(rate)}"


def _round(count: float) -> int:
    """Megabytes, rounded up to a power of two."""
    return 1 << max(0, (int(count) - 1).bit_length() - 20)


def _output_limit(text: str) -> tuple[int, int, int]:
    """The hard and soft limit for replicas, and the seconds of the soft one."""
    match = re.search(r"\b(?:replica|slave) (\d{1,18}) (\d{1,18}) (\d{1,18})", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


@check(
    "promotable",
    "a replica can be promoted, and none is needed for each write",
    Severity.critical,
    why="Without a replica of a priority above 0 nothing can take the master's place. With min-replicas-to-write "
    "as high as the number of replicas, the loss of one stops all writes.",
    mend="`CONFIG SET replica-priority 100` on a replica; `CONFIG SET min-replicas-to-write <fewer than replicas>`",
    sentinel=True,
    of="nodes",
)
def promotable(facts: Facts) -> Iterator[Finding]:
    """Of those that answer; and what the sentinels say of the others."""
    master = facts.master
    known = {
        facts.place(one.address)
        for one in facts.nodes
        if master is None or facts.place(one.address) != facts.place(master)
    }
    priorities = {one.address: number(one.info, "slave_priority") for one in facts.replicas}
    service = facts.client.service
    if not known:
        line = f"replicaof {master.host} {master.port}" if master else "replicaof <host> <port>"
        yield found(
            f"the master of {service!r} has no replica: nothing can take its place",
            f"start a replica on another host, with `{line}`",
        )
    elif priorities and all(value == 0 for value in priorities.values()):
        first = next(iter(facts.replicas))
        yield found("every replica has priority 0: none may be promoted", changed(first, "replica-priority 100"))
    for node in facts.up_nodes:
        least = node.setting("min-replicas-to-write")
        if least is None or not (least.isascii() and least.isdigit()) or len(least) > 9:
            yield unseen(f"{facts.label(node.address)}: {node.hidden.get('CONFIG', 'CONFIG is hidden')}")
        elif known and int(least) >= len(known):
            yield found(
                f"{facts.label(node.address)}: min-replicas-to-write {least} with {len(known)} replicas: "
                "the loss of one stops all writes",
                changed(node, f"min-replicas-to-write {max(0, len(known) - 1)}"),
                Severity.warning,
            )
    for sentinel, group in facts.groups():
        if "SENTINEL REPLICAS" in sentinel.hidden:
            yield unseen(f"{facts.label(sentinel.address)}: {sentinel.hidden['SENTINEL REPLICAS']}")
        elif not any("s_down" not in flags_of(one) for one in group.replicas) and known:
            yield found(
                f"{facts.label(sentinel.address)} sees no replica that it could promote",
                "see the checks `replicas-follow` and `dead-remembered`",
            )


@check(
    "versions",
    "no replica is older than its master, and all run one version",
    Severity.warning,
    why="An older server cannot read the files and copies of a newer one. Such a replica follows until it must "
    "copy everything anew, and never again after that. So an upgrade begins with the replicas, and a rollback is "
    "possible until the master has the new version.",
    mend="upgrade the replica; or make an older one master while it still follows: docs/care.md#rollback",
    of="nodes",
)
def versions(facts: Facts) -> Iterator[Finding]:
    """By the numbers before the last dot: releases that differ in the last one read each other."""
    for node in facts.up_nodes:
        if not node.version[0]:
            yield unseen(f"{facts.label(node.address)}: {node.hidden.get('INFO', 'INFO shows no version')}")
    top = facts.primary
    if top is None or not top.version[0]:
        return
    mixed = {_named_version(node) for node in facts.up_nodes if node.version[0]}
    for node in facts.replicas:
        kind, numbers = node.version
        if kind == top.version[0] and numbers[:2] < top.version[1][:2]:
            yield found(
                f"{facts.label(node.address)} ({_named_version(node)}) is older than its master "
                f"({_named_version(top)})",
                f"upgrade {facts.label(node.address)}; its data goes with it",
            )
            mixed.clear()
    if len(mixed) > 1:
        yield found(
            f"the nodes run {' and '.join(sorted(mixed))}",
            "go on with the upgrade, the master last; or roll back: docs/care.md#rollback",
            Severity.note,
        )


def _named_version(node: NodeFacts) -> str:
    kind, numbers = node.version
    return f"{kind} {'.'.join(map(str, numbers[:2]))}"
