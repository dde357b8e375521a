"""Passwords and certificates: whether nodes can follow one another, sentinels can act, and strangers cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from evercache.ops.doctor.certificates import CRITICAL_DAYS, WARNING_DAYS
from evercache.ops.doctor.checks.words import changed, cli, quoted, users_kept
from evercache.ops.doctor.facts import (
    Certificate,
    Facts,
    NodeFacts,
    SentinelFacts,
    Texts,
    address_of,
    is_loopback,
    number,
)
from evercache.ops.doctor.lasting import rendered
from evercache.ops.doctor.registry import HELD_FOR_DEAD, Finding, Severity, check, fine, found, unseen
from evercache.protocol.types import Address

__all__: list[str] = []


@check(
    "passwords",
    "passwords on every node or on none, and all of them work",
    Severity.critical,
    why="After a failover the old master must follow the new one: without masterauth it never can, and without "
    "requirepass on the new one it is open. A sentinel whose password is refused sees a dead master, or no "
    "failover.",
    mend="the same `requirepass` and `masterauth` on every node; `SENTINEL SET <name> auth-pass` on every sentinel",
    of="nodes",
)
def passwords(facts: Facts) -> Iterator[Finding]:
    """As soon as one node asks for a password, all must ask, and all must have one to give."""
    closed = [one for one in facts.up_nodes if one.open is False]
    for node in facts.up_nodes:
        where = facts.label(node.address)
        if node.open is None:
            yield unseen(f"{where}: {node.hidden.get('open', 'whether it asks for a password')}")
        elif closed and node.open:
            yield found(
                f"{where} asks for no password, {facts.label(closed[0].address)} does",
                changed(node, "requirepass <password>"),
            )
        if not closed or (len(facts.nodes) == 1 and not facts.watched):
            continue
        given = node.setting("masterauth")
        if given is None:
            yield unseen(f"{where}: masterauth: {node.hidden.get('CONFIG', 'CONFIG is hidden')}")
        elif not given:
            yield found(
                f"{where} has no masterauth: it cannot follow {facts.label(_other(node, closed))}",
                changed(node, "masterauth <password>"),
            )
    yield from _refused(facts)


def _other(node: NodeFacts, closed: list[NodeFacts]) -> Address:
    return next((one.address for one in closed if one is not node), node.address)


def _refused(facts: Facts) -> Iterator[Finding]:
    """A server that answers a sentinel's PING, and not with PONG: its password is wrong, or its user may not."""
    refusing: dict[tuple[str, Address], list[tuple[SentinelFacts, float]]] = {}
    for sentinel, group in facts.groups():
        for kind, entries in (("node", (group.master, *group.replicas)), ("sentinel", group.sentinels)):
            for entry in filter(_answers_badly, entries):
                seconds = _seconds(entry, "last-ok-ping-reply")
                refusing.setdefault((kind, address_of(entry)), []).append((sentinel, seconds))
    for (kind, address), refused in refusing.items():
        node = facts.node(address)
        if node is not None and (node.unwritten or node.info.get("loading") == "1"):
            continue  # it answers PING by an error of another kind
        names = " and ".join(facts.label(one.address) for one, _ in refused)
        setting = "SENTINEL CONFIG SET sentinel-pass <password>"
        if kind == "node":
            setting = f"SENTINEL SET {quoted(facts.client.service)} auth-pass <password>"
        yield found(
            f"{kind} {facts.label(address)} refuses {names}: errors for {refused[0][1]:.0f} s",
            "\n".join(cli(one.address, setting) for one, _ in refused),
        )


def _seconds(entry: Texts, name: str) -> float:
    return (number(entry, name) or 0.0) / 1000


def _answers_badly(entry: Texts) -> bool:
    good, any_ = _seconds(entry, "last-ok-ping-reply"), _seconds(entry, "last-ping-reply")
    patience = max(_seconds(entry, "down-after-milliseconds"), 2.0)
    return good > patience and any_ < good / 2


