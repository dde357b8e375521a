"""Units of systemd, which give a server nothing but its own folder, its ports and its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Unit", "kernel_unit", "unit_text"]

#: What a server needs none of. `systemd-analyze security` rates it.
_HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectSystem=strict
ProtectHome={home}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One server as a service."""

    title: str
    user: str
    prepare: str
    command: str
    #: The only folder that it may write to.
    folder: str
    notify: bool
    #: Seconds.
    restart_delay: float
    stop_seconds: int
    after: str = ""


def unit_text(unit: Unit) -> str:
    """The unit. Something that ends with an error comes back, but later than the sentinels notice."""
    # A program in a home folder must be seen there, though never written.
    home = "read-only" if unit.command.startswith(("/home/", "/root/")) else "yes"
    kind, option = ("notify", " --supervised systemd") if unit.notify else ("exec", "")
    return f"""\
[Unit]
Description={unit.title}
Wants=network-online.target
After=network-online.target{f" {unit.after}" if unit.after else ""}
StartLimitIntervalSec=0

[Service]
Type={kind}
User={unit.user}
ExecStartPre=/bin/sh {unit.prepare}
ExecStart={unit.command}{option}
WorkingDirectory={unit.folder}
ReadWritePaths={unit.folder}

# Later than the sentinels notice: a master that is back before has its replicas lose what it lost itself.
Restart=on-failure
RestartSec={math.ceil(unit.restart_delay)}
# Loading and saving take what they take; a save that is cut off is lost.
TimeoutStartSec=infinity
TimeoutStopSec={unit.stop_seconds}
LimitNOFILE=65536
OOMScoreAdjust=-500

{_HARDENING.format(home=home)}
[Install]
WantedBy=multi-user.target
"""


def kernel_unit(script: str) -> str:
    """Runs the script of kernel settings at each boot, before the servers."""
    return f"""\
[Unit]
Description=Kernel settings for evercache's servers
DefaultDependencies=no
After=sysinit.target local-fs.target
Before=basic.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {script}

[Install]
WantedBy=basic.target
"""
