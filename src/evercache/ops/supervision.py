"""Supervisor (the package `supervisor`) as the parent of a local deployment's processes."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evercache.errors import DeploymentError, ServerMissing
from evercache.ops.config import DeploymentConfig, socket_path

__all__ = ["ProcessState", "Supervision", "end_strays", "process_command", "strays", "wait_until"]

_GONE = (ConnectionError, FileNotFoundError, http.client.HTTPException, TimeoutError)
#: Faults of Supervisor that mean "it is so already".
_ALREADY_ADDED, _ALREADY_STARTED, _NOT_RUNNING = 90, 60, 70


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.02) -> bool:
    """Ask again until it is true (returned) or `timeout` seconds are over (False)."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What Supervisor says of one process. `state` is its word: RUNNING, STOPPED, EXITED, FATAL, ..."""

    name: str
    state: str
    pid: int
    frozen: bool = False

    @property
    def alive(self) -> bool:
        """Whether there is a process (a frozen one is)."""
        return self.state in {"RUNNING", "STARTING", "STOPPING"} and self.pid > 0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path, self._timeout)
        self._connection = host, connection  # what `close` of the base class closes
        return connection


class Supervision:
    """Starts, asks and ends the Supervisor of one deployment. Holds no state; safe for threads."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._identity = f"evercache-{name}"

    def __repr__(self) -> str:
        return f"<Supervision {self._folder}>"

    def _call(self, method: str, *arguments: Any, timeout: float = 15.0) -> Any:
        # One connection for each call: no state, nothing that breaks at a fork.
        transport = _Transport(socket_path(self._folder), timeout)
        with xmlrpc.client.ServerProxy("http://localhost", transport) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*arguments)
            except (xmlrpc.client.ProtocolError, *_GONE) as error:
                raise DeploymentError(
                    f"the Supervisor of this deployment does not answer ({error}): run `evercache up`"
                ) from error

    def running(self) -> bool:
        """Whether our Supervisor answers on its socket (a stale socket or process id file does not count)."""
        try:
            return bool(self._call("getIdentification", timeout=3.0) == self._identity)
        except DeploymentError:
            return False

    def start(self) -> None:
        """Start it in the background; it starts no node by itself."""
        if importlib.util.find_spec("supervisor") is None:
            raise ServerMissing("the package `supervisor` is missing: run `pip install 'evercache[server]'`")
        self._end_deaf_one()
        # -P: the folder must not be able to shadow a module.
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
        done = subprocess.run(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us alone, who then end it in order
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
        if done.returncode != 0 or not wait_until(self.running, 10):
            log = self._folder / "logs" / "supervisord.log"
            said = (done.stderr or done.stdout).strip()[-500:]
            raise DeploymentError(f"Supervisor did not start: {said or 'it gave no reason'}; its log is {log}")

    def _end_deaf_one(self) -> None:
        """A Supervisor whose socket was removed hears nothing: it must not own nodes beside a new one."""
        with suppress(OSError, ValueError):
            pid = int((self._folder / "supervisord.pid").read_text())
            if "supervisor.supervisord" in process_command(pid) and _lives_in(pid, self._folder):
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda: not process_command(pid), 15)
        socket_path(self._folder).unlink(missing_ok=True)

    def processes(self) -> dict[str, ProcessState]:
        """All processes by name; empty if Supervisor does not run."""
        try:
            rows = self._call("getAllProcessInfo")
        except DeploymentError:
            return {}
        found = {}
        for row in rows:
            pid = int(row["pid"])
            frozen = pid > 0 and _process_status(pid).startswith("T")
            found[row["name"]] = ProcessState(row["name"], row["statename"], pid, frozen)
        return found

    def start_node(self, name: str) -> None:
        """Start a process that is dead at once, whatever ended it; nothing if it runs."""
        (self._folder / name / "server.pid").unlink(missing_ok=True)
        self._accept(_ALREADY_STARTED, "startProcess", name, False)

    def kill_node(self, name: str) -> None:
        """SIGKILL it; it stays dead until it is started. Nothing if it is dead."""
        self._accept(_NOT_RUNNING, "stopProcess", name, True)

    def signal_node(self, name: str, signal_name: str) -> bool:
        """Send a signal ("STOP", "CONT", "TERM"); False if there is no process."""
        return self._accept(_NOT_RUNNING, "signalProcess", name, signal_name)

    def add_node(self, name: str) -> None:
        """Take a process that was added to the configuration file under supervision."""
        self._call("reloadConfig")
        self._accept(_ALREADY_ADDED, "addProcessGroup", name)

    def stop_politely(self, names: list[str], timeout: float = 10.0) -> None:
        """SIGTERM to all at once, so that append-only files are flushed; after `timeout` seconds SIGKILL."""
        for name in names:
            self.signal_node(name, "TERM")
            self.signal_node(name, "CONT")

        def ended() -> bool:
            states = self.processes()
            return not any(states[name].alive for name in names if name in states)

        wait_until(ended, timeout, 0.05)
        for name in names:
            self.kill_node(name)

    def shut_down(self) -> None:
        """End Supervisor and what still runs under it."""
        pid = int(self._call("getPID"))
        self._call("shutdown")
        if not wait_until(lambda: not process_command(pid), 15, 0.05):
            raise DeploymentError(f"Supervisor (process {pid}) does not end: kill it")

    def _accept(self, fault: int, method: str, *arguments: Any) -> bool:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as error:
            if error.faultCode != fault:
                raise DeploymentError(f"Supervisor refused {method} {arguments[0]}: {error.faultString}") from error
            return False
        return True


def end_orphans(config: DeploymentConfig) -> list[str]:
    """End nodes that outlived their Supervisor (it was killed); the names of those that there were."""
    found: dict[str, int] = {}
    for node in config.nodes:
        with suppress(OSError, ValueError):
            pid = int((config.folder / node.name / "server.pid").read_text())
            # The title that a server gives itself names its address: the id was not used again.
            if f":{node.port}" in process_command(pid):
                found[node.name] = pid
    for pid in found.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not any(process_command(pid) for pid in found.values()), 10, 0.05)
    for pid in found.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(process_command(pid) for pid in found.values()), 5, 0.05)
    return list(found)


def strays(home: Path) -> dict[str, list[int]]:
    """Servers and Supervisors of this user that work in folders below `home`, which may be gone, by deployment: the
    Supervisor first. Empty where the system does not show the folder of a process."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            folder = Path(os.readlink(entry / "cwd").removesuffix(" (deleted)"))
            name = folder.relative_to(home).parts[0]
        except (OSError, ValueError, IndexError):
            continue
        command = process_command(int(entry.name))
        if "supervisor.supervisord" in command:
            found.setdefault(name, []).insert(0, int(entry.name))
        elif re.match(r"\S*(valkey|redis)-server |/bin/sh \.\./run\.sh", command):
            found.setdefault(name, []).append(int(entry.name))
    return found


def end_strays(home: Path, name: str) -> list[int]:
    """End what is left of a deployment: its Supervisor first, which would start its servers again."""
    ids = strays(home).get(name, [])
    for pid in ids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda pid=pid: not process_command(pid), 10, 0.05)  # type: ignore[misc]
    for pid in strays(home).get(name, []):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not strays(home).get(name), 5, 0.05)
    return ids


def process_command(pid: int) -> str:
    """The command line of a living process; empty if there is none (or only its unread end)."""
    status = _process_status(pid)
    if not status or status.startswith("Z"):
        return ""
    return _ps(pid, "command=")


def _process_status(pid: int) -> str:
    return _ps(pid, "state=")


def _ps(pid: int, column: str) -> str:
    """`/proc` where there is one, `ps` elsewhere."""
    try:
        if column == "state=":
            # "pid (name) S ...": the name may hold anything, even a parenthesis.
            return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    done = subprocess.run(
        ["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False, errors="replace"
    )
    return done.stdout.strip()


def _lives_in(pid: int, folder: Path) -> bool:
    """Whether a process works in this folder; where the system does not tell, the id file is believed."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()
    except OSError:
        return not Path("/proc/self/cwd").exists()