@check(
    "sentinel-acl",
    "the sentinels' user may do all that a failover needs",
    Severity.critical,
    why="A failover ends half-way when the sentinels' user lacks a command. Valkey 9 sends FAILOVER and CLIENT "
    "as well, which lists written for earlier versions do not have.",
    mend="`ACL SETUSER <user> allchannels +multi +exec +slaveof +ping +info +role +publish +subscribe "
    "+config|rewrite +script|kill +client +failover` on every node",
    sentinel=True,
    of="nodes",
)
def sentinel_acl(facts: Facts) -> Iterator[Finding]:
    """By `ACL DRYRUN` for each user that a sentinel is logged in as, on every node."""
    for node in facts.up_nodes:
        where = facts.label(node.address)
        for name in ("CLIENT LIST", "ACL DRYRUN"):
            if name in node.hidden:
                yield unseen(f"{where}: {node.hidden[name]}")
        if not node.sentinel_users and not {"CLIENT LIST", "ACL DRYRUN"} & set(node.hidden):
            yield unseen(f"{where}: no sentinel is connected to it")
        for user, commands in node.sentinel_users.items():
            denied = [command for command, reply in commands.items() if reply != "OK"]
            if denied:
                rules = " ".join(map(quoted, dict.fromkeys(one for command in denied for one in _rules(command))))
                yield found(
                    f"{where}: the user {user} of the sentinels may not run {', '.join(denied)}",
                    f"{cli(node.address, f'ACL SETUSER {quoted(user)} {rules}')}\n{users_kept(node)}",
                )


def _rules(command: str) -> list[str]:
    words = command.lower().split()
    if words[0] in {"publish", "subscribe"}:
        return ["allchannels", f"+{words[0]}"]
    return [f"+{words[0]}|{words[1]}" if words[0] in {"client", "config", "script"} else f"+{words[0]}"]


@check(
    "open-door",
    "nothing listens beyond loopback without a password",
    Severity.critical,
    why="Anybody who reaches such a server reads and changes everything, and can make it write files on its host. "
    "Such a sentinel promotes any server at a command.",
    mend="`requirepass`; `bind` to the addresses that are needed; `protected-mode yes`; a firewall",
    of="servers",
)
def open_door(facts: Facts) -> Iterator[Finding]:
    """Answers a stranger, and listens on more than loopback."""
    for server in facts.up_servers:
        where = facts.label(server.address)
        if server.open is None:
            yield unseen(f"{where}: {server.hidden.get('open', 'whether it asks for a password')}")
        if not server.open:
            continue
        bound, protected = _bound(server), _protected(server)
        if not is_loopback(facts.ip(server.address.host)) and server.address.path is None:
            seen = f"{where} answers from here without a password"
        elif bound is None:
            yield unseen(f"{where} asks for no password; the addresses that it listens on cannot be seen")
            continue
        elif all(is_loopback(one) for one in bound) or protected:
            continue
        else:
            seen = f"{where} asks for no password, and listens on {' '.join(bound) or 'every address'}"
        mend = "requirepass in its file, SENTINEL CONFIG SET sentinel-pass <password> on every sentinel"
        if isinstance(server, NodeFacts):
            mend = changed(server, "requirepass <password>")
        yield found(seen, f"{mend}\nor bind 127.0.0.1")


def _bound(server: NodeFacts | SentinelFacts) -> list[str] | None:
    """The addresses that it listens on; None where that is not told, empty for all."""
    if isinstance(server, NodeFacts) and "bind" in server.config:
        return server.config["bind"].split() or ["*"]
    listeners = [value for name, value in server.info.items() if name.startswith("listener") and "tcp" in value]
    if not listeners:
        return None
    pairs = [part.partition("=") for value in listeners for part in value.split(",")]
    return [value for name, _, value in pairs if name == "bind"] or ["*"]


def _protected(server: NodeFacts | SentinelFacts) -> bool:
    """Whether it refuses strangers that are not on its machine; sentinels do not, unless told to."""
    return isinstance(server, NodeFacts) and server.config.get("protected-mode") == "yes"


