"""Ask every server of a deployment, all at once, and only by commands that change nothing.

Three rounds: the servers of the URL, those that the sentinels name, those that the nodes name. Each server has
`PATIENCE` seconds, so dead and frozen ones hold nobody up. Beside the last two, the greetings of the sentinels are
listened to.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from evercache.clock import monotonic
from evercache.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    ProtocolError,
    ServerError,
    UnavailableError,
)
from evercache.net.blocking import BlockingWire
from evercache.net.names import resolver
from evercache.net.types import ConnectionOptions, Credentials
from evercache.ops.doctor.certificates import authorities_of, own_certificate, presented
from evercache.ops.doctor.facts import (
    Certificate,
    ClientFacts,
    Clock,
    Facts,
    Group,
    NodeFacts,
    SentinelFacts,
    address_of,
)
from evercache.ops.doctor.loading import QUESTIONS, left_out, reads_as_default
from evercache.ops.doctor.secrets import masked, scrubbed
from evercache.ops.greetings import current_epochs
from evercache.ops.replies import lines, text, texts, to_whole, whole
from evercache.ops.strain import COUNTERS
from evercache.protocol.shapes import understood
from evercache.protocol.types import Address, Command
from evercache.url import Location, parse_url

__all__ = ["PATIENCE", "SENTINEL_COMMANDS", "gather"]

#: Seconds for one server; there are three rounds.
PATIENCE = 1.2
#: Seconds between two looks at what happens, at least.
WINDOW = 1.0
#: What a sentinel runs at a node; on Valkey 9 it also has a master hand over, and ends that when it takes too long.
SENTINEL_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("PING",),
    ("INFO",),
    ("ROLE",),
    ("PUBLISH", "__sentinel__:hello", "x"),
    ("SUBSCRIBE", "__sentinel__:hello"),
    ("MULTI",),
    ("EXEC",),
    ("SLAVEOF", "NO", "ONE"),
    ("CONFIG", "REWRITE"),
    ("CLIENT", "SETNAME", "x"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "KILL"),
)
_SINCE_VALKEY_9: tuple[tuple[str, ...], ...] = (("FAILOVER", "ABORT"), ("CLIENT", "PAUSE", "1", "WRITE"))
#: A server that answers so runs, and does not let us look.
_REFUSALS = (AuthenticationFailed, AccessDenied)

#: Of the doctor's own connections.
_NAME = "evercache-doctor"
_T = TypeVar("_T")
_Server = TypeVar("_Server", NodeFacts, SentinelFacts)
Tables = tuple[dict[str, str], ...]


class _Talk:
    """One connection to one server, within the patience; what is refused is noted in `hidden`."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        self.address = address
        self.options = msgspec.structs.replace(
            options, connect_timeout=0.75 * PATIENCE, client_name=_NAME, max_connections=1
        )
        self.hidden: dict[str, str] = {}
        self.end = monotonic() + PATIENCE
        self._endpoint = BlockingWire().endpoint(address, self.options)

    def ask(self, *commands: Command) -> list[Any]:
        """The replies; errors are values. Raises `UnavailableError`."""
        return self._endpoint.execute(commands, self.end)

    def note(self, what: str, reply: Any, understand: Callable[[Any], _T], nothing: _T) -> _T:
        """What the reply says, or `nothing` and a note why."""
        if isinstance(reply, ServerError):
            self.hidden[what] = f"{what}: {str(reply).partition(chr(10))[0][:160]}"
            return nothing
        try:
            with understood(what):
                return understand(reply)
        except ProtocolError as error:
            self.hidden[what] = str(error)[:160]
            return nothing

    def close(self) -> None:
        self._endpoint.disconnect()


