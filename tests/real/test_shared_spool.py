"""`spool=`: one file for several caches, processes and containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.nursery import Program
from tests.servers import Server, wait_for

from evercache import Cache

#: A process that invalidates while there is no master, and ends; or one that is there when there is one again.
LEAVES = """
import json, sys
from evercache import Cache
url, spool, namespace, *names = sys.argv[1:]
cache = Cache(url, spool=spool, namespace=namespace, budget=0.2)
for name in names:
    cache.invalidate_tag(name)
clients = cache._find()
cache.close()
print(len(clients.engine.state.journal.pending), flush=True)
"""
BRINGS = """
import sys
from evercache import Cache
url, spool, namespace = sys.argv[1:]
cache = Cache(url, spool=spool, namespace=namespace, budget=0.5)
cache.get("anything")
print("began", flush=True)
sys.stdin.readline()
clients = cache._find()
cache.close()
print(len(clients.engine.state.journal.pending), flush=True)
"""


#: A process that keeps the file locked.
LOCKS = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def leave(url: str, spool: Path, namespace: str, *names: str) -> None:
    """A process ends with these invalidations."""
    out, _ = Program(LEAVES, url, str(spool), namespace, *names, stderr=subprocess.DEVNULL).communicate()
    assert int(out) == len(names)


def brings(url: str, spool: Path, namespace: str) -> Program:
    """A process that has begun."""
    process = Program(BRINGS, url, str(spool), namespace, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == "began\n"
    return process


def marks(server: Server, namespace: str, db: int = 0) -> int:
    """How many tags were invalidated there."""
    return int(server.cli_many([("SELECT", db), ("ZCARD", f"{namespace}~marks")])[1])


def undelivered(spool: Path) -> list[dict[str, Any]]:
    """The lines that wait."""
    if not spool.exists():
        return []
    return [json.loads(line) for line in spool.read_text().splitlines() if not line.startswith("#")]


def test_each_invalidation_reaches_its_own_servers(tmp_path: Path) -> None:
    """Two deployments, two databases, two namespaces; whichever cache starts first."""
    spool = tmp_path / "spool"
    with Server.start("valkey") as one, Server.start("valkey") as two:
        places = [(one, 0, "shop"), (one, 1, "shop"), (one, 0, "site"), (two, 0, "shop")]
        one.freeze()
        two.freeze()
        for number, (server, db, namespace) in enumerate(places):
            leave(f"{server.url}/{db}", spool, namespace, *(f"{number}-{n}" for n in range(number + 1)))
        one.thaw()
        two.thaw()
        assert len(undelivered(spool)) == 10
        for number, (server, db, namespace) in reversed(list(enumerate(places))):
            process = brings(f"{server.url}/{db}", spool, namespace)
            wait_for(lambda: marks(server, namespace, db) == number + 1, 5)  # noqa: B023
            assert process.communicate("\n")[0] == "0\n"
            assert len(undelivered(spool)) == number * (number + 1) // 2
        assert not spool.exists()
        assert [marks(server, namespace, db) for server, db, namespace in places] == [1, 2, 3, 4]


def test_a_process_killed_before_it_could_deliver(tmp_path: Path) -> None:
    """It has read the file, and no master was there."""
    spool = tmp_path / "spool"
    with Server.start("valkey") as server:
        server.freeze()
        leave(server.url, spool, "shop", "a", "b")
        before = spool.read_bytes()
        for _ in range(2):
            process = brings(server.url, spool, "shop")
            time.sleep(0.1)
            process.kill()
            process.communicate()
        assert spool.read_bytes() == before
        process = brings(server.url, spool, "shop")
        assert process.communicate("\n")[0] == "2\n", "they go back"
        assert spool.read_bytes() == before
        server.thaw()
        process = brings(server.url, spool, "shop")
        wait_for(lambda: marks(server, "shop") == 2, 5)
        wait_for(lambda: not spool.exists(), 5)
        process.communicate("\n")


def test_many_processes_read_it_at_once(tmp_path: Path) -> None:
    """All obey what is in it, and each invalidation is made once."""
    spool = tmp_path / "spool"
    with Server.start("valkey") as server:
        server.freeze()
        leave(server.url, spool, "shop", *map(str, range(20)))
        fleet = [Program(BRINGS, server.url, str(spool), "shop", stderr=subprocess.DEVNULL) for _ in range(6)]
        for one in fleet:
            assert one.stdout.readline() == "began\n"
        server.thaw()
        wait_for(lambda: not spool.exists(), 8)
        for one in fleet:
            assert one.communicate("\n")[0] == "0\n"
        assert marks(server, "shop") == 20
        assert server.cli("XLEN", "shop~log") == 20


def test_killed_at_random_while_it_delivers(tmp_path: Path) -> None:
    """Whatever has reached the master by then: every one does in the end."""
    spool = tmp_path / "spool"
    with Server.start("valkey") as server:
        server.freeze()
        leave(server.url, spool, "shop", *map(str, range(200)))
        server.thaw()
        for number in range(12):
            process = Program(BRINGS, server.url, str(spool), "shop", stderr=subprocess.DEVNULL)
            time.sleep(0.01 * number)
            process.kill()
            process.communicate()
            if not spool.exists():
                break
        process = brings(server.url, spool, "shop")
        wait_for(lambda: not spool.exists(), 8)
        process.communicate("\n")
        assert marks(server, "shop") == 200


def test_containers_whose_processes_have_the_same_number(tmp_path: Path) -> None:
    """As pid 1 of each: nothing is named after it, and nothing is left beside the file."""
    spool, seen = tmp_path / "spool", set()
    with Server.start("valkey") as server:
        server.freeze()
        leave(server.url, spool, "shop", "a")
        fleet = [brings(server.url, spool, "shop") for _ in range(2)]
        seen = {path.name for path in tmp_path.iterdir()}
        server.thaw()
        wait_for(lambda: not spool.exists(), 8)
        for one in fleet:
            one.communicate("\n")
    assert seen == {"spool"}
    assert list(tmp_path.iterdir()) == []


def test_a_process_frozen_with_the_file_locked(tmp_path: Path) -> None:
    """The others start without it, and read it when it goes on."""
    spool = tmp_path / "spool"
    with Server.start("valkey") as server:
        server.freeze()
        leave(server.url, spool, "shop", "a")
        server.thaw()
        holder = Program(LOCKS, str(spool), stderr=subprocess.DEVNULL)
        assert holder.stdout.readline() == "locked\n"
        holder.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with Cache(server.url, spool=spool, namespace="shop") as cache:
            assert cache.get("k") is None
            assert time.monotonic() - began < 1.5
            assert marks(server, "shop") == 0
            holder.send_signal(signal.SIGCONT)
            holder.kill()
            holder.communicate()
            wait_for(lambda: marks(server, "shop") == 1, 5)
            wait_for(lambda: not spool.exists(), 5)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, valkey: Server) -> None:
    spool = tmp_path / "spool"
    spool.write_text('{"v": 1, "id": "0123456789abcdef", "kind": "t", "name": "0de917af2f0a48a3"}\n')
    tmp_path.chmod(0o500)
    try:
        with Cache(valkey.url, spool=spool, namespace="shop"):
            wait_for(lambda: marks(valkey, "shop") == 1, 5)
            wait_for(lambda: not undelivered(spool), 5)
    finally:
        tmp_path.chmod(0o700)
