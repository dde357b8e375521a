"""What survives a restart, and whether it is really written."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor.checks.words import changed, cli, quoted, users_kept
from evercache.ops.doctor.facts import Clock, Facts, NodeFacts, number, whole
from evercache.ops.doctor.loading import KEYS, QUESTIONS, reads_as_default
from evercache.ops.doctor.registry import HELD_FOR_DEAD, Finding, Severity, check, found, unseen

__all__: list[str] = []

#: Seconds by which a snapshot may be late: it takes its time, and one that failed is tried again.
SAVE_OVERDUE = 3600.0
#: Seconds that clocks may differ by.
CLOCKS = 1.0
#: How many commands that are left out a line names.
_NAMED = 4


@check(
    "persistence",
    "what is kept survives a restart, or nothing restarts by itself",
    Severity.critical,
    why="A master without persistence that is restarted at once comes back empty before any sentinel notices, "
    "and its replicas copy the emptiness: 50,000 keys gone on three nodes in 2 s, measured. Redis 7.0 to 8.4 and "
    "Valkey before 9.1.2 read the append-only file as the default user, and leave out what it may not do of "
    "transactions and scripts: 2,000 of 2,000 entries gone at a restart, measured.",
    mend="`CONFIG SET appendonly yes` and `CONFIG REWRITE`; or no automatic restart (Supervisor: "
    "`autorestart=false`). `ACL SETUSER default reset allkeys allchannels +@all` and `ACL SAVE`",
    of="nodes",
)
def persistence(facts: Facts) -> Iterator[Finding]:
    """Every node: any of them may be the next master."""
    for node in facts.up_nodes:
        where, kept = facts.label(node.address), _persistent(node)
        if _appends(node):
            yield from _read_again(node, where)
        if kept:
            continue
        process = facts.process(node.address)
        if process is not None and process.program is not None and not process.program.autorestart:
            continue
        if kept is None:
            yield unseen(
                f"{where}: no append-only file; whether snapshots are saved: "
                f"{node.hidden.get('CONFIG', 'CONFIG is hidden')}"
            )
            continue
        restart = (
            f"; {process.program.kind} restarts it by itself"
            if process is not None and process.program is not None
            else "; whether it is restarted by itself is not seen"
        )
        yield found(
            f"{where} has appendonly no and no save points{restart}",
            changed(node, "appendonly yes"),
        )


def _read_again(node: NodeFacts, where: str) -> Iterator[Finding]:
    """Whether the server that writes an append-only file reads all of it again."""
    kind, version = node.version
    if kind and not reads_as_default(kind, version):
        return
    if node.left_out is None:
        why = node.hidden.get("ACL DRYRUN", "what its default user may do was not asked")
        yield unseen(f"{where}: {why if kind else node.hidden.get('INFO', 'INFO shows no version')}")
    elif node.left_out:
        server = f"{kind.capitalize()} {'.'.join(map(str, version))}"
        yield found(
            f"{where} ({server}) reads its append-only file as the default user, who may not "
            f"{_denied(node.left_out)}: a restart leaves that out of what transactions and scripts wrote",
            _rights(node),
        )


def _denied(names: tuple[str, ...]) -> str:
    if len(names) == len(QUESTIONS):
        return "write at all"
    keys = ["write every key"] if KEYS in names else []
    commands = [f"`{name}`" for name in names if name != KEYS]
    more = [f"{len(commands) - _NAMED} more"] if len(commands) > _NAMED else []
    return ", nor ".join([*keys, *(["use " + ", ".join([*commands[:_NAMED], *more])] if commands else [])])


def _rights(node: NodeFacts) -> str:
    """Off, so that the rights are nobody's; where somebody uses that user, another has to be made first."""
    command = cli(node.address, "ACL SETUSER default reset allkeys allchannels +@all")
    mend = f"{command}\n{users_kept(node)}\nnobody can log in as default then"
    if node.as_default == 0 and not node.open:
        return mend
    return f"give clients that log in as default another user first\n{mend}"


def _appends(node: NodeFacts) -> bool:
    return node.info.get("aof_enabled") == "1" or node.config.get("appendonly") == "yes"


def _persistent(node: NodeFacts) -> bool | None:
    if _appends(node):
        return True
    save = node.config.get("save")
    return None if save is None else bool(save.strip('" '))


