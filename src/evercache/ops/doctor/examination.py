"""Run every check on the facts, attribute consequences to their cause, and judge the deployment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from evercache.ops.doctor.checks import SUBJECTS
from evercache.ops.doctor.facts import Facts, NodeFacts, SentinelFacts
from evercache.ops.doctor.lasting import lasting, rendered
from evercache.ops.doctor.registry import REGISTERED, Check, Finding, Of, Result, fine

__all__ = ["examine", "registered", "verdict"]


def registered() -> tuple[Check, ...]:
    """All checks, in the order in which they are shown."""
    order = [name.rpartition(".")[2] for name in SUBJECTS]
    return tuple(sorted(REGISTERED, key=lambda one: order.index(one.subject)))


def examine(facts: Facts) -> tuple[Result, ...]:
    """Every check on these facts."""
    results = [Result(one, _findings(one, facts)) for one in registered()]
    made = [server for server in facts.up_servers if rendered(server)]
    if made:
        results = [
            replace(
                one, findings=tuple(replace(f, mend=lasting(f.mend, made)) if f.mend else f for f in one.findings)
            )
            for one in results
        ]
    for cause in results:
        results = [_explained(one, cause) for one in results]
    return tuple(results)


def _explained(result: Result, cause: Result) -> Result:
    """The result, its findings marked that follow from what another check has found: they are mended there."""
    disabled = [one.disables for one in cause.findings if one.disables]
    if not disabled or result.check.name not in cause.check.explains:
        return result

    def follows(one: Finding) -> bool:
        return one.state == "found" and any(label in one.seen for label in disabled)

    findings = (replace(one, cause=cause.check.name) if follows(one) else one for one in result.findings)
    return replace(result, findings=tuple(findings))


def _findings(one: Check, facts: Facts) -> tuple[Finding, ...]:
    if one.sentinel and not facts.watched:
        return (fine("there are no sentinels in this deployment"),)
    if one.sentinel and not one.unknown and not any(True for _ in facts.groups()):
        nobody = f"no sentinel answers that knows {facts.client.service!r}"
        return (Finding("cannot see", nobody, silent=True),)
    return (*one.run(facts), *_silent(one, facts)) or (fine(""),)


def _silent(one: Check, facts: Facts) -> Iterator[Finding]:
    servers: dict[Of, tuple[NodeFacts | SentinelFacts, ...]] = {
        "": (),
        "nodes": facts.nodes,
        "sentinels": facts.sentinels,
        "servers": facts.servers,
    }
    for server in servers[one.of]:
        if server.error:
            yield Finding("cannot see", f"{facts.label(server.address)}: {server.error}", silent=True)
    if one.of and not servers[one.of]:
        yield Finding("cannot see", "no server is known", silent=True)


def verdict(facts: Facts, results: Iterable[Result]) -> tuple[str, str]:
    """The state of the deployment ("sound", "unseen" or a severity), and the reason where no server answered.

    A deployment of which no server answers is critical. It is "unseen" only if the question could not be asked: a
    server runs but refuses the user or the password, or no server was named.
    """
    if not facts.up_servers:
        refusal = next((one.error for one in facts.servers if one.refused), "")
        if refusal or not facts.servers:
            return "unseen", refusal or "no server was asked"
        return "critical", f"no server answers ({facts.servers[0].error})"
    gravest = max((one.severity for one in results if one.severity is not None), default=None)
    return "sound" if gravest is None else gravest.name, ""
