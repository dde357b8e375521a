"""Transactions: two processes on one database; one changes rows, one caches what it reads (rule 22)."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.nursery import Program
from tests.real.test_processes import PRELUDE
from tests.servers import Deployment, Server, wait_for

from evercache import Cache

ROUNDS = 120

#: Reads for ever; puts, for each version, when the last call began that returned it.
READER = """
import sqlite3
cache = Cache(URL, beta=0, jitter=0)
database = sqlite3.connect(SPOOL, timeout=5)
@cache.cached(ttl=60, name="row", tags=("project:{i}",))
def row(i):
    return database.execute("select version from project where id = ?", (i,)).fetchone()[0]
until(lambda: cache.stamp() is not None)
put(ready=True)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
last, calls = {}, 0
while not stop.is_set():
    began = time.monotonic()
    last[row(7)] = began
    calls += 1
    time.sleep(0.0005)  # far less than an old value may be seen for, and the processor is not this loop's alone
put(last=last, calls=calls, computed=row.stats().counters.computed)
"""

#: Puts, for each version, when its change was over; `change(version)` is one of those below.
WRITER = """
import random, sqlite3
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
cache = Cache(URL)
rng = random.Random(4711)
@cache.cached(ttl=60, name="row", tags=("project:{i}",))
def row(i):
    raise AssertionError
until(lambda: cache.stamp() is not None)
engine = create_engine(f"sqlite:///{SPOOL}")
version = 0
def pause():
    # A reader hears the mark of a function or tag when its tail reads on, after 20 ms at most.
    time.sleep(rng.choice([0.004, 0.012] if version % 3 == 0 else [0.03, 0.05]))
event.listen(engine, "commit", lambda connection: pause())
UPDATE = "update project set version = %d where id = 7"
SCOPES = [dict(key=row.key(7)), dict(key=row), dict(tag="project:7")]
def commit(version):
    with sqlite3.connect(SPOOL, timeout=5, isolation_level=None) as database:
        database.execute("begin immediate")
        database.execute(UPDATE % version)
        pause()
        database.execute("commit")
    database.close()
def args(version):
    scope = SCOPES[version % 3]
    return ((scope["key"],) if "key" in scope else ()), scope.get("tag", ())
def changing(version):
    what, tag = args(version)
    with cache.changing(*what, tag=tag) as change:
        assert change.held
        commit(version)
    assert change.done
def on_commit(version):
    what, tag = args(version)
    with Session(engine) as session, session.begin():
        session.execute(text(UPDATE % version))
        cache.invalidate_on_commit(session, *what, tag=tag)
def before(version):
    assert row.invalidate(7)
    commit(version)
def rounds(change, count):
    global version
    over = {}
    for version in range(1, count + 1):
        change(version)
        over[version] = time.monotonic()
        time.sleep(0.004)
    put(over=over)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "site.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table project (id integer primary key, version integer)")
        connection.execute("insert into project values (7, 0)")
        connection.commit()
    return path


def start(code: str, url: str, database: Path) -> Program:
    return Program(
        PRELUDE + code, url, str(database), imports=("evercache", "sqlalchemy.orm"), stderr=subprocess.PIPE
    )


class Reader:
    """The process that reads."""

    def __init__(self, url: str, database: Path) -> None:
        self._process = start(READER, url, database)
        assert json.loads(self._process.stdout.readline())["ready"]

    def end(self) -> dict[str, Any]:
        """What it saw."""
        out, err = self._process.communicate("\n", timeout=20)
        assert self._process.returncode == 0, err
        found: dict[str, Any] = json.loads(out)
        found["last"] = {int(version): began for version, began in found["last"].items()}
        return found

    def kill(self) -> None:
        end(self._process)


@pytest.fixture
def reader(valkey: Server, database: Path) -> Iterator[Reader]:
    reader = Reader(valkey.url, database)
    yield reader
    reader.kill()


def end(process: Program) -> None:
    process.kill()
    if process.returncode is None:
        process.communicate(timeout=10)


def finish(writer: Program) -> dict[int, float]:
    try:
        out, err = writer.communicate(timeout=50)
    finally:
        writer.kill()
    assert writer.returncode == 0, err
    return {int(version): moment for version, moment in json.loads(out.splitlines()[-1])["over"].items()}


def late(over: dict[int, float], last: dict[int, float]) -> dict[int, float]:
    """Versions that somebody got in a call that began after the change to the next was over, and by how much."""
    return {
        version: last[version - 1] - moment
        for version, moment in over.items()
        if version - 1 in last and last[version - 1] > moment
    }