@check(
    "saves-and-clocks",
    "saves succeed, nobody tilts, clocks agree",
    Severity.critical,
    why="A save that fails makes the next restart lose what the disk does not have, and stops writes. A sentinel "
    "in TILT acts on nothing. `parallel-syncs` as high as the number of replicas takes all of them away at once "
    "in a failover.",
    mend="room and rights for the server's folder, then `BGSAVE` or `BGREWRITEAOF`; "
    "`SENTINEL SET <name> parallel-syncs 1`; a time service on each host",
    of="servers",
    # A server that cannot write to its disk refuses writes and PING, so the sentinels hold it for dead.
    explains=HELD_FOR_DEAD,
)
def saves_and_clocks(facts: Facts) -> Iterator[Finding]:
    """The last save, the last rewrite, the last write; TILT; parallel-syncs; the clocks beside one another."""
    for node in facts.up_nodes:
        yield from _saves(facts, node)
    replicas = len({facts.place(one.address) for one in facts.nodes}) - 1
    for sentinel in facts.up_sentinels:
        if sentinel.info.get("sentinel_tilt", "0") != "0":
            since = sentinel.info.get("sentinel_tilt_since_seconds", "?")
            yield found(
                f"{facts.label(sentinel.address)} is in TILT for {since} s: it acts on nothing",
                "see the load and the clock of its host; it ends by itself after 30 quiet seconds",
            )
    for sentinel, group in facts.groups():
        syncs = whole(group.master, "parallel-syncs", 1)
        if syncs > 1 and syncs >= replicas > 0:
            yield found(
                f"{facts.label(sentinel.address)}: parallel-syncs {syncs} with {replicas} replicas",
                cli(sentinel.address, f"SENTINEL SET {quoted(group.name)} parallel-syncs 1"),
                Severity.warning,
            )
    yield from _clocks(facts)


def _saves(facts: Facts, node: NodeFacts) -> Iterator[Finding]:
    where = facts.label(node.address)
    for field, what, command in (
        ("rdb_last_bgsave_status", "the last save of a snapshot failed: it refuses writes (MISCONF)", "BGSAVE"),
        ("aof_last_bgrewrite_status", "the last rewrite of the append-only file failed", "BGREWRITEAOF"),
        (
            "aof_last_write_status",
            "the last write to the append-only file failed: it refuses writes (MISCONF)",
            "INFO persistence",
        ),
    ):
        if node.info.get(field, "ok") != "ok":
            folder = node.config.get("dir", "its folder")
            yield found(
                f"{where}: {what}",
                f"make room on the disk of {folder} (df -h {folder}), or correct its rights, as its log says\n"
                f"{cli(node.address, command)}\nchange no role and no password for it",
                disables=where if node.unwritten else "",
            )
    yield from _overdue(facts, node)
    if "rdb_last_bgsave_status" not in node.info:
        yield unseen(f"{where}: {node.hidden.get('INFO', 'INFO shows nothing of persistence')}")


def _overdue(facts: Facts, node: NodeFacts) -> Iterator[Finding]:
    """A snapshot that its save points have asked for since long: a save that hangs fails never."""
    words = node.config.get("save", "").strip('" ').split()
    last, now = (
        number(node.info, "rdb_last_save_time"),
        node.clock.server if node.clock is not None else facts.taken,
    )
    if last is None or not all(map(str.isdigit, words)):
        return
    changes = whole(node.info, "rdb_changes_since_last_save")
    due = [int(after) for after, count in zip(words[::2], words[1::2], strict=False) if changes >= int(count)]
    if due and now - last > min(due) + SAVE_OVERDUE:
        yield found(
            f"{facts.label(node.address)}: its last snapshot is {(now - last) / 3600:.1f} h old, though {changes} "
            f"changes ask for one after {min(due)} s",
            f"see its log and its disk, then {cli(node.address, 'BGSAVE')}",
            Severity.warning,
        )


def _clocks(facts: Facts) -> Iterator[Finding]:
    """The time of each server less ours lies between two bounds; two servers whose bounds are apart differ."""
    told = [(one.address, one.clock) for one in facts.up_servers if one.clock is not None]
    if len(told) < 2:
        return
    latest = max(told, key=lambda one: _least(one[1]))
    earliest = min(told, key=lambda one: _most(one[1]))
    apart = _least(latest[1]) - _most(earliest[1])
    if apart > CLOCKS:
        yield found(
            f"the clock of {facts.label(latest[0])} is {apart:.1f} s before that of {facts.label(earliest[0])}",
            "a time service (chrony, systemd-timesyncd) on both hosts",
            Severity.warning,
        )


def _least(clock: Clock) -> float:
    return clock.server - clock.received


def _most(clock: Clock) -> float:
    return clock.server - clock.sent


def last_save_seconds(node: NodeFacts) -> float | None:
    """How long the last snapshot took; None where none is known."""
    seconds = number(node.info, "rdb_last_bgsave_time_sec")
    return seconds if seconds is not None and seconds >= 0 else None