@check(
    "certificates",
    "certificates are for their servers, and do not end soon",
    Severity.critical,
    why="Once a certificate has ended, no client, replica or sentinel connects to its server any more. "
    "Connections that are open go on, so nobody notices until they break: at the next failover, or all at once. "
    "When an authority ends, all that it has issued ends with it. Found from 30 days before the end, critical "
    "from 7.",
    mend="renew it; at a node `CONFIG SET tls-cert-file <file>` reads certificate, key and authority again, a "
    "sentinel needs a restart: docs/care.md#certificates",
    of="servers",
    explains=HELD_FOR_DEAD,  # nobody connects to a server whose certificate is not accepted
)
def certificates(facts: Facts) -> Iterator[Finding]:
    """What each server presents, what the client presents, and the authorities of these."""
    client = facts.client
    if not client.secure:
        yield fine("the URL asks for no TLS")
        return
    used: set[str] = set()
    for server in facts.servers:
        where, shown = facts.label(server.address), server.certificate
        if shown is None:
            if not server.error:
                yield unseen(f"{where}: {server.hidden.get('certificate', 'its certificate was not asked for')}")
            continue
        used.add(shown.issuer)
        file = _certificate_file(facts, server)
        mend = _replacement(server, file)
        of_it = f"{where}: its certificate{f' ({file})' if file else ''}"
        refused = where if server.error and not shown.valid(facts.taken) else ""
        if not shown.fits:
            yield found(
                f"{of_it} is for {' '.join(shown.names) or 'nobody'}, not for {server.address.host}",
                mend,
                disables=refused,
            )
        for one in _ending(of_it, shown, facts.taken, mend):
            yield replace(one, disables=refused)
    if client.certificate is not None:
        used.add(client.certificate.issuer)
        mend = "put a new one and its key into the files that the URL names: they are read for the next connection"
        yield from _ending(
            f"the client's certificate ({client.certificate_file})", client.certificate, facts.taken, mend
        )
    yield from _authorities(facts, used)


def _replacement(server: NodeFacts | SentinelFacts, file: str) -> str:
    place = f"{file} and the file of its key" if file else "the files of its tls-cert-file and tls-key-file"
    again = "restart this sentinel, and no two at once: it has no command for that"
    if isinstance(server, NodeFacts):
        again = cli(server.address, f"CONFIG SET tls-cert-file {file or '<file>'}")
    if rendered(server):
        place = "`tls` beside its reload.sh"
        again = "run reload.sh" + ("" if isinstance(server, NodeFacts) else f", and {again}")
    return f"put a new one for {server.address.host} into {place}, then {again}"


def _authorities(facts: Facts, used: set[str]) -> Iterator[Finding]:
    """Those that issued what is used. Of several with one name, as while one replaces another, the last to end."""
    known: dict[str, Certificate] = {}
    for one in sorted(facts.client.authorities, key=lambda one: one.ends):
        known[one.name] = one
    for name, one in known.items():
        if name in used or any(other.issuer == name for other in known.values() if other.name in used):
            yield from _ending(
                f"the authority {name} ({facts.client.authorities_file})",
                one,
                facts.taken,
                "have the new one beside the old in the file of every server and client, then replace the "
                "certificates: docs/care.md#certificates",
            )


def _ending(what: str, one: Certificate, now: float, mend: str) -> Iterator[Finding]:
    days = (one.ends - now) / 86400
    if now < one.begins:
        yield found(f"{what} begins on {_date(one.begins)} only: a clock may be wrong", mend)
    elif days <= 0:
        yield found(f"{what} ended on {_date(one.ends)}", mend)
    elif days <= WARNING_DAYS:
        severity = Severity.critical if days <= CRITICAL_DAYS else Severity.warning
        yield found(f"{what} ends on {_date(one.ends)}, in {days:.0f} days", mend, severity)


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _certificate_file(facts: Facts, server: NodeFacts | SentinelFacts) -> str:
    """Where it has its certificate; a sentinel does not tell, but a shell on its host does."""
    if isinstance(server, NodeFacts):
        return server.config.get("tls-cert-file", "")
    process = facts.process(server.address)
    return dict(process.directives).get("tls-cert-file", "") if process is not None else ""
