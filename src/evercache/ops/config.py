"""What a local deployment remembers, and the configuration files made from it. No process is touched here."""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import SystemRandom
from typing import Final
from urllib.parse import quote

import msgspec

from evercache.errors import ConfigurationError, DeploymentError, DeploymentUnknown, ServerMissing
from evercache.ops.binary import server_version
from evercache.ops.deploy.conf import Program, node_text, sentinel_text
from evercache.ops.deploy.description import (
    ROLES,
    Description,
    Host,
    Passwords,
    Secret,
    Sentinels,
    Server,
    failover_timeout_ms,
)
from evercache.ops.files import check_room, write_private
from evercache.ops.templates import fill

__all__ = ["DeploymentConfig", "NodeConfig", "free_ports", "home_folder"]

HOST = "127.0.0.1"
_STATE = "deployment.json"
_FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MEMORY = re.compile(r"(\d+)(b|kb|mb|gb)?", re.IGNORECASE)


def home_folder(home: Path | None = None) -> Path:
    """The folder of all local deployments: `home`, `$EVERCACHE_HOME`, or one in the XDG state folder."""
    if home is not None:
        return Path(home)
    if named := os.environ.get("EVERCACHE_HOME"):
        return Path(named).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "evercache"


def port_is_free(port: int, *, alone: bool = False) -> bool:
    """Whether a server could listen on the port now; `alone`: and nobody is bound to it for a server to come."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if alone else 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
    """Ports that are free now, below the range of ephemeral ports.

    Inside that range the kernel may give the port of a dead node to an outgoing connection, and a client
    that tries again and again may even connect to itself.
    """
    random, taken, found = SystemRandom(), set(avoid), list[int]()
    for _ in range(10_000):
        if len(found) == count:
            return found
        port = random.randrange(12_000, 32_000)
        if port not in taken and port_is_free(port, alone=True):
            taken.add(port)
            found.append(port)
    raise DeploymentError("no free ports between 12000 and 32000: end some of the programs that listen there")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A data node (`node-1`...) or a sentinel (`sentinel-1`...). No name has a role, as roles change."""

    name: str
    port: int
    sentinel: bool = False
    #: 40 hex digits by which sentinels know one another; empty for a data node.
    ident: str = ""


#: A developer does not wait for the five seconds of `render`. All other settings are those of `render`.
#: Sentinels ping once a second: with 1000 ms, a node that was just promoted was taken for dead between two pings,
#: and a second promotion followed.
_DOWN_AFTER_MS: Final = 2000
_FAILOVER_TIMEOUT_MS: Final = failover_timeout_ms(_DOWN_AFTER_MS)