@pytest.mark.parametrize("way", ["changing", pytest.param("on_commit", marks=pytest.mark.long)])
def test_after_a_change_nobody_gets_what_was_before(
    valkey: Server, database: Path, reader: Reader, way: str
) -> None:
    over = finish(start(WRITER + f"\nrounds({way}, {ROUNDS})\n", valkey.url, database))
    found = reader.end()
    assert len(over) == ROUNDS
    assert found["calls"] > 3 * ROUNDS
    assert len(found["last"]) > ROUNDS / 2, "versions come, are seen, and go"
    wrong = late(over, found["last"])
    assert not [version for version in wrong if version % 3 == 0], f"of a key: {wrong}"
    # Those of functions and tags are heard by messages; one may be late on a machine that does much else.
    assert len(wrong) <= ROUNDS / 100, wrong
    assert found["computed"] > ROUNDS


@pytest.mark.long
def test_the_control_an_invalidation_before_the_commit_does_not_do(
    valkey: Server, database: Path, reader: Reader
) -> None:
    over = finish(start(WRITER + f"\nrounds(before, {ROUNDS})\n", valkey.url, database))
    assert len(late(over, reader.end()["last"])) > ROUNDS / 4


KILLED = """
with cache.changing(tag="project:7", at_most=1.0) as change:
    assert change.held
    %s
    put(inside=True)
    time.sleep(60)
"""


def in_the_block(url: str, database: Path, work: str) -> Program:
    writer = start(WRITER + KILLED % work, url, database)
    assert writer.stdout.readline()
    return writer


def killed(writer: Program) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=10)


def test_a_writer_that_is_killed_after_its_commit(valkey: Server, database: Path, reader: Reader) -> None:
    writer = in_the_block(valkey.url, database, "commit(1)")
    committed = time.monotonic()
    killed(writer)
    time.sleep(1.5)
    last = reader.end()["last"]
    assert last[0] < committed
    assert last[1] > committed + 1.2
    with Cache(valkey.url) as cache:
        assert cached(cache) == 1, "its time is over: fills are allowed again"


def cached(cache: Cache) -> Any:
    @cache.cached(ttl=60, name="row", tags=("project:{i}",))
    def row(i: int) -> int:
        raise AssertionError

    wait_for(lambda: cache.stamp() is not None)
    return row.peek(7)


def test_a_writer_that_is_killed_before_its_commit(valkey: Server, database: Path, reader: Reader) -> None:
    killed(in_the_block(valkey.url, database, "pass"))
    with Cache(valkey.url) as cache:
        assert cached(cache) is None
        wait_for(lambda: cached(cache) == 0, 5.0, "fills to be allowed again")


def test_without_a_master_the_block_runs(database: Path) -> None:
    with Server.start("valkey") as server, Cache(server.url, budget=0.25) as cache:
        rows = {7: "old"}

        @cache.cached(tags=("project:{i}",))
        def row(i: int) -> str:
            return rows[i]

        wait_for(lambda: cache.stamp() is not None)
        assert row(7) == "old"
        server.freeze()
        try:
            began = time.monotonic()
            with cache.changing(tag="project:7") as change:
                assert not change.held
                rows[7] = "new"
            assert time.monotonic() - began < 2 * 0.25 + 0.2
            assert not change.done
            assert all(ack.queued for ack in change.acks)
            assert row(7) == "new"
        finally:
            server.thaw()
        wait_for(lambda: not cache.stats().pending, 10.0, "the queued invalidations to be brought")
        wait_for(lambda: row(7) == row.peek(7) == "new", 5.0, "fills to be allowed: nothing is held")


def test_a_master_that_comes_back_in_the_block_is_told(database: Path) -> None:
    """It was away when the block began, or was replaced since: it refuses fills as well."""
    with Server.start("valkey") as server, Cache(server.url) as cache, Cache(server.url) as other:

        @other.cached(tags=("project:{i}",))
        def row(i: int) -> str:
            return "value"

        wait_for(lambda: cache.stamp() is not None and other.stamp() is not None)
        with cache.changing(tag="project:7") as change:
            assert change.held
            server.wipe()
            wait_for(lambda: row(7) == "value" and other.stamp() is not None and cache.stamp() is not None)
            wait_for(lambda: row(7) == "value" and row.peek(7) is None, 5.0, "the new data to be told")
            time.sleep(0.2)
            assert row(7) == "value"
            assert row.peek(7) is None
        assert change.done
        wait_for(lambda: row(7) == row.peek(7) == "value", 5.0, "fills to be allowed")


def test_a_hold_survives_a_failover(deployment: Deployment) -> None:
    with Cache(deployment.url) as cache, Cache(deployment.url) as other:

        @other.cached(tags=("project:{i}",))
        def row(i: int) -> str:
            return "value"

        wait_for(lambda: cache.stamp() is not None and other.stamp() is not None)
        with cache.changing(row.key(7), tag="project:7"):
            old = deployment.master
            new = deployment.failover()
            assert new is not old
            wait_for(lambda: other.stamp() is not None and other.health().master == str(new.address), 20.0)
            for _ in range(20):
                assert row(7) == "value"
                assert row.peek(7) is None
        wait_for(lambda: row(7) == row.peek(7) == "value", 10.0, "fills to be allowed")