def gather(
    url: str | Location,
    *,
    names: Mapping[str, str] | None = None,
    client: Callable[[ClientFacts], ClientFacts] | None = None,
) -> Facts:
    """The facts about the deployment behind a URL; takes less than 4 seconds whatever the servers do.

    Raises `URLError` for a bad URL, `ConfigurationError` for `memory://`.
    """
    place = parse_url(url) if isinstance(url, str) else url
    if place.kind == "memory":
        raise ConfigurationError("memory:// has no servers to look at: give the URL of a deployment")
    begun, taken = monotonic(), time.time()
    with ThreadPoolExecutor(max_workers=32, thread_name_prefix="evercache-doctor") as pool:
        sentinels = list(pool.map(lambda a: _sentinel(a, place), dict.fromkeys(place.sentinels)))
        seen = {one.address for one in sentinels}
        more = [a for a in _others(sentinels, place) if a not in seen]
        nodes_of = dict.fromkeys((*place.nodes, *place.replicas, *_named_nodes(sentinels, place)))
        epochs = pool.submit(_epochs, sentinels, list(nodes_of), place)
        asked = [pool.submit(_sentinel, a, place) for a in more]
        nodes = list(pool.map(lambda a: _node(a, place), nodes_of))
        sentinels += [one.result() for one in asked]
        further = dict.fromkeys((*_listed(nodes), *_named_nodes(sentinels, place)))
        nodes += pool.map(lambda a: _node(a, place), [a for a in further if a not in nodes_of])
        sentinels = _with_epochs(sentinels, *epochs.result())
        of_sentinels = [pool.submit(_presented, one.address, place.sentinel_options) for one in sentinels]
        of_nodes = [pool.submit(_presented, one.address, place.node_options) for one in nodes]
        nodes = list(pool.map(lambda one: _again(one, place), nodes))
        sentinels = [_with_certificate(*pair) for pair in zip(sentinels, of_sentinels, strict=True)]
        nodes = [_with_certificate(*pair) for pair in zip(nodes, of_nodes, strict=True)]
        told = [*(one.address for one in sentinels), *(one.address for one in nodes), *_mentioned(sentinels)]
        hosts = {one.host for one in told}
        resolved = dict(zip(hosts, pool.map(_resolved, hosts), strict=True))
    facts = Facts(
        client=client(_client(place)) if client else _client(place),
        sentinels=tuple(sentinels),
        nodes=tuple(nodes),
        named=tuple(dict.fromkeys((*place.sentinels, *place.nodes, *place.replicas))),
        resolved={host: found for host, found in resolved.items() if host},
        names=dict(names or {}),
        taken=taken,
        seconds=monotonic() - begun,
    )
    return scrubbed(facts, _secrets(place))


def _client(place: Location) -> ClientFacts:
    # A cached call is bounded by its budget, whatever the URL says.
    timeout, tls = place.node_options.connect_timeout, place.node_options.tls
    facts = ClientFacts(place.redacted(), place.kind, place.service, timeout, 0.25)
    if tls is None:
        return facts
    return replace(
        facts,
        secure=True,
        certificate=own_certificate(tls),
        certificate_file=tls.certfile or "",
        authorities=authorities_of(tls),
        authorities_file=tls.ca_certs or "",
    )


def _secrets(place: Location) -> list[str]:
    options = (place.node_options, place.sentinel_options)
    return [one.credentials.password for one in options if one.credentials.password]


# -- whom to ask


def _others(sentinels: Iterable[SentinelFacts], place: Location) -> list[Address]:
    views = [group for one in sentinels if (group := one.group(place.service))]
    return list(dict.fromkeys(address_of(other) for group in views for other in group.sentinels))


def _named_nodes(sentinels: Iterable[SentinelFacts], place: Location) -> list[Address]:
    views = [group for one in sentinels if (group := one.group(place.service))]
    found = [address_of(entry) for group in views for entry in (group.master, *group.replicas)]
    return [one for one in dict.fromkeys(found) if one.port]


def _listed(nodes: Iterable[NodeFacts]) -> list[Address]:
    """Whom the nodes name: their replicas, and whom they follow."""
    found: list[Address] = []
    for node in nodes:
        if node.source is not None:
            found.append(node.source)
        for name, value in node.info.items():
            if name[:5] == "slave" and name[5:].isdigit():
                pairs = dict(part.split("=", 1) for part in value.split(",") if "=" in part)
                found.append(address_of(pairs))
    return [one for one in dict.fromkeys(found) if one.port]


def _mentioned(sentinels: Iterable[SentinelFacts]) -> list[Address]:
    groups = [group for one in sentinels for group in one.groups]
    return [address_of(entry) for g in groups for entry in (g.master, *g.replicas, *g.sentinels)]


def _resolved(host: str) -> tuple[str, ...]:
    try:
        records = resolver.records(Address(host, 1), monotonic() + 0.5)
    except OSError:
        return ()
    found = dict.fromkeys(str(where[0]) for _, where in records)
    # `localhost` is both: servers listen on the IPv4 address, mostly.
    return tuple(sorted(found, key=lambda ip: ":" in ip))


