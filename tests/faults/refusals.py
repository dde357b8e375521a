"""Faults of servers that answer, and refuse: full, forbidden, flushed, evicting."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import hiredis

from tests.faults.catalog import DYING, Scene, fault
from tests.faults.judge import Bounds
from tests.server import CliError, Server, wait_for

__all__: list[str] = []


def drop_clients(server: Server) -> None:
    """Close the connections of the cache, so that it must connect again."""
    for line in str(server.cli("CLIENT", "LIST")).splitlines():
        facts = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
        if facts.get("name", "").startswith("evercache"):
            with contextlib.suppress(CliError):
                server.cli("CLIENT", "KILL", "ID", facts["id"])


@fault("out of memory", "`maxmemory` below what is used, `noeviction`: OOM at every write")
def _oom(scene: Scene) -> Iterator[None]:
    scene.master.cli("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1000000")
    yield
    scene.master.cli("CONFIG", "SET", "maxmemory", "0")


@fault(
    "misconf",
    "the master cannot save, and refuses writes (`stop-writes-on-bgsave-error`): Sentinel replaces it",
    repeats=False,
)
def _misconf(scene: Scene) -> Iterator[None]:
    master = scene.master
    master.cli("CONFIG", "SET", "save", "3600 100000000", "stop-writes-on-bgsave-error", "yes")
    # Its working directory is gone for as long as that: no permission can stop a test that runs as root.
    away = master.dir.with_name(master.dir.name + "-away")
    shutil.copytree(master.dir, away)
    shutil.rmtree(master.dir)

    def refused() -> bool:
        with contextlib.suppress(CliError):
            master.cli("BGSAVE")
        return master.info("persistence")["rdb_last_bgsave_status"] == "err"

    wait_for(refused, 5, "BGSAVE to fail")
    yield
    master.cli("CONFIG", "SET", "stop-writes-on-bgsave-error", "no", "save", "")
    away.rename(master.dir)


@fault(
    "password changed",
    "on all nodes, and changed back; every client is dropped, and who connects anew is refused meanwhile",
    bounds=DYING,
    password="first-secret",
)
def _password(scene: Scene) -> Iterator[None]:
    nodes = [scene.master, *scene.replicas]
    for node in nodes:
        node.cli("CONFIG", "SET", "requirepass", "another-secret")
        node.password = "another-secret"
    for node in nodes:
        drop_clients(node)
    yield
    for node in nodes:
        node.cli("CONFIG", "SET", "requirepass", "first-secret")
        node.password = "first-secret"


@fault(
    "eviction of everything",
    "`allkeys-lru` with little memory: bookkeeping is evicted too",
)
def _allkeys(scene: Scene) -> Iterator[None]:
    master = scene.master
    used = int(master.info("memory")["used_memory"])
    master.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", str(used + 300_000))
    end = time.monotonic() + (1.0 if scene.quick else 3.0)
    number = 0
    while time.monotonic() < end:
        with contextlib.suppress(CliError):  # nothing left to evict, for this moment
            master.cli_many([("SET", f"other:{number + i}", "x" * 1000) for i in range(50)])
        number += 50
        time.sleep(0.05)
    yield
    master.cli("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
    master.cli("EVAL", "for i = 0, tonumber(ARGV[1]) do redis.call('UNLINK', 'other:' .. i) end", 0, number)


@fault("flushall", "`FLUSHALL`, every half second")
def _flushall(scene: Scene) -> Iterator[None]:
    for _ in range(2 if scene.quick else 6):
        scene.master.cli("FLUSHALL")
        time.sleep(0.5)
    yield


@fault("script flush", "`SCRIPT FLUSH`, every 0.2 s")
def _script_flush(scene: Scene) -> Iterator[None]:
    for _ in range(5 if scene.quick else 15):
        scene.master.cli("SCRIPT", "FLUSH")
        time.sleep(0.2)
    yield


@fault("noreplicas", "`min-replicas-to-write 3` with two replicas: every write is refused")
def _noreplicas(scene: Scene) -> Iterator[None]:
    scene.master.cli("CONFIG", "SET", "min-replicas-to-write", "3")
    yield
    scene.master.cli("CONFIG", "SET", "min-replicas-to-write", "0")


@fault("scripts denied", "the ACL denies EVAL and EVALSHA at the master")
def _scripts_denied(scene: Scene) -> Iterator[None]:
    scene.master.cli("ACL", "SETUSER", "default", "-eval", "-evalsha")
    yield
    scene.master.cli("ACL", "SETUSER", "default", "+@all")


@fault(
    "log denied",
    "the ACL denies XREAD at the master: no invalidation is heard there",
    bounds=Bounds(stale=1.1, why="without the log: `max_staleness` (1 s) and a message"),
)
def _log_denied(scene: Scene) -> Iterator[None]:
    scene.master.cli("ACL", "SETUSER", "default", "-xread")
    yield
    scene.master.cli("ACL", "SETUSER", "default", "+@all")


@fault("reads denied", "the ACL denies GET at one replica")
def _get_denied(scene: Scene) -> Iterator[None]:
    scene.replicas[0].cli("ACL", "SETUSER", "default", "-get")
    yield
    scene.replicas[0].cli("ACL", "SETUSER", "default", "+@all")


@fault("maxclients", "the master takes no more connections, and closed those of the cache")
def _maxclients(scene: Scene) -> Iterator[None]:
    master = scene.master
    before = str(master.cli("CONFIG", "GET", "maxclients")[1])
    listed = str(master.cli("CLIENT", "LIST")).splitlines()
    ours = [line for line in listed if " name=evercache" in line]
    # One connection does all of it: there will be no place for another.
    ids = [dict(p.split("=", 1) for p in line.split(" ") if "=" in p)["id"] for line in ours]
    limit = max(1, len(listed) - len(ours) + 1)
    with master_connection(master) as send:
        send("CONFIG", "SET", "maxclients", limit)
        for one in ids:
            send("CLIENT", "KILL", "ID", one)
        yield
        send("CONFIG", "SET", "maxclients", before)


@contextlib.contextmanager
def master_connection(server: Server) -> Iterator[Callable[..., Any]]:
    """A connection that stays: a function that sends one command and waits for its answer."""
    with socket.create_connection(("127.0.0.1", server.port), 5.0) as connection:
        reader = hiredis.Reader(encoding="utf-8")

        def send(*command: Any) -> Any:
            connection.sendall(hiredis.pack_command(tuple(command)))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            return reply

        yield send
