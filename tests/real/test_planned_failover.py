"""`evercache failover`: the master hands over, and no acknowledged write is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from tests.nursery import Program, evercache
from tests.servers import CliError, Deployment, Server, find_server, wait_for

from evercache import Cache
from evercache.errors import FailoverRefused
from evercache.ops.failover import Failover
from evercache.ops.remote import targets_of

WRITERS = 16
#: Seconds that writes may stand still.
STILL = 3.0


class Writing:
    """Threads that write one key after the other at the master; what was acknowledged is remembered."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[str] = []
        self.errors = 0
        self._over = threading.Event()
        self._cache = Cache(url, namespace="writing")
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(WRITERS)]

    def __enter__(self) -> Writing:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.acknowledged) > 100, 10, "writes")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._cache.close()

    def _run(self, thread: int) -> None:
        number = 0
        while not self._over.is_set():
            key = f"{thread}:{number}"
            number += 1
            try:
                if self._cache.master.set(key, "x"):
                    self.acknowledged.append(key)
            except redis.RedisError:
                self.errors += 1  # it may have run; nobody was told so
            time.sleep(0.01)  # more than one write a millisecond by all of them

    def lost(self, master: Server) -> list[str]:
        """What was acknowledged and is not there."""
        keys = list(self.acknowledged)
        there = master.cli_many([("EXISTS", key) for key in keys], timeout=20)
        return [key for key, found in zip(keys, there, strict=True) if not found]


@contextmanager
def deployment_of(kind: str) -> Iterator[Deployment]:
    if find_server(kind) is None:
        pytest.skip(f"no {kind} server on this machine")
    with Deployment.start(kind, password="node-secret", down_after_ms=1500, failover_timeout_ms=6000) as whole:
        yield whole


def hand_over(deployment: Deployment) -> None:
    old = deployment.master()
    said: list[str] = []
    with Writing(deployment.url) as writing:
        done = Failover(targets_of(deployment.url), said.append).run()
        time.sleep(0.3)
    new = deployment.master()
    assert new is not old
    assert done.old == old.address
    assert done.new == new.address
    assert writing.lost(new) == []
    print(f"{done.way}: {len(writing.acknowledged)} kept, {writing.errors} errors, still {done.stood_still:.2f} s")
    assert done.stood_still < STILL
    wait_for(lambda: old.cli("ROLE")[0] == "slave", 15, "the old master to follow")
    assert any("is the master; writes stood still" in line for line in said)


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_no_acknowledged_write_is_lost(kind: str) -> None:
    """Coordinated by Valkey 9; by a pause of the writes on Redis."""
    with deployment_of(kind) as deployment:
        hand_over(deployment)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["valkey", "redis6", "redis7"])
def test_twenty_times(kind: str) -> None:
    with deployment_of(kind) as deployment:
        for _ in range(20):
            wait_for(lambda: not _refused(deployment), 60, "the deployment to be whole")
            hand_over(deployment)


def _refused(deployment: Deployment) -> str:
    try:
        Failover(targets_of(deployment.url)).check()
    except FailoverRefused as error:
        return str(error)
    return ""


def command(deployment: Deployment, *arguments: str) -> Program:
    return evercache("failover", "--url", deployment.url, *arguments)


def test_it_is_refused_where_it_would_do_harm(deployment: Deployment) -> None:
    """Nothing is changed, every reason is said, and the exit code is 8."""
    master = deployment.master()
    wait_for(lambda: not _refused(deployment), 10, "everybody to answer in time")
    for replica in deployment.replicas:
        replica.cli("CONFIG", "SET", "replica-priority", 0)
    assert "its replica-priority is 0" in _refused(deployment)
    for sentinel in deployment.sentinels[1:]:
        sentinel.freeze()
    wait_for(lambda: "could not authorise it (NOQUORUM" in _refused(deployment), 10, "the silence to be noticed")
    said = command(deployment, "--yes")
    out, err = said.communicate(timeout=30)
    assert said.returncode == 8, err
    assert out == ""
    assert "could not authorise it" in err
    assert "no replica could be promoted" in err
    assert "-secret" not in err
    assert master.cli("ROLE")[0] == "master"
    assert master.cli("SET", "k", "v") == "OK"


def test_without_sentinels_it_is_refused(valkey: Server) -> None:
    with pytest.raises(FailoverRefused, match="no Sentinel"):
        Failover(targets_of(valkey.url)).check()


@pytest.mark.skipif(find_server("redis7") is None, reason="no redis7 server on this machine")
def test_interrupted_it_is_brought_to_its_end() -> None:
    """Writes wait at a master whose successor is being chosen: to let go of them then would lose them."""
    with deployment_of("redis7") as deployment:
        old = deployment.master()
        with Writing(deployment.url) as writing:
            running = command(deployment, "--yes")
            assert running.stderr is not None
            for line in running.stderr:
                if "writes wait at" in line:
                    break
            time.sleep(0.02)  # in the middle of what it says nothing else can be said
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=30)
        assert running.returncode == 130, err
        assert "brought to its end first" in err
        assert "is the master; writes stood still" in err
        assert out == ""
        new = deployment.wait_new_master(old)
        assert writing.lost(new) == []
        with pytest.raises(CliError, match="READONLY"):
            old.cli("SET", "late", "x")
