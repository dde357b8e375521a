"""The configuration of Supervisor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Program", "daemon_text", "programs_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One server under Supervisor."""

    name: str
    command: str
    folder: str
    log: str
    log_size: str = "2MB"
    log_backups: int = 1
    autostart: bool = True
    retries: int = 2
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    user: str = ""
    #: Of two that start, the lower first.
    priority: int = 999


def daemon_text(*, socket: str, log: str, pidfile: str, identifier: str, more: Sequence[str] = ()) -> str:
    """Supervisor itself. `more` are further lines of its section; a `%` in a path must be doubled."""
    lines = [
        "[unix_http_server]",
        f"file={socket}",
        "chmod=0700",
        "",
        "[supervisord]",
        f"logfile={log}",
        "logfile_maxbytes=1MB",
        "logfile_backups=1",
        f"pidfile={pidfile}",
        f"identifier={identifier}",
        "umask=077",
        *more,
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "",
    ]
    return "\n".join(lines)


def programs_text(programs: Iterable[Program]) -> str:
    """The servers that it runs."""
    lines: list[str] = []
    for one in programs:
        lines += [
            f"[program:{one.name}]",
            f"command={one.command}",
            f"directory={one.folder}",
            *([f"user={one.user}"] if one.user else []),
            *([f"priority={one.priority}"] if one.priority != 999 else []),
            f"stdout_logfile={one.log}",
            f"stdout_logfile_maxbytes={one.log_size}",
            f"stdout_logfile_backups={one.log_backups}",
            "redirect_stderr=true",
            f"autostart={str(one.autostart).lower()}",
            "; A server that ends politely returns 0 and stays away; one that is killed comes back.",
            "autorestart=unexpected",
            "exitcodes=0",
            "startsecs=1",
            f"startretries={one.retries}",
            f"stopsignal={one.stop_signal}",
            f"stopwaitsecs={one.stop_seconds}",
            "",
        ]
    return "\n".join(lines)
