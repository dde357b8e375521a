"""How the application talks to the servers."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor.facts import Facts
from evercache.ops.doctor.registry import Finding, Severity, check, found

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
