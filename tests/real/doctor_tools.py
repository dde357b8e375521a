"""For the tests of `evercache doctor`: a sound deployment with three loopback addresses as its hosts."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from tests.servers import CliError, Server, find_server, free_port, wait_for

from evercache.ops.cli.doctor_show import doctor_as_tables
from evercache.ops.doctor import Facts, examine, gather
from evercache.ops.doctor.registry import is_command

__all__ = ["Hall", "Loose", "findings", "fired", "followed", "run_as_printed"]

NAME = "shop"
NODE_SECRET = "node-Secret/1"
SENTINEL_SECRET = "sentinel-Secret/2"
DOWN_AFTER_MS = 3000

#: What keeps a node from firing any check.
SOUND: dict[str, str | int] = {
    "bind": "127.0.0.1 127.0.0.2 127.0.0.3",
    "appendonly": "yes",
    "maxmemory": "64mb",
    "maxmemory-policy": "volatile-lru",
    "repl-backlog-size": "8mb",
    "enable-protected-configs": "yes",
}


class Hall:
    """A master, two replicas and three sentinels, one of each on 127.0.0.1, .2 and .3; not for several threads."""

    def __init__(self, kind: str = "valkey") -> None:
        self.nodes: list[Server] = []
        self.sentinels: list[Server] = []
        self.kind = kind
        #: One sentinel more, of a test.
        self.further: Server | None = None
        self.ids = [secrets.token_hex(20) for _ in range(3)]

    @classmethod
    @contextlib.contextmanager
    def open(cls, kind: str = "valkey") -> Iterator[Hall]:
        hall = cls.started(kind)
        try:
            yield hall
        finally:
            hall.close()

    @classmethod
    def started(cls, kind: str = "valkey") -> Hall:
        """One that is to be closed."""
        hall = cls(kind)
        try:
            hall._start()
        except BaseException:
            hall.close()
            raise
        return hall

    def close(self) -> None:
        """Kill everything and remove it; again is fine."""
        for server in (*self.sentinels, *self.nodes):
            server.close()

    def _start(self) -> None:
        for place in range(3):
            options = SOUND | {"replica-announce-ip": f"127.0.0.{place + 1}"}
            master = self.nodes[0] if place else None
            node = Server.start(self.kind, replica_of=master, password=NODE_SECRET, options=options)
            self.nodes.append(node)
        ports = [free_port() for _ in range(3)]
        for place in range(3):
            lines = [f"sentinel myid {self.ids[place]}", f"sentinel announce-ip 127.0.0.{place + 1}"]
            lines += [f"sentinel known-replica {NAME} 127.0.0.{p + 1} {self.nodes[p].port}" for p in (1, 2)]
            lines += [
                f"sentinel known-sentinel {NAME} 127.0.0.{p + 1} {ports[p]} {self.ids[p]}"
                for p in range(3)
                if p != place
            ]
            self.sentinels.append(self.sentinel(lines, ports[place]))
        for sentinel in self.sentinels:
            with contextlib.suppress(CliError):  # how soon it sees what a node has become: Redis 7 and later
                sentinel.cli("SENTINEL", "DEBUG", "INFO-PERIOD", 1000)
        self.wait_sound()

    def sentinel(self, lines: list[str], port: int | None = None) -> Server:
        """One more, with lines of its own after the common ones."""
        common = [
            f"sentinel monitor {NAME} 127.0.0.1 {self.nodes[0].port} 2",
            f"sentinel auth-pass {NAME} {NODE_SECRET}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 60000",
            f"sentinel parallel-syncs {NAME} 1",
        ]
        ids = [line for line in lines if " myid " in line]
        text = "\n".join([*ids, *common, *(line for line in lines if line not in ids)]) + "\n"
        return Server.start(
            self.kind,
            password=SENTINEL_SECRET,
            port=port or free_port(),
            sentinel_config=text,
            options={"bind": str(SOUND["bind"])},
        )

    def url(self, *sentinels: str, more: str = "") -> str:
        """Of these sentinels (all three where none is named)."""
        named = sentinels or tuple(f"127.0.0.{p + 1}:{one.port}" for p, one in enumerate(self.sentinels))
        login = f":{quote(NODE_SECRET, safe='')}@"
        own = quote(SENTINEL_SECRET, safe="")
        return f"sentinel://{login}{','.join(named)}/{NAME}?sentinel_password={own}{more}"

    def where(self, place: int) -> str:
        """The address of a sentinel."""
        return f"127.0.0.{place + 1}:{self.sentinels[place].port}"

    def seen(self, place: int) -> dict[str, str]:
        """What a sentinel says of the master."""
        flat = self.sentinels[place].cli("SENTINEL", "MASTER", NAME)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def wait_sound(self, timeout: float = 45) -> None:
        """Until no check fires; a machine that stalls puts sentinels into TILT, for 30 s."""
        last: set[str] = set()

        def sound() -> bool:
            nonlocal last
            last = fired(gather(self.url()))
            return not last

        try:
            wait_for(sound, timeout, "the deployment to be sound", 0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {findings(gather(self.url()))}") from error

    def set(self, server: Server, name: str, value: str | int) -> contextlib.AbstractContextManager[None]:
        """A setting of a node, for a while."""

        @contextlib.contextmanager
        def changed() -> Iterator[None]:
            before = server.cli("CONFIG", "GET", name)[1]
            server.cli("CONFIG", "SET", name, value)
            try:
                yield
            finally:
                server.cli("CONFIG", "SET", name, before)

        return changed()

    @contextlib.contextmanager
    def without_password(self, node: Server) -> Iterator[None]:
        """A node that asks nobody for a password, for a while."""
        node.cli("CONFIG", "SET", "requirepass", "")
        node.password = None
        try:
            yield
        finally:
            with contextlib.suppress(CliError):  # it has a password again
                node.cli("CONFIG", "SET", "requirepass", NODE_SECRET)
            node.password = NODE_SECRET

    def sentinel_set(self, place: int, name: str, value: Any, back: Any) -> contextlib.AbstractContextManager[None]:
        """A setting of a sentinel, for a while."""

        @contextlib.contextmanager
        def changed() -> Iterator[None]:
            self.sentinels[place].cli("SENTINEL", "SET", NAME, name, value)
            try:
                yield
            finally:
                self.sentinels[place].cli("SENTINEL", "SET", NAME, name, back)

        return changed()


def run_as_printed(
    facts: Facts,
    check: str,
    folder: Path,
    passwords: Callable[[int], str | None],
    filled: Callable[[str], str] = str,
) -> list[str]:
    """Run the commands that the doctor prints for a check, line by line in a shell; what was run.

    `passwords` are of servers by their ports; `filled` puts something into the place of `<...>`.
    """
    result = next(one for one in examine(facts) if one.check.name == check)
    out = io.StringIO()
    Console(file=out, width=80).print(doctor_as_tables(facts, [result]), crop=False)
    lines = [filled(line.strip()) for line in out.getvalue().splitlines() if is_command(line.strip())]
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    shim = Path(__file__).with_name("valkey_cli.py")
    for name, text in (
        ("valkey-cli", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(shim))} "$@"'),
        ("sleep", "exec /bin/sleep 2"),  # what is to be 30 s apart
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    for line in lines:
        port = re.search(r" -p (\d+) ", line)
        password = passwords(int(port[1])) if port else None
        environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        environment |= {} if password is None else {"VALKEYCLI_AUTH": password}
        done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (line, done.stderr)
        # What only looks may find that something is still wrong.
        assert not done.stdout.startswith("(error)") or "CKQUORUM" in line, (line, done.stdout)
    return lines


def followed(
    hall: Hall, facts: Facts, check: str, by_hand: Callable[[Hall], contextlib.AbstractContextManager[None]] | None
) -> list[str]:
    """Follow the advice of a check: what its words say, and the commands as they are printed; the commands."""
    sentinels = [*hall.sentinels, *([hall.further] if hall.further is not None else [])]

    def password(port: int) -> str:
        return SENTINEL_SECRET if any(one.port == port for one in sentinels) else NODE_SECRET

    def filled(line: str) -> str:
        return line.replace("<password>", SENTINEL_SECRET if "sentinel-pass" in line else NODE_SECRET)

    with contextlib.nullcontext() if by_hand is None else by_hand(hall):
        return run_as_printed(facts, check, hall.nodes[0].dir, password, filled)


class Loose:
    """A server that is no child of ours, as `daemonize yes` makes it; or one without a file. Ended by its pid."""

    def __init__(self, folder: Path, lines: list[str], *, file: bool = True) -> None:
        self.port = free_port()
        binary = find_server("valkey")
        assert binary is not None
        told = [f"port {self.port}", "bind 127.0.0.1", f'dir "{folder}"', *lines]
        self._process: subprocess.Popen[bytes] | None = None
        if file:
            (folder / "loose.conf").write_text("\n".join(told) + "\n")
            subprocess.run([binary, str(folder / "loose.conf")], check=True, timeout=10, cwd=folder)
        else:
            words = [word for line in told for word in (f"--{line.split()[0]}", line.split(None, 1)[1].strip('"'))]
            self._process = subprocess.Popen([binary, *words], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            self.pid = int(wait_for(self._pid, 10, "a loose server to answer"))
        except BaseException:
            if self._process is not None:
                self._process.kill()
                self._process.wait(10)
            raise

    def _pid(self) -> str:
        info = str(self._probe().cli("INFO", "server"))
        return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)["process_id"]

    def _probe(self) -> Server:
        probe = Server.__new__(Server)
        probe.port, probe.password, probe.sentinel, probe.process = self.port, None, False, None
        probe.kind = "valkey"
        return probe

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)
        wait_for(lambda: not self._listens(), 10, "a loose server to end")

    def _listens(self) -> bool:
        try:
            self._pid()
        except (OSError, CliError):
            return False
        return True

    def __enter__(self) -> Loose:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fired(facts: Facts) -> set[str]:
    """The names of the checks that found something."""
    return {result.check.name for result in examine(facts) if result.state == "found"}


def findings(facts: Facts) -> list[tuple[str, str]]:
    """What was found, in words."""
    results = examine(facts)
    return [(r.check.name, one.seen) for r in results for one in r.findings if one.state == "found"]
