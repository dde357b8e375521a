"""The sentinels: how many, where, whether they agree, and what they remember."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from evercache.ops.doctor.checks.words import cli, quoted
from evercache.ops.doctor.facts import (
    Facts,
    SentinelFacts,
    Texts,
    address_of,
    epoch_of,
    flags_of,
    number,
    to_whole,
    whole,
)
from evercache.ops.doctor.registry import Finding, Severity, check, fine, found, unseen
from evercache.ops.greetings import RESET, trouble
from evercache.protocol.topology import ELECTION, LONGEST_WAIT
from evercache.protocol.types import Address

__all__: list[str] = []

#: Settings of a group that all sentinels should have alike.
_COPIED = ("down-after-milliseconds", "failover-timeout", "parallel-syncs")
_DOWN = frozenset({"s_down", "o_down", "disconnected"})


@check(
    "three-sentinels",
    "at least three sentinels",
    Severity.critical,
    why="Two cannot form a majority when one of them is lost, and one cannot when it is lost itself. Those that "
    "do not know one another have no majority together.",
    mend="run a sentinel on each of three hosts, with the same `sentinel monitor` line",
    sentinel=True,
)
def three_sentinels(facts: Facts) -> Iterator[Finding]:
    """Those that answer and those that are only known; and whether they know one another."""
    known = facts.known_sentinels
    hidden = [why for one, _ in facts.groups() if (why := one.hidden.get("SENTINEL SENTINELS"))]
    if hidden:
        yield unseen(f"which others a sentinel knows: {hidden[0]}")
    elif len(known) < 3:
        where = ", ".join(facts.label(one) for one in known)
        service, master = facts.client.service, facts.master
        line = f"sentinel monitor {service} {master.host} {master.port} 2" if master else "sentinel monitor …"
        yield found(
            f"{len(known)} sentinel{'s' * (len(known) != 1)}: {where}",
            f"start {3 - len(known)} more on other hosts, with `{line}`",
        )
    for sentinel, group in facts.groups():
        ids = {other.get("runid", "") for other in group.sentinels} | {sentinel.myid}
        strangers = [one for one, _ in facts.groups() if one.myid and one.myid not in ids]
        if strangers and "SENTINEL SENTINELS" not in sentinel.hidden:
            yield found(
                f"{facts.label(sentinel.address)} does not know "
                + " and ".join(facts.label(one.address) for one in strangers),
                "look again in 5 s; they meet by messages at the master: each must reach it, with the same name, "
                "address and password",
            )


@check(
    "sentinel-hosts",
    "sentinels on distinct hosts",
    Severity.critical,
    why="When the host that has most of the sentinels is lost, the majority is lost with it, and nothing is "
    "promoted.",
    mend="move sentinels so that no host has half of them or more",
    sentinel=True,
)
def sentinel_hosts(facts: Facts) -> Iterator[Finding]:
    """No host may take the majority with it. One loopback address for all is one machine, by intent."""
    known = facts.known_sentinels
    hosts = Counter(facts.ip(one.host) for one in known)
    if facts.single_machine:
        yield fine("everything listens on one loopback address: one machine, so there are no hosts to compare")
        return
    for host, count in hosts.items():
        if count > 1 and len(known) - count < len(known) // 2 + 1:
            yield found(
                f"{count} of {len(known)} sentinels are on {host}: without it there is no majority",
                f"move {'one' if count == 2 else count - 1} of the sentinels of {host} to another host",
            )


@check(
    "ckquorum",
    "quorum and majority can be reached",
    Severity.critical,
    why="A sentinel that cannot reach the quorum or the majority starts no failover: a dead master stays dead.",
    mend="start the sentinels that are down, or lower the quorum: `SENTINEL SET <name> quorum <n>` on each",
    sentinel=True,
    unknown=True,
    of="sentinels",
)
def ckquorum(facts: Facts) -> Iterator[Finding]:
    """What each sentinel itself says to `SENTINEL CKQUORUM`."""
    service = facts.client.service
    for sentinel in facts.sentinels:
        where = facts.label(sentinel.address)
        if sentinel.error:
            continue
        group = sentinel.group(service)
        if group is None and "SENTINEL MASTERS" in sentinel.hidden:
            yield unseen(f"{where}: {sentinel.hidden['SENTINEL MASTERS']}")
        elif group is None:
            known = " and ".join(one.name for one in sentinel.groups) or "nothing"
            mend = _monitor(facts, sentinel)
            if not any(True for _ in facts.groups()):
                mend = f"name {known} in the URL; or have it watch {service}\n{mend}"
            yield found(f"{where} does not know {service!r}; it watches {known}", mend)
        elif not group.ckquorum.startswith("OK"):
            if "NOPERM" in group.ckquorum or "unknown" in group.ckquorum.lower():
                yield unseen(f"{where}: {group.ckquorum}")
                continue
            total, quorum = len(facts.known_sentinels), whole(group.master, "quorum")
            mend = f"start the sentinels that are down\n{cli(sentinel.address)} SENTINEL CKQUORUM {quoted(service)}"
            if quorum > total:
                mend = f"{cli(sentinel.address)} SENTINEL SET {quoted(service)} quorum {total // 2 + 1}"
            yield found(f"{where}: {_said(group.ckquorum)}", mend)


def _monitor(facts: Facts, sentinel: SentinelFacts) -> str:
    """The command lines that have a sentinel watch the present master, with the settings of the others."""
    service, master = quoted(facts.client.service), facts.master
    if master is None:
        return f"{cli(sentinel.address)} SENTINEL MONITOR {service} <host> <port> <quorum>"
    others = [group.master for one, group in facts.groups() if one is not sentinel]
    model = next((one for one in others if facts.place(address_of(one)) == facts.place(master)), {})
    quorum = whole(model, "quorum") or (len(facts.known_sentinels) // 2 + 1)
    settings = [f"{name} {quoted(model[name])}" for name in _COPIED if name in model]
    if any(node.open is False for node in facts.up_nodes):
        settings.insert(0, "auth-pass <password>")
    return "\n".join(
        [
            f"{cli(sentinel.address)} SENTINEL MONITOR {service} {quoted(master.host)} {master.port} {quorum}",
            *(f"{cli(sentinel.address)} SENTINEL SET {service} {setting}" for setting in settings),
        ]
    )


@check(
    "quorum",
    "the quorum fits the number of sentinels",
    Severity.warning,
    why="The quorum says how many must miss the master; that they may act is for the majority to say. One lets a "
    "single sentinel's view start a failover; more than the majority only tolerates fewer losses.",
    mend="`SENTINEL SET <name> quorum <majority>` on each sentinel",
    sentinel=True,
    of="sentinels",
)
def quorum(facts: Facts) -> Iterator[Finding]:
    """Between 2 and the majority, the same everywhere."""
    total = len(facts.known_sentinels)
    majority = total // 2 + 1
    least = 1 if total < 3 else 2
    seen = {}
    for sentinel, group in facts.groups():
        value = whole(group.master, "quorum")
        seen[sentinel.address] = value
        if not least <= value <= majority:
            yield found(
                f"{facts.label(sentinel.address)}: quorum {value} of {total} sentinels",
                f"{cli(sentinel.address)} SENTINEL SET {quoted(group.name)} quorum {majority}",
            )
    if len(set(seen.values())) > 1 and all(least <= value <= majority for value in seen.values()):
        told = ", ".join(f"{facts.label(address)}: {value}" for address, value in seen.items())
        yield found(
            f"the sentinels have different quorums ({told})",
            "\n".join(
                f"{cli(address)} SENTINEL SET {quoted(facts.client.service)} quorum {majority}"
                for address, value in seen.items()
                if value != majority
            ),
        )


@check(
    "electable",
    "the epochs of the sentinels leave room for elections",
    Severity.critical,
    why="Each election takes the next epoch, and sentinels keep the highest that anybody named, for ever. Somebody "
    "who may vote (`SENTINEL IS-MASTER-DOWN-BY-ADDR`) or greet for a sentinel can name the last one: then no "
    "sentinel is elected any more, and a dead master stays dead.",
    mend="take that right from all but the sentinels; then reset the epochs: docs/runbook.md#epochs",
    sentinel=True,
    of="sentinels",
)
def electable(facts: Facts) -> Iterator[Finding]:
    """The epoch that each names when it greets the others, and that of the last change of master."""
    for sentinel, group in facts.groups():
        where = facts.label(sentinel.address)
        epoch, hidden = sentinel.epoch, sentinel.hidden.get("epoch", "")
        wrong = trouble(epoch, epoch_of(group.master))
        if wrong:
            yield found(f"{where}: {wrong}", RESET)
        elif epoch is None:
            yield unseen(f"{where}: {hidden or 'its epoch'}")


@check(
    "own-myid",
    "each sentinel has its own id",
    Severity.critical,
    why="Sentinels know one another by their ids. Two with one id, from a copied file, are one to the others: they "
    "replace each other again and again, and the majority is counted wrong.",
    mend="stop the copy, remove the line `sentinel myid` from its file, and start it",
    sentinel=True,
    of="sentinels",
)
def own_myid(facts: Facts) -> Iterator[Finding]:
    """Of those that answer, each process once."""
    ids: dict[str, list[SentinelFacts]] = {}
    for sentinel in facts.up_sentinels:
        if not sentinel.myid:
            yield unseen(f"{facts.label(sentinel.address)}: {sentinel.hidden.get('SENTINEL MYID', 'it has no id')}")
        ids.setdefault(sentinel.myid or str(sentinel.address), []).append(sentinel)
    for myid, several in ids.items():
        if len(several) > 1:
            where = " and ".join(facts.label(one.address) for one in several)
            last = facts.label(several[-1].address)
            file = several[-1].info.get("config_file", "")
            remove = (
                f"sed -i '/^sentinel myid /d' {quoted(file)}" if file else "remove `sentinel myid` from its file"
            )
            yield found(
                f"{where} have the same id {myid[:12]}…",
                f"stop {last}, and on its host, before it is started again\n{remove}\nstart {last}",
            )


@check(
    "same-master",
    "all sentinels name the same master",
    Severity.critical,
    why="A client that asks the wrong sentinel writes to a master that the others have given up, and loses it all.",
    mend="on the sentinel that differs: `SENTINEL REMOVE <name>`, then `SENTINEL MONITOR` and its settings",
    sentinel=True,
    of="sentinels",
)
def same_master(facts: Facts) -> Iterator[Finding]:
    """One address at one epoch. While a failover is under way they differ for moments."""
    service, right = facts.client.service, facts.master
    views = [(one, epoch_of(group.master), group) for one, group in facts.groups()]
    newest = max((epoch for _, epoch, _ in views), default=0)
    for sentinel, epoch, group in views:
        address = address_of(group.master)
        if right is None or (facts.place(address) == facts.place(right) and epoch == newest):
            continue
        if "failover_in_progress" in flags_of(group.master):
            yield unseen(f"{facts.label(sentinel.address)}: a failover is under way; look again in a minute")
            continue
        at = f"at epoch {epoch}" + (f", the others at {newest}" if epoch != newest else ", as do the others")
        yield found(
            f"{facts.label(sentinel.address)} names {facts.label(address)} {at}; most name {facts.label(right)}",
            f"{cli(sentinel.address)} SENTINEL REMOVE {quoted(service)}\n{_monitor(facts, sentinel)}",
        )


@check(
    "dead-remembered",
    "no dead sentinels or replicas are remembered",
    Severity.warning,
    why="A sentinel never forgets. A dead one that is remembered counts when the majority is reckoned, and dead "
    "replicas are waited for at each failover.",
    mend="start it; if it is gone for good, `SENTINEL RESET <name>` on one sentinel after the other, 30 s apart",
    sentinel=True,
)
def dead_remembered(facts: Facts) -> Iterator[Finding]:
    """What sentinels hold for down, and does not answer from here either."""
    lost: dict[str, list[Address]] = {}
    kinds: dict[str, str] = {}
    for sentinel, group in facts.groups():
        for kind, entries in (("replica", group.replicas), ("sentinel", group.sentinels)):
            for entry in entries:
                address = address_of(entry)
                if flags_of(entry) & _DOWN and not _answers(facts, entry):
                    lost.setdefault(str(address), []).append(sentinel.address)
                    kinds[str(address)] = f"{kind} {facts.label(address)}"
    for place, holders in lost.items():
        yield found(
            f"{kinds[place]} is down, and remembered by {len(holders)} sentinel{'s' * (len(holders) > 1)}",
            "start it; or, if it will never be back, have one sentinel after the other forget it\n"
            + "\nsleep 30\n".join(cli(one, f"SENTINEL RESET {quoted(facts.client.service)}") for one in holders),
        )


def _answers(facts: Facts, entry: Texts) -> bool:
    place = facts.place(address_of(entry))
    return any(facts.place(one.address) == place and not one.error for one in facts.servers)


@check(
    "groups-apart",
    "no two groups share an address",
    Severity.critical,
    why="Sentinels that watch one server under two names turn it against itself: each group makes its own master "
    "of it, and replicas of one follow the master of the other.",
    mend="`SENTINEL REMOVE <name>` of the group that does not belong there, on each sentinel",
    sentinel=True,
    of="sentinels",
)
def groups_apart(facts: Facts) -> Iterator[Finding]:
    """Masters and replicas of all groups of all sentinels."""
    owners: dict[str, dict[str, list[SentinelFacts]]] = {}
    for sentinel in facts.up_sentinels:
        if "SENTINEL MASTERS" in sentinel.hidden:
            yield unseen(f"{facts.label(sentinel.address)}: {sentinel.hidden['SENTINEL MASTERS']}")
        for group in sentinel.groups:
            for entry in (group.master, *group.replicas):
                by_name = owners.setdefault(facts.place(address_of(entry)), {})
                by_name.setdefault(group.name, []).append(sentinel)
    told = set()
    for place, names in owners.items():
        both = tuple(sorted(names))
        if len(both) > 1 and both not in told:
            told.add(both)
            other = next(name for name in both if name != facts.client.service)
            holders = dict.fromkeys(one.address for one in names[other])
            lines = [cli(one, f"SENTINEL REMOVE {quoted(other)}") for one in holders]
            yield found(
                f"{place} is in the groups {' and '.join(both)}",
                "\n".join([f"if {other} does not belong there", *lines]),
            )


@check(
    "reboot-period",
    "a rebooted master is given up after a while",
    Severity.warning,
    why="A master that came back and loads its data for minutes answers LOADING, which counts as alive: nothing is "
    "promoted, and nobody can write, until it has loaded.",
    mend="`SENTINEL SET <name> primary-reboot-down-after-period <ms>` on each (before Valkey 8: master-…; Redis "
    "7+)",
    sentinel=True,
    of="sentinels",
)
def reboot_period(facts: Facts) -> Iterator[Finding]:
    """It stands in the sentinel's file only: no command tells it."""
    for sentinel, group in facts.groups():
        where = facts.label(sentinel.address)
        version = sentinel.info.get("redis_version", "")
        if version[:2] in {"5.", "6."}:
            yield fine(f"{where} runs {version}, which has no such setting")
            continue
        process = facts.process(sentinel.address)
        if process is None or "config_file" in process.hidden:
            yield unseen(f"{where}: the period stands in its file only", host=True)
            continue
        periods = {
            words[1]: words[2]
            for name, value in process.directives
            if name == "sentinel" and "reboot-down-after-period" in value and len(words := value.split()) == 3
        }
        if not whole(periods, group.name):
            valkey = to_whole(sentinel.info.get("valkey_version", "").partition(".")[0])
            word = "primary" if valkey >= 8 else "master"
            down_after = number(group.master, "down-after-milliseconds") or 5000
            yield found(
                f"{where}: {process.config_file} sets no {word}-reboot-down-after-period",
                f"{cli(sentinel.address)} SENTINEL SET {quoted(group.name)} {word}-reboot-down-after-period "
                f"{max(int(down_after) * 2, 10_000)}",
            )


@check(
    "promotion-time",
    "a dead master is replaced before commands give up",
    Severity.warning,
    why="A command that waits for a promotion, of a raw client say, does so for 30 s at most. When "
    "down-after-milliseconds and the election take longer, every such command fails.",
    mend="`SENTINEL SET <name> down-after-milliseconds 5000` on each sentinel",
    sentinel=True,
    of="sentinels",
)
def promotion_time(facts: Facts) -> Iterator[Finding]:
    """What a sentinel takes to notice, and the election, against the longest wait of raw clients."""
    for sentinel, group in facts.groups():
        down_after = number(group.master, "down-after-milliseconds") or 0
        if down_after / 1000 + ELECTION > LONGEST_WAIT:
            yield found(
                f"{facts.label(sentinel.address)} notices a dead master after {down_after / 1000:g} s",
                f"{cli(sentinel.address)} SENTINEL SET {quoted(group.name)} down-after-milliseconds 5000",
            )


def _said(reply: str) -> str:
    return reply.partition(" ")[2] if reply.split(" ", 1)[0].isupper() else reply
