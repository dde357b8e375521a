"""Real servers whose every link can be made slow, silent, broken or wrong.

Each server has a *gate* that it announces as its address: the links among servers pass there, and are told apart by
the source address of whoever connects. Each group of clients has gates of its own, by an address map.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deployment import Deployment
from tests.gate import Gate, GateLoop, Rule
from tests.server import CliError, Server, free_port, wait_for

__all__ = ["GROUPS", "Access", "Stage"]

#: The groups of clients: the writer's, and two that a fault may treat differently.
GROUPS = ("w", "a", "b")

#: Sentinels see a silent server as down after so long (ms); enough that a busy machine is no failover.
DOWN_AFTER = 800


@dataclass(frozen=True, slots=True)
class Access:
    """How one group of clients reaches the deployment: its URL, and the address map (announced port → own)."""

    url: str
    ports: Mapping[int, int]
    #: Announced ports that the group knows by a host name instead.
    names: Mapping[int, str]

    def as_json(self) -> str:
        return json.dumps([self.url, list(self.ports.items()), list(self.names.items())])

    @classmethod
    def from_json(cls, text: str) -> Access:
        url, ports, names = json.loads(text)
        return cls(url, dict(ports), dict(names))


class Stage(Deployment):
    """One master, two replicas, three sentinels behind gates. Not for several threads at once."""

    def __init__(self, password: str | None, options: Mapping[str, str | int]) -> None:
        super().__init__("faults", "valkey", password, None)
        self.gates = GateLoop()
        self._options = dict(options)
        #: The gates that servers announce, by the server's real port.
        self.fronts: dict[int, Gate] = {}
        self.group_gates: dict[str, dict[int, Gate]] = {group: {} for group in GROUPS}
        self.names: dict[int, str] = {}
        self.promotions: list[float] = []
        self._over = threading.Event()
        self._watch: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        *,
        password: str | None = None,
        options: Mapping[str, str | int] | None = None,
        failover_timeout_ms: int = 3000,
    ) -> Stage:
        """Start all, and wait until it is whole."""
        self = cls(password, options or {})
        try:
            for index in range(3):
                self.nodes.append(self._start_node(index))
            self._wait_online(self.nodes[0])
            self._start_behind_gates(failover_timeout_ms)
            for group in GROUPS:
                for server in [*self.nodes, *self.sentinels]:
                    self.group_gates[group][server.port] = self.gates.gate(server.port)
            self.wait_whole()
        except BaseException:
            self.close()
            raise
        self._watch = threading.Thread(target=self._watch_roles, daemon=True)
        self._watch.start()
        return self

    def _start_node(self, index: int) -> Server:
        port = free_port()
        front = self.fronts[port] = self.gates.gate(port)
        options: dict[str, str | int] = {
            "replica-announce-ip": "127.0.0.1",
            "replica-announce-port": front.port,
            "bind-source-addr": self.source(index),
            **self._options,
        }
        if index:
            options["replicaof"] = f"127.0.0.1 {self.fronts[self.nodes[0].port].port}"
        return Server.start("valkey", password=self.password, port=port, options=options)

    @staticmethod
    def source(index: int) -> str:
        """The address from which node `index` connects (sentinels: 10 + index)."""
        return f"127.0.0.{20 + index}"

    def _start_behind_gates(self, failover_timeout_ms: int) -> None:
        ids = [secrets.token_hex(20) for _ in range(3)]
        ports = [free_port() for _ in range(3)]
        fronts = [self.gates.gate(port) for port in ports]
        self.fronts |= dict(zip(ports, fronts, strict=True))
        for me in range(3):
            lines = [
                f"sentinel myid {ids[me]}",
                "sentinel announce-ip 127.0.0.1",
                f"sentinel announce-port {fronts[me].port}",
                f"sentinel monitor {self.name} 127.0.0.1 {self.front(self.nodes[0])} 2",
                f"sentinel down-after-milliseconds {self.name} {DOWN_AFTER}",
                f"sentinel failover-timeout {self.name} {failover_timeout_ms}",
                f"sentinel parallel-syncs {self.name} 5",
            ]
            if self.password:
                lines.append(f"sentinel auth-pass {self.name} {self.password}")
            lines += [f"sentinel known-replica {self.name} 127.0.0.1 {self.front(n)}" for n in self.nodes[1:]]
            self.sentinels.append(
                Server.start(
                    "valkey",
                    port=ports[me],
                    options={"bind-source-addr": self.source(10 + me)},
                    sentinel_config="\n".join(lines) + "\n",
                )
            )
        self._introduce(ids, [front.port for front in fronts], self.front(self.nodes[0]))

    def front(self, server: Server) -> int:
        """The port that a server announces."""
        return self.fronts[server.port].port

    def access(self, group: str) -> Access:
        """For one group of clients."""
        gates = self.group_gates[group]
        ports = {self.front(s): gates[s.port].port for s in [*self.nodes, *self.sentinels]}
        names = {self.front(s): self.names[s.port] for s in self.nodes if s.port in self.names}
        hosts = ",".join(f"127.0.0.1:{gates[s.port].port}" for s in self.sentinels)
        secret = f":{self.password}@" if self.password else ""
        return Access(f"sentinel://{secret}{hosts}/{self.name}", ports, names)

    # -- what Deployment asks, by announced ports

    def _find_master(self) -> Server | None:
        best: tuple[int, int] | None = None
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError, CliError):
                facts = self._facts(sentinel)
                seen = (int(facts["config-epoch"]), int(facts["port"]))
                best = max(best, seen) if best else seen
        if best is None:
            return super()._find_master()
        return next((node for node in self.nodes if self.front(node) == best[1]), None)

    def _facts(self, sentinel: Server) -> dict[str, str]:
        flat = sentinel.cli("SENTINEL", "MASTER", self.name, timeout=0.5)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def wait_whole(self, timeout: float = 30.0) -> None:
        """Until both replicas follow the master that every sentinel names, and all of them see it well.

        What sentinels think of the replicas is not waited for: they ask them every ten seconds only.
        """

        def whole() -> bool:
            master = self._find_master()
            if master is None or master.cli("ROLE", timeout=0.5)[0] != "master":
                return False
            facts = master.info("replication")
            if sum("state=online" in v for k, v in facts.items() if k[:5] == "slave") != 2:
                return False
            seen = [self._facts(sentinel) for sentinel in self.sentinels]
            return all(one["flags"] == "master" and int(one["port"]) == self.front(master) for one in seen)

        try:
            wait_for(whole, timeout, f"{self!r} to be whole", pause=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self._state()}") from None

    def _state(self) -> str:
        """What the servers say of themselves and of each other."""
        said = []
        for server in [*self.nodes, *self.sentinels]:
            try:
                if server.sentinel:
                    facts = self._facts(server)
                    said.append(f"sentinel: {facts['flags']} {facts['port']} epoch {facts['config-epoch']}")
                else:
                    role = server.cli("ROLE", timeout=1.0)
                    said.append(f"{self.front(server)}: {role[0]} {role[1:4] if role[0] == 'slave' else role[2]}")
            except (OSError, CliError) as error:
                said.append(f"{server!r}: {error!r}")
        return "; ".join(said)

    # -- faults of links

    def clients_see(self, server: Server, rule: Rule, groups: tuple[str, ...] = GROUPS) -> None:
        """How the clients of these groups reach a server from now on."""
        for group in groups:
            self.group_gates[group][server.port].set(rule)

    def servers_see(self, server: Server, rule: Rule, source: int | None = None) -> None:
        """How other servers reach it; with `source`: one node (10 + index: a sentinel)."""
        self.fronts[server.port].set(rule, None if source is None else self.source(source))

    def heal_links(self) -> None:
        """Every gate lets everything through."""
        for gate in self.gates.gates:
            gate.heal()

    def mend(self, timeout: float = 60.0) -> None:
        """Start what is dead, thaw what is frozen, heal the links, and wait until it is whole."""
        self.heal_links()
        for server in [*self.sentinels, *self.nodes]:
            if server.alive:
                server.thaw()
            else:
                server.restart()
        self.rejoin()
        self.wait_whole(timeout)

    def rejoin(self) -> None:
        """Tell a former master whom to follow; Sentinel would do so after ten seconds."""
        master = self.master()
        for node in self.nodes:
            if node is not master and node.alive and node.cli("ROLE")[0] == "master":
                node.cli("REPLICAOF", "127.0.0.1", self.front(master))

    def failover(self, *arguments: str, timeout: float = 40.0) -> Server:
        """A planned failover; asked for again when the sentinels gave it up, as they do on a busy machine."""
        end = time.monotonic() + timeout
        while True:
            try:
                return super().failover(*arguments, timeout=8.0)
            except TimeoutError:
                if time.monotonic() > end:
                    raise

    # -- promotions

    def _watch_roles(self) -> None:
        """Note the moment at which a replica says that it is the master."""
        before: dict[int, str] = {}
        while not self._over.wait(0.04):
            for node in self.nodes:
                with contextlib.suppress(OSError, CliError):
                    role = node.cli("ROLE", timeout=0.2)[0]
                    if role == "master" and before.get(node.port) == "slave":
                        self.promotions.append(time.monotonic())
                    before[node.port] = role

    def close(self) -> None:
        """Kill everything and remove it."""
        self._over.set()
        if self._watch is not None:
            self._watch.join(5)
        super().close()
        self.gates.close()

    @property
    def folder(self) -> Path:
        """The working directory of node 0, for what its files suffer."""
        return self.nodes[0].dir

    def remove_folder(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def __enter__(self) -> Any:
        return self
