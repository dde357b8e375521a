"""A real deployment for tests: one master, replicas, sentinels, slow links."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self
from urllib.parse import quote

from tests.proxy import DelayProxy
from tests.server import CliError, Server, free_port, wait_for

__all__ = ["Deployment"]


class Deployment:
    """One master, replicas and sentinels. Not for several threads at once; use as a context manager."""

    def __init__(self, name: str, kind: str, password: str | None, sentinel_password: str | None) -> None:
        self.name = name
        self.kind = kind
        self.password = password
        self.sentinel_password = sentinel_password
        self.nodes: list[Server] = []
        self.sentinels: list[Server] = []
        self.proxies: list[DelayProxy] = []
        self._options: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Deployment {self.name} {self.nodes} {self.sentinels}>"

    @classmethod
    def start(
        cls,
        kind: str = "valkey",
        *,
        replicas: int = 2,
        sentinels: int = 3,
        name: str = "evercache",
        password: str | None = None,
        sentinel_password: str | None = None,
        replica_delays: Sequence[float] = (),
        options: Mapping[str, str | int | Sequence[str]] | None = None,
        down_after_ms: int = 500,
        failover_timeout_ms: int = 2000,
    ) -> Deployment:
        """Start all and wait until whole. `replica_delays[i]` puts a `DelayProxy` before replica i.

        Sentinel sends a replica that follows another address than the master's back after
        `failover-timeout`; with delays that is therefore a minute, unless given larger.
        """
        self = cls(name, kind, password, sentinel_password)
        self._options = dict(options or {})
        try:
            master = Server.start(kind, password=password, options=self._options)
            self.nodes.append(master)
            starts = []
            for index in range(replicas):
                source: Server | DelayProxy = master
                if index < len(replica_delays) and (delay := replica_delays[index]):
                    source = DelayProxy(master.port, delay)
                    self.proxies.append(source)
                more = {"replica_of": source, "password": password, "options": self._options}
                starts.append(partial(Server.start, kind, **more))
            _start_together(starts, self.nodes)
            self._wait_online(master)
            if any(replica_delays):
                failover_timeout_ms = max(failover_timeout_ms, 60_000)
            self._start_sentinels(sentinels, down_after_ms, failover_timeout_ms)
            self.wait_whole()
        except BaseException:
            self.close()
            raise
        return self

    def _start_sentinels(self, count: int, down_after_ms: int, failover_timeout_ms: int) -> None:
        ids = [secrets.token_hex(20) for _ in range(count)]
        ports = [free_port() for _ in range(count)]
        starts = []
        for me in range(count):
            lines = [
                f"sentinel myid {ids[me]}",
                f"sentinel monitor {self.name} 127.0.0.1 {self.nodes[0].port} {count // 2 + 1}",
                f"sentinel down-after-milliseconds {self.name} {down_after_ms}",
                f"sentinel failover-timeout {self.name} {failover_timeout_ms}",
                f"sentinel parallel-syncs {self.name} 5",
            ]
            if self.password:
                lines.append(f"sentinel auth-pass {self.name} {self.password}")
            lines += [f"sentinel known-replica {self.name} 127.0.0.1 {node.port}" for node in self.nodes[1:]]
            more = {"password": self.sentinel_password, "port": ports[me]}
            starts.append(partial(Server.start, self.kind, sentinel_config="\n".join(lines) + "\n", **more))
        _start_together(starts, self.sentinels)
        self._introduce(ids, ports, self.nodes[0].port)

    def _introduce(self, ids: Sequence[str], ports: Sequence[int], master_port: int) -> None:
        """Greet in the name of each sentinel, so that all know each other at once.

        Their own greetings come every two seconds. If they knew each other from their files, each would try once to
        connect to those who have not started yet, and again a second later.
        """
        master, channel = self.nodes[0], "__sentinel__:hello"
        wait_for(lambda: master.cli("PUBSUB", "NUMSUB", channel)[1] == len(ids), 10, "the sentinels to subscribe")
        for port, name in zip(ports, ids, strict=True):
            greeting = f"127.0.0.1,{port},{name},0,{self.name},127.0.0.1,{master_port},0"
            master.cli("PUBLISH", channel, greeting)

    def _wait_online(self, master: Server) -> None:
        wait_for(lambda: _online(master, len(self.nodes) - 1), 20, f"the replicas of {master!r}")

    def wait_settled(self, timeout: float = 15.0) -> None:
        """Until all living sentinels name one master and no failover is under way.

        A master that is restarted earlier may set off another failover.
        """

        def settled() -> bool:
            seen = set()
            for sentinel in self.sentinels:
                if sentinel.alive:
                    facts = _pairs(sentinel.cli("SENTINEL", "MASTER", self.name))
                    if "failover_in_progress" in facts["flags"]:
                        return False
                    seen.add((facts["port"], facts["config-epoch"]))
            return len(seen) == 1

        wait_for(settled, timeout, f"{self!r} to settle")

    def wait_whole(self, timeout: float = 30.0) -> None:
        """Until all replicas are online and every sentinel sees a healthy master, replicas and sentinels."""

        def whole() -> bool:
            master = self._find_master()
            if master is None or not _online(master, len(self.nodes) - 1):
                return False
            for sentinel in self.sentinels:
                facts = _pairs(sentinel.cli("SENTINEL", "MASTER", self.name))
                replicas = [_pairs(one) for one in sentinel.cli("SENTINEL", "REPLICAS", self.name)]
                others = [_pairs(one) for one in sentinel.cli("SENTINEL", "SENTINELS", self.name)]
                if facts["flags"] != "master" or int(facts["port"]) != master.port:
                    return False
                if len(others) != len(self.sentinels) - 1 or any(_ill(o) for o in others):
                    return False
                fine = [r for r in replicas if r["flags"] == "slave" and r["master-link-status"] == "ok"]
                if len(fine) != len(self.nodes) - 1 or len(replicas) != len(fine):
                    return False
            return True

        wait_for(whole, timeout, f"the sentinels of {self!r} to see all")

    def _find_master(self) -> Server | None:
        """The master of the newest configuration epoch that a living sentinel knows; else by ROLE."""
        best: tuple[int, int] | None = None
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError, CliError):
                address, facts = sentinel.cli_many(
                    [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name), ("SENTINEL", "MASTER", self.name)],
                    timeout=0.5,
                )
                seen = (int(_pairs(facts)["config-epoch"]), int(address[1]))
                best = max(best, seen) if best else seen
        if best is not None:
            return next((node for node in self.nodes if node.port == best[1]), None)
        for node in self.nodes:
            with contextlib.suppress(OSError, CliError):
                if node.cli("ROLE", timeout=0.5)[0] == "master":
                    return node
        return None

    def master(self) -> Server:
        """The master as the sentinels (without any: the nodes) say now; it may be dead."""
        found = self._find_master()
        if found is None:
            raise LookupError(f"no master in {self!r}")
        return found

    @property
    def replicas(self) -> list[Server]:
        """Every data node but the master, dead ones too."""
        master = self.master()
        return [node for node in self.nodes if node is not master]

    @property
    def url(self) -> str:
        """The `sentinel://` URL of the deployment."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        more = f"?sentinel_password={quote(self.sentinel_password, safe='')}" if self.sentinel_password else ""
        return f"sentinel://{secret}{hosts}/{self.name}{more}"

    def failover(self, *arguments: str, timeout: float = 15.0) -> Server:
        """A planned failover (`arguments`: "COORDINATED" on Valkey 9); returns the new master."""
        old = self.master()

        def accepted() -> bool:
            return bool(self.sentinels[0].cli("SENTINEL", "FAILOVER", self.name, *arguments) == "OK")

        wait_for(accepted, timeout, "SENTINEL FAILOVER to be accepted")
        return self.wait_new_master(old, timeout)

    def wait_new_master(self, old: Server, timeout: float = 15.0) -> Server:
        """Until the sentinels name another master than `old` and it says itself that it is one."""

        def promoted() -> Server | None:
            found = self._find_master()
            if found is None or found is old or found.cli("ROLE", timeout=0.5)[0] != "master":
                return None
            return found

        return wait_for(promoted, timeout, f"another master than {old!r}")  # type: ignore[no-any-return]

    def add_replica(self, delay: float = 0.0) -> Server:
        """Start one more replica and wait until the master has it online (sentinels hear of it in 10 s)."""
        master = self.master()
        source: Server | DelayProxy = master
        if delay:
            source = DelayProxy(master.port, delay)
            self.proxies.append(source)
        server = Server.start(self.kind, replica_of=source, password=self.password, options=self._options)
        self.nodes.append(server)
        wait_for(lambda: server.info("replication").get("master_link_status") == "up", 20, f"{server!r} in sync")
        return server

    def close(self) -> None:
        """Kill everything and remove it."""
        for server in [*self.sentinels, *self.nodes]:
            server.close()
        for proxy in self.proxies:
            proxy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_together(starts: Sequence[Callable[[], Server]], servers: list[Server]) -> None:
    """Start them at the same time, and append those that started; raises what the first of the others raised."""
    with ThreadPoolExecutor(max(1, len(starts))) as pool:
        futures = [pool.submit(start) for start in starts]
    servers += [future.result() for future in futures if future.exception() is None]
    for future in futures:
        future.result()


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _online(master: Server, count: int) -> bool:
    facts = master.info("replication")
    return sum("state=online" in value for name, value in facts.items() if name[:5] == "slave") == count


def _ill(sentinel: dict[str, str]) -> bool:
    # "master_down" is what the other last said of the master, kept long after it recovered.
    return bool({"s_down", "o_down", "disconnected"} & set(sentinel["flags"].split(",")))