class _Head(msgspec.Struct):
    format: int


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """The state file."""

    format: int
    name: str
    server: str
    password: str
    sentinel_password: str
    nodes: tuple[NodeConfig, ...]
    service: str = "evercache"
    memory: str = "256mb"
    down_after_ms: int = _DOWN_AFTER_MS
    failover_timeout_ms: int = _FAILOVER_TIMEOUT_MS
    #: Of deployments that an earlier version made; the description has it now.
    reboot_down_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class DeploymentConfig:
    """All that is known of a deployment while nothing runs. Times in milliseconds."""

    name: str
    folder: Path
    server: Path
    password: str = field(repr=False)
    sentinel_password: str = field(repr=False)
    nodes: tuple[NodeConfig, ...]
    service: str = "evercache"
    memory: str = "256mb"
    down_after_ms: int = _DOWN_AFTER_MS
    failover_timeout_ms: int = _FAILOVER_TIMEOUT_MS

    @classmethod
    def locate(cls, name: str, home: Path | None) -> Path:
        """The folder of the deployment of this name; `ConfigurationError` if it is no good as a name."""
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name for a deployment: use up to 40 of a-z, 0-9, '-' and '_'")
        folder = home_folder(home).absolute() / name
        if any(bad in str(folder) for bad in ("\n", "\r", " ;")):
            raise ConfigurationError(
                f"Supervisor cannot work in {str(folder)!r} (line break or ' ;'): set EVERCACHE_HOME"
            )
        return folder

    @classmethod
    def create(cls, name: str, folder: Path, server: Path, memory: str = "256mb") -> DeploymentConfig:
        """Choose ports and passwords for a master, two replicas and three sentinels; writes nothing."""
        if not _MEMORY.fullmatch(memory):
            raise ConfigurationError(f"{memory!r} is no amount of memory: write it like 256mb")
        ports = free_ports(6)
        nodes = [NodeConfig(f"node-{i + 1}", ports[i]) for i in range(3)]
        nodes += [NodeConfig(f"sentinel-{i + 1}", ports[3 + i], True, secrets.token_hex(20)) for i in range(3)]
        secret, other = secrets.token_hex(16), secrets.token_hex(16)
        return cls(name, folder, server, secret, other, tuple(nodes), memory=memory)

    @property
    def data_nodes(self) -> tuple[NodeConfig, ...]:
        """The nodes that hold data."""
        return tuple(node for node in self.nodes if not node.sentinel)

    @property
    def sentinels(self) -> tuple[NodeConfig, ...]:
        """The sentinels."""
        return tuple(node for node in self.nodes if node.sentinel)

    @property
    def url(self) -> str:
        """The URL for `Cache(...)`, passwords included."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.sentinels)
        return (
            f"sentinel://:{quote(self.password, safe='')}@{hosts}/{self.service}"
            f"?sentinel_password={quote(self.sentinel_password, safe='')}"
        )

    def node(self, name: str) -> NodeConfig:
        """The node of this name; `DeploymentUnknown` names those that there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise DeploymentUnknown(f"deployment {self.name!r} has no node {name!r}; it has {known}")

    def with_replica(self) -> DeploymentConfig:
        """One data node more, under the next free name and port."""
        number = 1 + max(int(node.name.rpartition("-")[2]) for node in self.data_nodes)
        (port,) = free_ports(1, (node.port for node in self.nodes))
        return replace(self, nodes=(*self.nodes, NodeConfig(f"node-{number}", port)))

    def save(self) -> None:
        """Write the state file, mode 0600 as it holds the passwords."""
        known = set(_State.__struct_fields__) & set(self.__dataclass_fields__) - {"server"}
        state = _State(format=_FORMAT, server=str(self.server), **{name: getattr(self, name) for name in known})
        text = msgspec.json.format(msgspec.json.encode(state), indent=2).decode()
        write_private(self.folder / _STATE, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> DeploymentConfig | None:
        """Read the state file; None if there is none."""
        path = folder / _STATE
        try:
            data = path.read_bytes()
            if msgspec.json.decode(data, type=_Head).format != _FORMAT:
                raise DeploymentError(f"{path} was written by another version of evercache: use that one")
            found = msgspec.structs.asdict(msgspec.json.decode(data, type=_State))
            del found["format"], found["reboot_down_after_ms"]
            if any(not 0 < node.port < 65536 for node in found["nodes"]):
                raise ValueError("a port that is none")
            return cls(folder=folder, **(found | {"server": Path(found["server"])}))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise DeploymentError(f"{path} belongs to another user: choose another --name") from error
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise DeploymentError(
                f"{path} is damaged ({error}): end its servers, remove {folder} and run `evercache up` again"
            ) from error

    def write_files(self) -> None:
        """Lay out the folder of a new deployment: the first data node is the master."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        check_room(self.folder)
        (self.folder / "logs").mkdir(exist_ok=True)
        first = self.data_nodes[0]
        for node in self.data_nodes:
            self.write_data_node(node, None if node is first else first)
        for node in self.sentinels:
            self._write_sentinel(node, first)
        self.write_runner()
        self.write_supervisor()
        self.save()

    def description(self) -> Description:
        """As `evercache render` would have it: its settings hold for what is not said here."""
        numbers: tuple[int, ...] = (0, 0)
        with suppress(ServerMissing):
            numbers = server_version(self.server)[:2]
        kind = "valkey" if "valkey" in self.server.name else "redis"
        return Description(
            name=self.service,
            server=Server(kind=kind, version=".".join(map(str, numbers)), memory=_bytes(self.memory)),
            passwords=Passwords(**dict.fromkeys(ROLES, Secret("file", _STATE))),
            sentinel=Sentinels(down_after_ms=self.down_after_ms, failover_timeout_ms=self.failover_timeout_ms),
            hosts=tuple(
                Host(name=node.name, address=HOST, node=not node.sentinel, sentinel=node.sentinel)
                for node in self.nodes
            ),
        )

    def write_data_node(self, node: NodeConfig, master: NodeConfig | None) -> None:
        """The configuration of one data node; later the sentinels change it through the server."""
        folder = self.folder / node.name
        folder.mkdir(exist_ok=True)
        text = node_text(
            self.description(),
            bind=(HOST,),
            place=(HOST, node.port),
            folder=str(folder),
            access=(f"requirepass {self.password}", f"masterauth {self.password}"),
            master=(HOST, master.port) if master else None,
        )
        write_private(folder / "server.conf", text)

    def follow(self, node: NodeConfig, master: NodeConfig) -> None:
        """Have a data node that does not run follow `master` from its start."""
        path = self.folder / node.name / "server.conf"
        lines = [line for line in path.read_text().splitlines() if not line.startswith(("replicaof ", "slaveof "))]
        write_private(path, "\n".join([*lines, f"replicaof {HOST} {master.port}"]) + "\n")

    def _write_sentinel(self, node: NodeConfig, master: NodeConfig) -> None:
        folder = self.folder / node.name
        folder.mkdir(exist_ok=True)
        nodes = (master, *(other for other in self.data_nodes if other != master))
        text = sentinel_text(
            self.description(),
            bind=(HOST,),
            place=(HOST, node.port),
            folder=str(folder),
            access=(f"requirepass {self.sentinel_password}",),
            login=(f"sentinel auth-pass {self.service} {self.password}",),
            ident=node.ident,
            nodes=tuple((HOST, other.port) for other in nodes),
            others=tuple(((HOST, other.port), other.ident) for other in self.sentinels if other != node),
        )
        write_private(folder / "server.conf", text)

    def write_runner(self) -> None:
        """The script that Supervisor runs for each node, in the node's folder."""
        text = fill(
            "run.sh",
            pidfile="server.pid",
            delay=math.ceil(self.description().restart_delay),
            program=self.server,
        )
        write_private(self.folder / "run.sh", text)

    def write_supervisor(self) -> None:
        """The configuration of Supervisor, written anew at each start and for each new replica.

        Paths are relative, as Supervisor runs in the folder and reads a `%` in some values twice.
        """
        daemon = fill(
            "supervisord.conf",
            socket=_escaped(socket_path(self.folder)),
            log="logs/supervisord.log",
            pidfile="supervisord.pid",
            identifier=f"evercache-{self.name}",
            folder="",
            include="",
        )
        programs = [
            Program(
                name=node.name,
                command="/bin/sh ../run.sh" + (" --sentinel" if node.sentinel else ""),
                folder=node.name,
                log=f"logs/{node.name}.log",
                autostart=False,
                # Supervisor's own stop is a kill: `evercache kill` is to be a sudden death.
                stop_signal="KILL",
            )
            for node in self.nodes
        ]
        write_private(self.folder / "supervisord.conf", f"{daemon}\n{fill('programs.conf', programs=programs)}")

    def log_file(self, node: str) -> Path:
        """Where the output of a node goes."""
        return self.folder / "logs" / f"{node}.log"


def _bytes(memory: str) -> int:
    """Of a text like `256mb`; whole kilobytes."""
    number, unit = _MEMORY.fullmatch(memory.lower()).groups()  # type: ignore[union-attr]
    return -(-int(number) * {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}.get(unit, 1) // 1024) * 1024


def socket_path(folder: Path) -> Path:
    """The socket of Supervisor: in the folder, or elsewhere if that path is too long for one (100 bytes)."""
    path = folder / "supervisor.sock"
    # Supervisor binds a name with its process id appended first.
    if len(os.fsencode(path)) <= (90 if sys.platform == "darwin" else 95):
        return path
    import hashlib
    import tempfile

    short = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"evercache-{os.getuid()}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.is_symlink() or short.stat().st_uid != os.getuid():
        raise DeploymentError(f"{short} is not yours: set XDG_RUNTIME_DIR, or a shorter EVERCACHE_HOME")
    return short / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock"


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
