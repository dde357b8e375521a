"""What a local deployment remembers, and the configuration files made from it. No process is touched here."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import SystemRandom
from typing import Final
from urllib.parse import quote

import msgspec

from evercache.errors import ConfigurationError, DeploymentError, DeploymentUnknown, DiskFull, ServerMissing
from evercache.ops.binary import server_version
from evercache.ops.templates.servers import (
    NodeConf,
    SentinelConf,
    failover_timeout_ms,
    node_text,
    reboot_word,
    sentinel_text,
)
from evercache.ops.templates.starting import waiting
from evercache.ops.templates.supervisor import Program, daemon_text, programs_text

__all__ = ["DeploymentConfig", "NodeConfig", "disk_errors", "free_ports", "home_folder", "write_private"]

HOST = "127.0.0.1"
_STATE = "deployment.json"
_FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
#: Bytes that must be free before anything is written: six servers, their logs, a first append-only file.
ROOM = 64 * 1024 * 1024


def home_folder(home: Path | None = None) -> Path:
    """The folder of all local deployments: `home`, `$EVERCACHE_HOME`, or one in the XDG state folder."""
    if home is not None:
        return Path(home)
    if named := os.environ.get("EVERCACHE_HOME"):
        return Path(named).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "evercache"


@contextmanager
def disk_errors(folder: Path, other: str = "set EVERCACHE_HOME to another folder") -> Iterator[None]:
    """Turn the errors of a full or forbidden disk into ones that say what to do; `other` is the other way out."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"the disk of {folder} is full: make room, or {other}") from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise DeploymentError(
                f"{error.filename or folder} cannot be written ({error.strerror}): correct its rights, or {other}"
            ) from error
        raise


def check_room(folder: Path) -> None:
    """Raise `DiskFull` if the disk of an existing folder has less than `ROOM` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise DiskFull(
            f"the disk of {folder} is full: {free // 2**20} MiB are free, {ROOM // 2**20} MiB are needed; "
            "make room, or set EVERCACHE_HOME to another folder"
        )


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


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


#: A developer does not wait for the five seconds of `render`; the rest follows from it as it does there.
_DOWN_AFTER_MS: Final = 1000
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
    reboot_down_after_ms: int = 10_000


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
    reboot_down_after_ms: int = 10_000

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
        if not re.fullmatch(r"\d+(b|kb|mb|gb)?", memory, re.IGNORECASE):
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
        same = {name: getattr(self, name) for name in _State.__struct_fields__ if name not in ("format", "server")}
        state = _State(format=_FORMAT, server=str(self.server), **same)
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
            del found["format"]
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

    def write_data_node(self, node: NodeConfig, master: NodeConfig | None) -> None:
        """The configuration of one data node; later the sentinels change it through the server."""
        folder = self.folder / node.name
        folder.mkdir(exist_ok=True)
        conf = NodeConf(
            bind=(HOST,),
            port=node.port,
            folder=str(folder),
            access=(f"requirepass {self.password}", f"masterauth {self.password}"),
            master=(HOST, master.port) if master else None,
            memory=self.memory,
        )
        write_private(folder / "server.conf", node_text(conf))

    def _write_sentinel(self, node: NodeConfig, master: NodeConfig) -> None:
        folder = self.folder / node.name
        folder.mkdir(exist_ok=True)
        conf = SentinelConf(
            bind=(HOST,),
            port=node.port,
            folder=str(folder),
            access=(f"requirepass {self.sentinel_password}",),
            service=self.service,
            ident=node.ident,
            master=(HOST, master.port),
            quorum=len(self.sentinels) // 2 + 1,
            login=(f"sentinel auth-pass {self.service} {self.password}",),
            down_after_ms=self.down_after_ms,
            failover_timeout_ms=self.failover_timeout_ms,
            reboot_down_after_ms=self.reboot_down_after_ms,
            reboot_word=self._word_of_reboots(),
            replicas=tuple((HOST, other.port) for other in self.data_nodes if other != master),
            others=tuple(((HOST, other.port), other.ident) for other in self.sentinels if other != node),
        )
        write_private(folder / "server.conf", sentinel_text(conf))

    def _word_of_reboots(self) -> str:
        with suppress(ServerMissing):
            return reboot_word(server_version(self.server))
        return ""

    def write_runner(self) -> None:
        """The script that Supervisor runs for each node, in the node's folder."""
        write_private(
            self.folder / "run.sh",
            "#!/bin/sh\n"
            + waiting("server.pid", self.down_after_ms // 1000 + 2)
            + f'exec {shlex.quote(str(self.server))} server.conf "$@"\n',
        )

    def write_supervisor(self) -> None:
        """The configuration of Supervisor, written anew at each start and for each new replica.

        Paths are relative, as Supervisor runs in the folder and reads a `%` in some values twice.
        """
        daemon = daemon_text(
            socket=_escaped(socket_path(self.folder)),
            log="logs/supervisord.log",
            pidfile="supervisord.pid",
            identifier=f"evercache-{self.name}",
        )
        programs = programs_text(
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
        )
        write_private(self.folder / "supervisord.conf", f"{daemon}\n{programs}")

    def log_file(self, node: str) -> Path:
        """Where the output of a node goes."""
        return self.folder / "logs" / f"{node}.log"


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
