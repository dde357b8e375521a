"""How the application talks to the servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from evercache.ops.doctor.facts import Facts
from evercache.ops.doctor.registry import Finding, Severity, check, found, unseen

__all__: list[str] = []

#: Seconds after which a page counts as hanging.
LONGEST = 1.0


@check(
    "timeouts",
    "the client has time-outs, of a second at most",
    Severity.warning,
    why="A frozen server keeps its connections and answers nothing. A client without a time-out waits for ever, "
    "and with it the page; a long one makes every page that long.",
    mend="`connect_timeout=0.2` in the URL, `budget=0.25` of the cache; elsewhere `socket_timeout=1`",
)
def timeouts(facts: Facts) -> Iterator[Finding]:
    """For a connection, and for an answer."""
    client = facts.client
    for seconds, what, setting in (
        (client.connect_timeout, "a connection", "connect_timeout=0.2 in the URL"),
        (client.answer_timeout, "an answer", "a time-out of 1 s: REDIS_SOCKET_TIMEOUT = 1, or socket_timeout=1"),
    ):
        if seconds is None:
            yield found(
                f"{client.source}: no time-out for {what}: a frozen server is waited for without end", setting
            )
        elif seconds > LONGEST:
            yield found(f"{client.source}: {seconds:g} s for {what}", setting)


@check(
    "libraries",
    "all processes run one version of evercache",
    Severity.note,
    why="Two versions of the library share a namespace without harm. What the later one writes the earlier one "
    "leaves alone and computes for itself, so a rollout that is left half-way costs hits.",
    mend="finish the rollout, or roll back: docs/care.md#rollback",
    of="nodes",
)
def libraries(facts: Facts) -> Iterator[Finding]:
    """By what processes say of themselves when they connect: Redis 7.2 and later, Valkey."""
    count: Counter[str] = Counter()
    for node in facts.up_nodes:
        count.update(node.libraries)
        if "CLIENT LIST" in node.hidden:
            yield unseen(f"{facts.label(node.address)}: {node.hidden['CLIENT LIST']}")
    if len(count) > 1:
        several = ", ".join(f"{version} ({number} connections)" for version, number in sorted(count.items()))
        yield found(f"versions of evercache: {several}", "finish the rollout, or roll back: docs/care.md#rollback")
