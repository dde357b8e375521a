"""For the tests of `evercache render`: three hosts on loopback addresses, each under its Supervisor."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from tests.servers import find_server, free_port, wait_for

from evercache.errors import ServerError, UnavailableError
from evercache.ops import deploy
from evercache.ops.doctor import examine, gather
from evercache.ops.remote import targets_of
from evercache.ops.survey import Survey, ask, survey
from evercache.protocol.types import Address

__all__ = ["VERSIONS", "Rendered", "described", "plain_path"]

#: The version that a description has for each kind of server of the tests.
VERSIONS = {"valkey": ("valkey", "9.1"), "redis6": ("redis", "6.2"), "redis7": ("redis", "7.0")}


def plain_path(folder: Path, kind: str) -> str:
    """The server of the tests by a path of plain characters: the folder of a clone may have others."""
    link = folder / "bin" / f"{kind}-server"
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(find_server(kind))
    return str(link)


def described(folder: Path, kind: str, **more: Any) -> dict[str, Any]:
    """The content of a TOML file for three hosts on this machine, in folders below `folder`."""
    name, version = VERSIONS[kind]
    values: dict[str, Any] = {
        "name": "shop",
        "server": {"kind": name, "version": version, "binary": plain_path(folder, kind), "memory": "64mb"},
        "passwords": {role: f"file:passwords/{role}" for role in deploy.ROLES},
        "ports": {"node": free_port(), "sentinel": free_port()},
        "sentinel": {"down_after_ms": 3000},
        "paths": {
            "config": f"{folder}/etc/{{host}}",
            "data": f"{folder}/var/{{host}}",
            "user": getpass.getuser(),
        },
        "hosts": [{"name": f"cache-{n}", "address": f"127.0.0.{n}"} for n in (1, 2, 3)],
    }
    for part, settings in more.items():
        values[part] = {**values.get(part, {}), **settings} if isinstance(settings, dict) else settings
    return values


class Rendered:
    """Rendered, installed, and run by the scripts and files that a host gets. Not for several threads."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.values = dict(values)
        self.description = deploy.parse(values)
        deploy.generate_passwords(self.description, folder)
        self.passwords = deploy.read_passwords(self.description, folder)
        self.out = folder / "rendered"

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path, values: Mapping[str, Any], *, certificates: bool = False) -> Iterator[Rendered]:
        made = cls(folder, values)
        made.render(certificates=certificates)
        try:
            for host in made.hosts:
                made.install(host)
                made.start(host)
            made.hurry()
            made.wait_whole()
            yield made
        finally:
            made.close()

    @property
    def hosts(self) -> list[str]:
        return [host.name for host in self.description.hosts]

    def describe(self, **more: dict[str, Any]) -> None:
        """Change tables of the description."""
        for table, settings in more.items():
            self.values[table] = {**self.values.get(table, {}), **settings}
        self.description = deploy.parse(self.values)

    def address(self, host: str) -> str:
        """Of a host by its name."""
        (found,) = (one.address for one in self.description.hosts if one.name == host)
        return found

    def epoch(self) -> int:
        """The newest configuration epoch that a sentinel knows."""
        return max(one.epoch for one in self.survey().sentinels)

    def render(self, *, certificates: bool = False) -> None:
        further = deploy.read_further_passwords(self.description, self.folder)
        self.passwords = deploy.read_passwords(self.description, self.folder)
        deploy.write(self.out, deploy.render(self.description, self.passwords, "supervisor", further))
        if certificates:
            from evercache.ops.deploy.certificates import make_certificates

            make_certificates(self.description, self.out)

    def install(self, host: str) -> None:
        self._run("sh", str(self.out / host / "install.sh"))

    def start(self, host: str) -> None:
        self._run(sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(self._conf(host)))

    def control(self, host: str, *words: str) -> str:
        """`supervisorctl`, as the README has it."""
        command = [sys.executable, "-P", "-m", "supervisor.supervisorctl", "-c", str(self._conf(host)), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout

    def pid(self, host: str, program: str) -> int:
        """The process of `node` or `sentinel`; 0 if it does not run."""
        text = self.control(host, "pid", program).strip()
        return int(text) if text.isdigit() else 0

    def kill(self, host: str) -> None:
        """The data node, at once; its Supervisor starts it again after the delay."""
        os.kill(self.pid(host, "node"), signal.SIGKILL)

    def url(self, role: str) -> str:
        return (self.out / "urls" / f"{role}.url").read_text().strip()

    def command(
        self,
        host: str,
        *words: str | int,
        role: str = "operator",
        sentinel: bool = False,
        password: str | None = None,
    ) -> Any:
        url = self.url(role)
        if password is not None:
            url = url.replace(quote(self.passwords[role], safe=""), quote(password, safe=""))
        targets = targets_of(url)
        ports = self.description.ports
        port = ports.sentinel if sentinel else ports.node
        options = targets.sentinel_options if sentinel else targets.node_options
        options = msgspec.structs.replace(options, connect_timeout=5.0)  # machines of tests are busy
        return ask(Address(self.address(host), port), options, words, timeout=5)[0]

    def survey(self) -> Survey:
        return survey(targets_of(self.url("operator")))

    def master(self) -> str:
        """The name of the host whose node the sentinels name."""
        found = self.survey().master_name or ""
        return next((h.name for h in self.description.hosts if found.startswith(f"{h.address}:")), found)

    def hurry(self) -> None:
        """Have the sentinels look at the nodes every second instead of every ten: Redis 7 and later."""
        for host in self.description.sentinels:
            with contextlib.suppress(ServerError):
                words = ("SENTINEL", "DEBUG", "INFO-PERIOD", 1000)
                wait_for(lambda host=host, words=words: self._answered(host.name, *words), 20, "a sentinel")

    def _answered(self, host: str, *words: str | int) -> bool:
        try:
            self.command(host, *words, sentinel=True)
        except ServerError:
            raise
        except UnavailableError:
            return False
        return True

    def wait_whole(self, timeout: float = 45) -> None:
        last: tuple[str, ...] = ()

        def whole() -> bool:
            nonlocal last
            seen = self.survey()
            last = tuple(seen.problems)
            return seen.whole

        try:
            wait_for(whole, timeout, "the rendered deployment to be whole", 0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {last}\n{self.logs()}") from error

    def fired(self, role: str = "monitoring") -> list[tuple[str, str]]:
        results = examine(gather(self.url(role)))
        return [(r.check.name, one.seen) for r in results for one in r.findings if one.state == "found"]

    def logs(self) -> str:
        found = sorted((self.folder / "var").glob("*/supervisor/*.log"))
        return "\n".join(f"== {one}\n{one.read_text(errors='replace')[-1500:]}" for one in found)

    def close(self) -> None:
        """Kill every Supervisor, so that nothing is started again, then every server; by their ids."""
        var = self.folder / "var"
        for pattern in ("*/supervisor/supervisord.pid", "*/*/server.pid", "*/*/server.pid"):
            for path in var.glob(pattern):
                _kill(path, str(self.folder) if "supervisor" in path.name else f":{self._port(path)}")
        # One that was started just before its Supervisor ended has yet to write its id down.
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{self.folder}/".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    def _port(self, path: Path) -> int:
        ports = self.description.ports
        return ports.sentinel if path.parent.name == "sentinel" else ports.node

    def _conf(self, host: str) -> Path:
        return self.folder / "etc" / host / "supervisord.conf"

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr


def _kill(path: Path, mark: str) -> None:
    """The process of a pid file, if its command line has the mark; until it has ended."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(path.read_text())
        if mark in _command(pid):
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not _command(pid), 10, f"process {pid} to end")


def _command(pid: int) -> str:
    """Of a living process; that of a zombie is empty."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""
