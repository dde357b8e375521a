"""Who keeps a process running: Supervisor, by its files, or systemd, by what `systemctl show` says."""

from __future__ import annotations

import configparser
import glob
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from evercache.ops.doctor.facts import ProgramFacts

__all__ = ["Machine", "program_of", "programs_of_file", "seconds"]

#: Where Supervisor looks for its file.
_FILES = ("/etc/supervisor/supervisord.conf", "/etc/supervisord.conf", "/usr/etc/supervisord.conf")
_SCRIPT_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, by its file systems `proc` and `sys`."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")

    def is_local(self, host: str) -> bool:
        """Whether it is an address of this machine (a unix socket is)."""
        if not host:
            return True
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.bind((host, 0))
            return True
        return False

    def command(self, pid: int) -> list[str]:
        """The command line of a process; empty when there is none."""
        with suppress(OSError):
            return [part for part in (self.proc / str(pid) / "cmdline").read_text().split("\0") if part]
        return []

    def runs(self, pid: int, port: int, executable: str) -> bool:
        """Whether the process is a server at this port: what INFO says comes from its own world of processes."""
        command = " ".join(self.command(pid))
        with suppress(OSError):
            if executable and os.readlink(self.proc / str(pid) / "exe") == os.path.realpath(executable):
                return True
        return f":{port}" in command and re.search("redis|valkey", command) is not None

    def owner(self, pid: int) -> tuple[int, list[int]] | None:
        """The user and the groups of a process."""
        status = self._status(pid)
        if "Uid" not in status:
            return None
        groups = [int(one) for one in (status.get("Gid", "").split()[1:2] + status.get("Groups", "").split())]
        return int(status["Uid"].split()[1]), groups

    def parents(self, pid: int) -> Iterator[int]:
        """The parent, its parent, and so on."""
        for _ in range(16):
            parent = self._status(pid).get("PPid", "0")
            if not parent.isdigit() or parent == "0":
                return
            pid = int(parent)
            yield pid

    def folder(self, pid: int) -> Path:
        """The folder in which a process runs."""
        with suppress(OSError):
            return Path(os.readlink(self.proc / str(pid) / "cwd"))
        return Path("/")

    def supervisors(self) -> Iterator[int]:
        """Every Supervisor that runs here."""
        for path in self.proc.glob("[0-9]*"):
            if _is_supervisor(self.command(int(path.name))):
                yield int(path.name)

    def unit(self, pid: int) -> str:
        """The service of systemd that a process belongs to; empty when it belongs to none."""
        with suppress(OSError):
            for line in (self.proc / str(pid) / "cgroup").read_text().splitlines():
                name = line.rpartition("/")[2]
                if name.endswith(".service") and not name.startswith(("user@", "session-")):
                    return name
        return ""

    def _status(self, pid: int) -> dict[str, str]:
        with suppress(OSError):
            text = (self.proc / str(pid) / "status").read_text()
            return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
        return {}


def _is_supervisor(command: list[str]) -> bool:
    return any(re.fullmatch(r"(.*/)?supervisord(\.py)?|supervisor\.supervisord", part) for part in command[:4])


def program_of(machine: Machine, pid: int, config_file: str) -> ProgramFacts | str:
    """What keeps the process running, or why that is not seen."""
    parents = list(machine.parents(pid))
    above = [one for one in parents if _is_supervisor(machine.command(one))]
    trouble = ""
    for one in above or list(machine.supervisors()):
        file, folder = _file_of(machine, one)
        try:
            for program in programs_of_file(file, folder, config_file):
                return program
        except (OSError, ValueError, configparser.Error) as error:
            trouble = f"{file} cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
    if above:
        return trouble or "Supervisor runs it, by a program that names another configuration file"
    if unit := machine.unit(pid):
        found = _systemd(unit)
        return found if found is not None else f"systemctl shows nothing of {unit}"
    name = " ".join(machine.command(parents[0])[:1]) if parents else ""
    if trouble:
        return trouble
    return f"its parent is {os.path.basename(name) or 'not seen'}, and whether that starts it again is not known"


