"""What keeps the servers running: seen from a shell on their hosts (`--host`), and in part from outside."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor.checks.persistence import last_save_seconds
from evercache.ops.doctor.checks.words import cli, size
from evercache.ops.doctor.facts import Facts, NodeFacts, ProgramFacts, number
from evercache.ops.doctor.registry import Finding, Severity, check, found, unseen
from evercache.protocol.types import Address

__all__: list[str] = []

#: Bytes a second at which a snapshot is written.
_SAVING = 200e6


def _program(facts: Facts, address: Address) -> ProgramFacts | Finding | None:
    """The program that runs a server; a finding where it cannot be seen; None where nothing restarts it."""
    process = facts.process(address)
    if process is None:
        return unseen(f"{facts.label(address)}: what keeps it running is seen on its host only", host=True)
    if "program" in process.hidden:
        return unseen(f"{facts.label(address)}: {process.hidden['program']}", host=True)
    return process.program


@check(
    "restart-delay",
    "a restart waits longer than the sentinels need to notice",
    Severity.warning,
    why="A master that is back before down-after-milliseconds is over was never away for the sentinels: what it "
    "lost of its last second its replicas lose as well, and writes fail meanwhile without a failover.",
    mend="systemd: `RestartSec=`; Supervisor, which has no delay: a script that sleeps before it starts the server",
    sentinel=True,
    of="nodes",
)
def restart_delay(facts: Facts) -> Iterator[Finding]:
    """Of data nodes; the longest `down-after-milliseconds` counts."""
    periods = [number(group.master, "down-after-milliseconds") or 0.0 for _, group in facts.groups()]
    down_after = max(periods, default=0.0) / 1000
    for node in facts.up_nodes:
        program = _program(facts, node.address)
        if isinstance(program, Finding):
            yield program
        elif program is not None and program.autorestart and program.restart_delay <= down_after:
            wanted = int(down_after) + 2
            mend = (
                f"RestartSec={wanted} in a drop-in of {program.name} (systemctl edit {program.name})"
                if program.kind == "systemd"
                else f"in {program.source}: command=/bin/sh -c 'sleep {wanted}; exec …', startsecs={wanted + 1}"
            )
            yield found(
                f"{facts.label(node.address)}: {program.kind} restarts it after {program.restart_delay:g} s, the "
                f"sentinels notice after {down_after:g} s",
                mend,
            )


@check(
    "stop-timeout",
    "a stop waits for the last save",
    Severity.warning,
    why="At a polite stop a server with save points writes everything. Supervisor kills it after 10 s by "
    "default, which is enough for about 2 GB: what changed since the save before is lost.",
    mend="Supervisor: `stopwaitsecs=`; systemd: `TimeoutStopSec=`; more than the save takes",
    of="nodes",
)
def stop_timeout(facts: Facts) -> Iterator[Finding]:
    """The memory in use at the speed of a disk, or what the last save took, whichever is more."""
    for node in facts.up_nodes:
        where, save = facts.label(node.address), node.config.get("save")
        if save is None:
            yield unseen(f"{where}: {node.hidden.get('CONFIG', 'CONFIG is hidden')}")
            continue
        if not save.strip('" '):
            continue  # nothing is saved at a stop
        program = _program(facts, node.address)
        if isinstance(program, Finding):
            yield program
            continue
        if program is None:
            continue
        used = number(node.info, "used_memory") or 0.0
        takes = max(used / _SAVING, last_save_seconds(node) or 0.0)
        name = "stopwaitsecs" if program.kind == "supervisor" else "TimeoutStopSec"
        wanted = max(60, int(takes * 3))
        if program.stop_signal in {"KILL", "SIGKILL", "9"}:
            yield found(
                f"{where}: {program.kind} stops it by SIGKILL, and nothing is saved",
                f"stopsignal=TERM, {name}={wanted} in {program.source}",
            )
        elif program.stop_timeout < takes * 1.5:
            yield found(
                f"{where}: killed {program.stop_timeout:g} s after the request to stop; to save {size(used)} takes "
                f"about {takes:.0f} s",
                f"{name}={wanted} in {program.source}",
            )


@check(
    "foreground",
    "servers run in the foreground under their supervisor",
    Severity.critical,
    why="A server with `daemonize yes` leaves its supervisor, which takes it for dead: it starts a second one, "
    "which fails at the port, and the first is never restarted or stopped.",
    mend="`daemonize no` in the server's file, and no `--daemonize`; start it by its supervisor",
    of="servers",
)
def foreground(facts: Facts) -> Iterator[Finding]:
    """CONFIG tells it of data nodes; of sentinels, which know no CONFIG, their host does."""
    for server in facts.up_servers:
        where, process = facts.label(server.address), facts.process(server.address)
        said = server.config.get("daemonize") if isinstance(server, NodeFacts) else None
        if process is not None:
            if process.program is not None and process.program.kind == "systemd":
                continue  # which knows all processes of a service, in the background or not
            if said is None and "config_file" not in process.hidden:
                said = "yes" if process.daemonized else "no"
        if said == "yes":
            file = server.info.get("config_file") or "its command line"
            yield found(f"{where}: daemonize yes", f"daemonize no in {file}; then restart it by its supervisor")
        elif said is None:
            why = "a sentinel does not show daemonize"
            if isinstance(server, NodeFacts):
                why = server.hidden.get("CONFIG", "it does not show daemonize")
            yield unseen(f"{where}: {why}", host=True)


@check(
    "config-writable",
    "servers can write their configuration files",
    Severity.critical,
    why="A sentinel writes every change of master into its file, and a promotion is written into the node's. One "
    "that cannot forgets it at its restart, and comes back as what it was before.",
    mend="a file of its own for each server, in a folder that the server's user may write to",
    of="servers",
)
def config_writable(facts: Facts) -> Iterator[Finding]:
    """No file at all is seen from outside; whether it can be written, on the host."""
    for server in facts.up_servers:
        where, process = facts.label(server.address), facts.process(server.address)
        file = server.info.get("config_file")
        if file == "":
            yield found(
                f"{where} runs without a configuration file: a change of role is forgotten at its restart",
                "start it with a file of its own: valkey-server /etc/valkey/<name>.conf",
            )
        elif process is None:
            yield unseen(
                f"{where}: whether {file or 'its file'} can be written is seen on its host only", host=True
            )
        elif "config_file" in process.hidden:
            yield unseen(f"{where}: {process.hidden['config_file']}", host=True)
        elif process.unwritable:
            yield found(
                f"{where}: {process.unwritable}",
                f"give {process.config_file} and its folder to the server's user (chown)\n"
                + cli(server.address, "SENTINEL FLUSHCONFIG" if process.sentinel else "CONFIG REWRITE"),
            )