def _epochs(sentinels: list[SentinelFacts], nodes: list[Address], place: Location) -> tuple[dict[str, int], str]:
    """What the sentinels say of their epochs when they greet each other."""
    views = [group for one in sentinels if (group := one.group(place.service))]
    if not views:
        return {}, "no sentinel answers"
    return current_epochs(nodes, place.node_options, place.service or "", 1 + max(len(v.sentinels) for v in views))


def _with_epochs(sentinels: list[SentinelFacts], epochs: dict[str, int], why: str) -> list[SentinelFacts]:
    return [
        replace(one, epoch=epochs[one.myid])
        if one.myid in epochs
        else replace(one, hidden={**one.hidden, "epoch": f"its greetings: {why or 'it greeted nobody'}"})
        for one in sentinels
    ]


def _again(node: NodeFacts, place: Location) -> NodeFacts:
    """What its counters say now: what happens is the difference."""
    if node.error or node.clock is None:
        return node
    time.sleep(min(WINDOW, max(0.0, WINDOW - (time.time() - node.clock.received))))
    talk = _Talk(node.address, place.node_options)
    try:
        talk.ask(("PING",))  # to connect takes its time as well
        sent = time.time()
        (info,) = talk.ask(("INFO", "everything"))
        received = time.time()
    except UnavailableError:
        return node
    finally:
        talk.close()
    known: dict[str, str] = talk.note("INFO", info, lines, {})
    return replace(
        node,
        later={name: known[name] for name in COUNTERS if name in known},
        later_after=max(0.001, received - node.clock.received),
        answered_in=max(0.0, min(received - sent, node.clock.received - node.clock.sent)),
    )


def _presented(address: Address, options: ConnectionOptions) -> Certificate | str | None:
    if options.tls is None or address.path is not None:
        return None
    return presented(address, options.tls, monotonic() + PATIENCE)


def _with_certificate(server: _Server, shown: Future[Certificate | str | None]) -> _Server:
    seen = shown.result()
    if isinstance(seen, str):
        return replace(server, hidden={**server.hidden, "certificate": seen})
    return replace(server, certificate=seen)


# -- one server


def _sentinel(address: Address, place: Location) -> SentinelFacts:
    talk = _Talk(address, place.sentinel_options)
    try:
        sent = time.time()
        myid, masters, config, info = talk.ask(
            ("SENTINEL", "MYID"),
            ("SENTINEL", "MASTERS"),
            ("SENTINEL", "CONFIG", "GET", "*"),
            ("INFO", "everything"),
        )
        received = time.time()
        entries: Tables = talk.note("SENTINEL MASTERS", masters, _tables, ())
        known: dict[str, str] = talk.note("INFO", info, lines, {})
        facts = SentinelFacts(
            address,
            myid=talk.note("SENTINEL MYID", myid, text, ""),
            groups=tuple(_group(talk, entry) for entry in entries),
            config=masked(talk.note("SENTINEL CONFIG", config, texts, {})),
            info=_kept(known),
            clock=_clock(known, sent, received),
        )
    except UnavailableError as error:
        return SentinelFacts(address, error=_why(error, address), refused=isinstance(error, _REFUSALS))
    finally:
        talk.close()
    is_open = _open(address, place.sentinel_options, talk)
    return replace(facts, open=is_open, hidden=talk.hidden)


def _tables(reply: Any) -> Tables:
    return tuple(texts(one) for one in reply)


def _group(talk: _Talk, entry: dict[str, str]) -> Group:
    name = entry.get("name", "")
    replicas, sentinels, quorum = talk.ask(
        ("SENTINEL", "REPLICAS", name), ("SENTINEL", "SENTINELS", name), ("SENTINEL", "CKQUORUM", name)
    )

    return Group(
        name,
        entry,
        talk.note("SENTINEL REPLICAS", replicas, _tables, ()),
        talk.note("SENTINEL SENTINELS", sentinels, _tables, ()),
        str(quorum) if isinstance(quorum, ServerError) else text(quorum),
    )