def _file_of(machine: Machine, pid: int) -> tuple[Path, Path]:
    """The configuration file of a Supervisor, and the folder it runs in."""
    command, folder = machine.command(pid), machine.folder(pid)
    for option, value in pairwise(command):
        if option in {"-c", "--configuration"}:
            return folder / value, folder
    for part in command:
        if part.startswith("--configuration="):
            return folder / part.partition("=")[2], folder
    return next((Path(one) for one in _FILES if Path(one).exists()), Path(_FILES[0])), folder


def programs_of_file(file: Path, folder: Path, config_file: str) -> Iterator[ProgramFacts]:
    """The programs of a Supervisor's file, and of those that it includes, that run a server by this file."""
    parser = _parsed(file)
    sources = dict.fromkeys(parser.sections(), file)
    patterns = parser.get("include", "files", fallback="").replace("%(here)s", str(file.parent)).split()
    for pattern in patterns:
        for name in sorted(glob.glob(str(file.parent / pattern))):
            more = _parsed(Path(name))
            for section in more.sections():
                parser[section] = dict(more[section])
                sources[section] = Path(name)
    for section in parser.sections():
        kind, _, name = section.partition(":")
        if kind != "program":
            continue
        values = parser[section]
        command = values.get("command", "")
        where = Path(os.path.normpath(folder / values.get("directory", ".")))
        scripts = list(_texts(command, where, config_file))
        if not scripts:
            continue
        sleeps = [float(one) for text in scripts for one in re.findall(r"\bsleep\s+(\d+(?:\.\d+)?)", text)]
        yield ProgramFacts(
            "supervisor",
            name,
            str(sources[section]),
            autorestart=values.get("autorestart", "unexpected").lower() not in {"false", "0", "no", "off"},
            restart_delay=max(sleeps, default=0.0),
            stop_timeout=float(values.get("stopwaitsecs", "10")),
            stop_signal=values.get("stopsignal", "TERM").upper(),
        )


def _parsed(file: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";",))
    parser.read_string(file.read_text())
    return parser


def _texts(command: str, folder: Path, config_file: str) -> Iterator[str]:
    """The command and the scripts in it, if they start a server with this configuration file; else nothing."""
    with suppress(ValueError):
        parts = shlex.split(command)
        words = [word for part in parts for word in part.split()]
        if any(os.path.normpath(folder / word) == config_file for word in words):
            yield command
        for word in words:
            path = folder / word
            with suppress(OSError, ValueError):
                if not path.is_file() or path.stat().st_size > _SCRIPT_BYTES:
                    continue
                text = path.read_text(errors="replace")
                at_home = str(folder) == os.path.dirname(config_file) and os.path.basename(config_file) in text
                if text.startswith("#!") and (at_home or config_file in text):
                    yield command
                    yield text


def _systemd(unit: str) -> ProgramFacts | None:
    names = ("Restart", "RestartUSec", "TimeoutStopUSec", "KillSignal", "FragmentPath")
    try:
        done = subprocess.run(
            ["systemctl", "show", unit, f"--property={','.join(names)}"],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return systemd_program(unit, done.stdout)


def systemd_program(unit: str, text: str) -> ProgramFacts | None:
    """What `systemctl show` says of a unit."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "Restart" not in values:
        return None
    return ProgramFacts(
        "systemd",
        unit,
        values.get("FragmentPath") or unit,
        autorestart=values["Restart"] not in {"no", ""},
        restart_delay=seconds(values.get("RestartUSec", "0")),
        stop_timeout=seconds(values.get("TimeoutStopUSec", "1min 30s")),
        stop_signal="KILL" if values.get("KillSignal") == "9" else "TERM",
    )


def seconds(text: str) -> float:
    """A time as systemd writes it: `1min 30s`, `100ms`, `infinity`."""
    if text == "infinity":
        return 1e9
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "": 1e-6}
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(us|ms|min|[shdw])?", text)
    return sum(float(number) * units[unit] for number, unit in parts)
