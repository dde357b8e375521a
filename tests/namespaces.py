"""Hosts as network namespaces, each with an address of its own, behind one switch that leads nowhere else.

Root and `ip` (iproute2) are needed. A host, and the way between any two, can be cut: packets are lost in silence
then, as they are where a cable is pulled or a firewall is wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Host", "Network", "namespaces_work"]

#: Within the namespaces only: nothing leads out of them.
PREFIX = "10.213.0"
_networks = itertools.count()


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def namespaces_work() -> str:
    """Why no network of namespaces can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs the command ip (package iproute2)"
    try:
        with Network(1):
            return ""
    except OSError as error:
        return f"no network namespaces here: {error}"


class Host:
    """One namespace. `processes` are those that were started by `start`."""

    def __init__(self, network: Network, number: int) -> None:
        self.number = number
        self.name = f"{network.name}-{number}"
        self.port = f"port{number}"  # of the switch
        self.address = f"{PREFIX}.{number}"
        self.processes: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"<Host {self.address} processes={len(self.pids())}>"

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """A process on this host, in a session of its own."""
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *argv], start_new_session=True, **options)
        self.processes.append(process)
        return process

    def run(self, argv: Sequence[str], timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *argv],
            capture_output=True, text=True, timeout=timeout, check=False, **options,
        )  # fmt: skip

    def pids(self) -> list[int]:
        """All that runs on this host."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in _ip("netns", "pids", self.name).split()]
        return []

    def kill(self) -> None:
        """The host loses its power: every process on it is gone at once."""
        for _ in range(50):
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05 if pids else 5)
            if not pids:
                self.processes.clear()
                return
            time.sleep(0.02)
        raise TimeoutError(f"{self} has processes that do not end")


class Network:
    """Hosts 1 to `count` behind one switch; a context manager that leaves nothing behind."""

    def __init__(self, count: int) -> None:
        self.name = f"evc-{os.getpid()}-{next(_networks)}"
        self._switch = f"{self.name}-switch"
        self.hosts = [Host(self, number) for number in range(1, count + 1)]

    def __repr__(self) -> str:
        return f"<Network {self.name} {self.hosts}>"

    def __enter__(self) -> Network:
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "switch", "up")
            for host in self.hosts:
                self._plug_in(host)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plug_in(self, host: Host) -> None:
        _ip("netns", "add", host.name)
        _ip(
            "-n", self._switch, "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", host.name
        )
        _ip("-n", self._switch, "link", "set", host.port, "master", "switch", "up")
        _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            _ip("-n", host.name, "link", "set", link, "up")

    def close(self) -> None:
        """End all that runs on the hosts, and remove them."""
        for host in self.hosts:
            host.kill()
        there = _ip("netns", "list")
        for name in (*(host.name for host in self.hosts), self._switch):
            if name in there.split():
                _ip("netns", "del", name)

    @contextlib.contextmanager
    def cut_off(self, host: Host) -> Iterator[None]:
        """Nothing reaches this host, and nothing leaves it."""
        _ip("-n", self._switch, "link", "set", host.port, "nomaster")
        try:
            yield
        finally:
            _ip("-n", self._switch, "link", "set", host.port, "master", "switch")

    @contextlib.contextmanager
    def cut_between(self, one: Host, other: Host) -> Iterator[None]:
        """These two do not reach each other; everybody else reaches both."""

        def isolated(state: str) -> None:
            for host in (one, other):
                _ip("-n", self._switch, "link", "set", host.port, "type", "bridge_slave", "isolated", state)

        isolated("on")
        try:
            yield
        finally:
            isolated("off")