def _node(address: Address, place: Location) -> NodeFacts:
    talk = _Talk(address, place.node_options)
    try:
        sent = time.time()
        role, info, config, user, clients = talk.ask(
            ("ROLE",), ("INFO", "everything"), ("CONFIG", "GET", "*"), ("ACL", "WHOAMI"), ("CLIENT", "LIST")
        )
        received = time.time()
        known: dict[str, str] = talk.note("INFO", info, lines, {})
        said = talk.note("ROLE", role, lambda reply: text(reply[0]), known.get("role", ""))
        rows = talk.note("CLIENT LIST", clients, _rows, None)
        facts = NodeFacts(
            address,
            role=said,
            info=_kept(known),
            config=masked(talk.note("CONFIG", config, texts, {})),
            user=talk.note("ACL", user, text, ""),
            clock=_clock(known, sent, received),
            sentinel_users=_users(talk, rows or [], known),
            as_default=None if rows is None else sum(row.get("user", "default") == "default" for row in rows),
            libraries=_libraries(rows or []),
        )
        facts = replace(facts, left_out=_left_out(talk, facts))
    except UnavailableError as error:
        return NodeFacts(address, error=_why(error, address), refused=isinstance(error, _REFUSALS))
    finally:
        talk.close()
    is_open = _open(address, place.node_options, talk)
    return replace(facts, open=is_open, hidden=talk.hidden)


def _rows(clients: Any) -> list[dict[str, str]]:
    return [dict(part.split("=", 1) for part in row.split() if "=" in part) for row in text(clients).splitlines()]


def _libraries(rows: list[dict[str, str]]) -> dict[str, int]:
    ours = [row for row in rows if row.get("lib-name") == "evercache" and row.get("name") != _NAME]
    return dict(Counter(row.get("lib-ver", "") or "unknown" for row in ours))


def _left_out(talk: _Talk, facts: NodeFacts) -> tuple[str, ...] | None:
    """What the default user may not do of what an append-only file has; None where that does not matter."""
    if not reads_as_default(*facts.version):
        return None
    replies = talk.ask(*(("ACL", "DRYRUN", "default", *question) for question in QUESTIONS.values()))
    found = left_out(["" if isinstance(one, AccessDenied) else text(one) for one in replies])
    if found is None:
        errors = [one for one in replies if isinstance(one, ServerError)]
        odd = next((one for one in errors if "not found" not in str(one)), "an answer that is not understood")
        talk.hidden["ACL DRYRUN"] = f"ACL DRYRUN: {str(odd).partition(chr(10))[0][:160]}"
    return found


def _users(talk: _Talk, rows: list[dict[str, str]], info: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Whether the users of the sentinels may do what a failover needs: `ACL DRYRUN`, which runs nothing."""
    users = {row.get("user", "default") for row in rows if row.get("name", "").startswith("sentinel-")}
    major = to_whole(info.get("valkey_version", "").partition(".")[0])
    commands = SENTINEL_COMMANDS + (_SINCE_VALKEY_9 if major >= 9 else ())
    found: dict[str, dict[str, str]] = {}
    for user in sorted(users):
        replies = talk.ask(*(("ACL", "DRYRUN", user, *command) for command in commands))
        refused = next((one for one in replies if isinstance(one, ServerError)), None)
        if refused is not None:
            talk.note("ACL DRYRUN", refused, text, "")
            continue
        found[user] = {" ".join(c): text(r) for c, r in zip(commands, replies, strict=True)}
    return found


def _open(address: Address, options: ConnectionOptions, talk: _Talk) -> bool | None:
    """Whether a stranger is answered."""
    if options.credentials == Credentials():
        return True
    stranger = _Talk(address, msgspec.structs.replace(options, credentials=Credentials()))
    stranger.end = monotonic() + PATIENCE / 2
    try:
        stranger.ask(("PING",))
    except AuthenticationFailed:
        return False
    except AccessDenied:
        return False  # logged in without a password, and refused everything that matters
    except UnavailableError as error:
        if "DENIED" in str(error):
            return False
        talk.hidden["open"] = f"a connection without a password: {_why(error, address)}"
        return None
    finally:
        stranger.close()
    return True


def _clock(info: Mapping[str, str], sent: float, received: float) -> Clock | None:
    micros = whole(info, "server_time_usec", -1)
    return Clock(micros / 1e6, sent, received) if micros >= 0 else None


def _kept(info: Mapping[str, str]) -> dict[str, str]:
    """INFO without what no check asks for and everybody would have to read past."""
    dropped = ("cmdstat_", "latency_percentiles_", "errorstat_", "module", "engine")
    return {name: value for name, value in info.items() if name in COUNTERS or not name.startswith(dropped)}


def _why(error: Exception, address: Address) -> str:
    text = str(error).partition("\n")[0].removeprefix(f"{address}: ")
    return text[:200] or type(error).__name__
