"""Passwords: whether nodes can follow one another, sentinels can act, and strangers cannot."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor.checks.words import cli
from evercache.ops.doctor.facts import Facts, NodeFacts, SentinelFacts, Texts, address_of, is_loopback, number
from evercache.ops.doctor.registry import Finding, Severity, check, found, unseen
from evercache.wire.types import Address

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
                cli(node.address, "CONFIG SET requirepass <password>, then CONFIG REWRITE"),
            )
        if not closed or (len(facts.nodes) == 1 and not facts.watched):
            continue
        given = node.setting("masterauth")
        if given is None:
            yield unseen(f"{where}: masterauth: {node.hidden.get('CONFIG', 'CONFIG is hidden')}")
        elif not given:
            yield found(
                f"{where} has no masterauth: it cannot follow {facts.label(_other(node, closed))}",
                cli(node.address, "CONFIG SET masterauth <password>, then CONFIG REWRITE"),
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
            setting = f"SENTINEL SET {facts.client.service} auth-pass <password>"
        first = refused[0][0].address
        yield found(
            f"{kind} {facts.label(address)} refuses {names}: errors for {refused[0][1]:.0f} s",
            f"{cli(first)} {setting}" if len(refused) == 1 else f"on each of them: {setting}",
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
                rules = " ".join(dict.fromkeys(_rule(command) for command in denied))
                yield found(
                    f"{where}: the user {user} of the sentinels may not run {', '.join(denied)}",
                    cli(node.address, f"ACL SETUSER {user} {rules}") + ", then ACL SAVE or CONFIG REWRITE",
                )


def _rule(command: str) -> str:
    words = command.lower().split()
    if words[0] in {"publish", "subscribe"}:
        return f"allchannels +{words[0]}"
    return f"+{words[0]}|{words[1]}" if words[0] in {"client", "config", "script"} else f"+{words[0]}"


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
            mend = cli(server.address, "CONFIG SET requirepass <password>")
        yield found(seen, f"{mend}; or bind 127.0.0.1")


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
