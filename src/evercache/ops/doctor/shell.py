"""What a shell on a host shows: the kernel, the servers' processes and files, and what keeps them running.

Nothing is changed, no program of the host is run but `systemctl show`. Of configuration files only the settings
that checks ask for are kept.
"""

from __future__ import annotations

import os
import shlex
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from evercache.ops.doctor.facts import Facts, HostFacts, NodeFacts, ProcessFacts, SentinelFacts, whole
from evercache.ops.doctor.programs import Machine, program_of

__all__ = ["directives_of", "look", "unwritable", "with_host"]

#: Settings of a configuration file that are kept; all others may hold secrets.
_KEPT = frozenset(
    {"appendonly", "bind", "daemonize", "dir", "port", "protected-mode", "save", "supervised", "tls-cert-file"}
)
_KEPT_OF_SENTINEL = frozenset(
    {
        "announce-hostnames",
        "announce-ip",
        "announce-port",
        "down-after-milliseconds",
        "failover-timeout",
        "master-reboot-down-after-period",
        "monitor",
        "myid",
        "parallel-syncs",
        "primary-reboot-down-after-period",
        "resolve-hostnames",
    }
)


def with_host(facts: Facts, machine: Machine | None = None) -> Facts:
    """The facts, with what the shell that we are in shows of this host."""
    host = look(facts, machine or Machine())
    return replace(facts, hosts=(*(one for one in facts.hosts if one.name != host.name), host))


def look(facts: Facts, machine: Machine) -> HostFacts:
    """This host: the kernel, and those servers of the deployment that run here."""
    hosts = dict.fromkeys(one.address.host for one in facts.servers)
    here = tuple(host for host in hosts if machine.is_local(facts.ip(host)))
    hidden: dict[str, str] = {}

    def read(what: str, path: Path) -> str:
        try:
            return path.read_text()
        except OSError as error:
            hidden[what] = f"{path}: {error.strerror}"
            return ""

    huge = read("huge_pages", machine.sys / "kernel/mm/transparent_hugepage/enabled")
    memory = read("swap", machine.proc / "meminfo")
    swap = [line.split()[1] for line in memory.splitlines() if line.startswith("SwapTotal:")]
    return HostFacts(
        name=socket.gethostname(),
        addresses=here,
        overcommit=read("overcommit", machine.proc / "sys/vm/overcommit_memory").strip(),
        huge_pages=huge.partition("[")[2].partition("]")[0],
        swap_bytes=int(swap[0]) * 1024 if swap else None,
        processes=tuple(_process(one, machine) for one in facts.up_servers if one.address.host in here),
        hidden=hidden,
    )


def _process(server: NodeFacts | SentinelFacts, machine: Machine) -> ProcessFacts:
    pid = whole(server.info, "process_id")
    sentinel = isinstance(server, SentinelFacts)
    file = server.info.get("config_file", "")
    facts = ProcessFacts(server.address.port, pid, sentinel, file)
    if not machine.runs(pid, server.address.port, server.info.get("executable", "")):
        why = f"process {pid} of this host is another one: the server runs in a container, or elsewhere"
        return replace(facts, hidden={"program": why, "config_file": why})
    hidden: dict[str, str] = {}
    directives: tuple[tuple[str, str], ...] = ()
    why_not = ""
    if file:
        try:
            directives = directives_of(Path(file).read_text(errors="replace"))
        except OSError as error:
            if isinstance(error, PermissionError):
                hidden["config_file"] = f"{file} cannot be read by this user: run it as root"
        owner = machine.owner(pid)
        if owner is None:
            hidden["config_file"] = f"the user of process {pid} is not seen"
        else:
            why_not = unwritable(Path(file), *owner)
    program = program_of(machine, pid, file)
    if isinstance(program, str):
        hidden["program"] = program
    return replace(
        facts,
        directives=directives,
        unwritable=why_not,
        daemonized=("daemonize", "yes") in directives and next(machine.parents(pid), 1) == 1,
        program=None if isinstance(program, str) else program,
        hidden=hidden,
    )


def directives_of(text: str) -> tuple[tuple[str, str], ...]:
    """The settings in a configuration file that checks ask for; none of them is a secret."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        words = line.split(None, 1)
        if len(words) < 2 or words[0].startswith("#"):
            continue
        name, value = words[0].lower(), words[1].strip()
        if name in _KEPT or (name == "sentinel" and value.split()[0].lower() in _KEPT_OF_SENTINEL):
            with suppress(ValueError):
                value = " ".join(shlex.split(value))
            found.append((name, value))
    return tuple(found)


def unwritable(file: Path, user: int, groups: Iterable[int]) -> str:
    """Why a server of this user cannot write its file anew, or empty.

    It writes a second file into the folder and renames it; the first must be its own to write as well.
    """
    groups = set(groups)
    try:
        folder, itself = file.parent.stat(), file.stat()
    except FileNotFoundError as error:
        return f"{error.filename} does not exist"
    except OSError as error:
        return f"{file} cannot be seen ({error.strerror})"
    with suppress(OSError):
        if os.statvfs(file.parent).f_flag & os.ST_RDONLY:
            return f"{file.parent} is on a disk that is mounted read-only"
    if user == 0:
        return ""
    for path, found in ((file, itself), (file.parent, folder)):
        bit = stat.S_IWUSR if found.st_uid == user else stat.S_IWGRP if found.st_gid in groups else stat.S_IWOTH
        if not found.st_mode & bit:
            mode = stat.filemode(found.st_mode)
            return f"{path} ({mode}, user {found.st_uid}) cannot be written by the server's user {user}"
    return ""
