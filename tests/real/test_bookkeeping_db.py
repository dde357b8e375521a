"""`bookkeeping_db=`: entries alone in one database, marks and log in another of the same servers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from tests.real.trouble_tools import MESSAGE, Site, acknowledged, heard, reading, sees, timed
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.errors import ConfigurationError, ServerError


def keys(server: Server, db: int) -> list[str]:
    """`KEYS *` of one database."""
    return sorted(server.cli_many([("SELECT", db), ("KEYS", "*")])[1])


def test_one_key_for_each_entry_and_nothing_else(fresh_server: Server) -> None:
    site = Site()
    with (
        Cache(fresh_server.url, bookkeeping_db=1) as one,
        Cache(fresh_server.url, bookkeeping_db=1) as two,
    ):
        page, other = site.on(one), site.on(two, near=60)
        for number in range(10):
            assert page(number) == other(number) == 0
        assert one.set("plain", "v")
        assert one.incr("counter") == 1
        entries = keys(fresh_server, 0)
        assert len(entries) == 12
        assert {page.key(number) for number in range(10)} < set(entries)
        assert not any("~" in key for key in entries)
        for how in (
            lambda: page.invalidate(1),
            page.invalidate_all,
            lambda: one.invalidate_tag("page:1"),
            one.clear,
        ):
            version = site.change()
            assert how()
            assert page(1) == version
            sees(other, version)
        with pytest.raises(ZeroDivisionError):
            one.get_or_compute("raises", lambda: 1 / 0)
        wait_for(lambda: not [k for k in keys(fresh_server, 0) if "~" in k], 1, "every lease to be given back")
        assert keys(fresh_server, 1) == [f"evercache~{name}" for name in ("ids", "log", "marks", "state")]


@pytest.mark.parametrize("flush", [0, 1])
def test_one_of_the_two_databases_is_flushed(valkey: Server, flush: int) -> None:
    site = Site()
    done: list[tuple[float, int]] = []
    with Cache(valkey.url, bookkeeping_db=1) as one, Cache(valkey.url, bookkeeping_db=1) as two:
        page, other = site.on(one), site.on(two, near=5)
        with reading(other, 1) as answers:
            for number in range(8):
                if number % 2:
                    valkey.cli_many([("SELECT", flush), ("FLUSHDB",)])
                version = site.change()
                acknowledged(page.invalidate_all if number % 3 else partial(page.invalidate, 1))
                done.append((time.monotonic(), version))
                assert page(1) == version
                time.sleep(0.03)
    assert answers.errors == []
    assert answers.stale(done) == []


@pytest.mark.parametrize("tasks", [False, pytest.param(True, marks=pytest.mark.long)], ids=["thread", "task"])
def test_a_failover(tasks: bool) -> None:
    """Both databases are replicated; entries and invalidations survive."""
    site = Site()
    with Deployment.start(replicas=2) as deployment:
        with (
            Cache(deployment.url, bookkeeping_db=1) as one,
            Cache(deployment.url, bookkeeping_db=1) as two,
        ):
            page = site.on(one)
            other = site.aon(two) if tasks else site.on(two)
            kept = Site()
            still = kept.on(one, name="site.still")
            assert page(1) == still(1) == 0
            assert page.invalidate_all()
            assert still.invalidate_all()
            assert page(1) == still(1) == 0
            with reading(other, 1) as answers:
                version = site.change()
                assert page.invalidate(1)
                moments = [(time.monotonic(), version)]
                assert page(1) == version
                wait_for(lambda: len(set(_offsets(deployment))) == 1, 3, "the replicas to have it all")
                deployment.failover()
                wait_for(lambda: page.invalidate(3), 5, "the new master to be used")
                wait_for(lambda: still.peek(1) == 0, 5, "what was cached to be found again")
                assert still(1) == 0
                assert kept.runs == 2, "what was cached still is"
                version = site.change()
                assert page.invalidate(1)
                moments.append((time.monotonic(), version))
                assert page(1) == version
                wait_for(lambda: answers.all[-1][2] == version, 2, "the other process to hear")
            heard(one)
        assert answers.errors == []
        assert answers.stale(moments) == []
        assert [key for key in keys(deployment.master(), 0) if "~" in key] == []


def _offsets(deployment: Deployment) -> list[Any]:
    return [node.info("replication")["master_repl_offset"] for node in deployment.nodes]


def test_what_was_sent_to_the_database_that_was_left_is_sent_again(
    fresh_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a flush another process may be the first to say where the bookkeeping is; one command comes later."""
    site, late = Site(), threading.Event()
    with Cache(fresh_server.url, budget=10.0) as one, ThreadPoolExecutor() as pool:
        page = site.on(one)
        assert page.invalidate_all()
        engine: Any = one._find().engine
        endpoint = engine.endpoint_sync(fresh_server.address)
        execute, built = endpoint.execute, threading.Event()

        def slow(*arguments: Any, **options: Any) -> Any:
            built.set()
            assert late.wait(10)
            return execute(*arguments, **options)

        monkeypatch.setattr(engine, "endpoint_sync", lambda address: SimpleNamespace(execute=slow))
        version = site.change()
        sent = pool.submit(page.invalidate, 1)
        assert built.wait(5)
        claim = [("FLUSHALL",), ("SELECT", 1), ("HSET", "evercache~state", "data", "0")]
        fresh_server.cli_many(claim)
        wait_for(lambda: engine.bookkeeping.book_db == 1 and engine.state.ready, 5, "the bookkeeping to be found")
        site.truth[1] = version - 1  # as one that began to compute before the change
        with Cache(fresh_server.url, bookkeeping_db=1) as two:
            other = site.on(two, near=60)
            assert other(1) == other(1) == version - 1
            site.truth[1] = version
            late.set()
            assert sent.result(10).done
            sees(other, version)


@pytest.mark.parametrize("db", [-1, "1", 1.0, True])
def test_no_number_of_a_database(db: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"bookkeeping_db=.*give the number"):
        Cache("redis://127.0.0.1", bookkeeping_db=db)


def test_a_database_that_the_server_lacks(valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Said at the first connect; nothing is written by halves, and the pages are served."""
    site = Site()
    with Cache(valkey.url) as before:
        assert site.on(before)(1) == 0
    kept = valkey.cli_many([("KEYS", "*"), ("HGETALL", "evercache~state")])
    with Cache(valkey.url, bookkeeping_db=99) as cache:
        page = site.on(cache)
        version = site.change()
        value, took = timed(page, 1)
        assert value == version, "an entry whose marks cannot be read is not believed"
        assert took < 0.25 + MESSAGE
        assert page.invalidate(1).queued
        assert page(1) == version
        with pytest.raises(ServerError, match="choose a lower database number"):
            cache.set("k", 1, on_error="raise")
        wait_for(lambda: any("lower database number" in p for p in cache.health().problems), 2, "health to say so")
        assert valkey.cli_many([("KEYS", "*"), ("HGETALL", "evercache~state")]) == kept, "nothing was touched"
    told = [r.getMessage() for r in caplog.records if "choose a lower database number" in r.getMessage()]
    assert len([line for line in told if "does not serve" in line]) == 1


def test_a_user_who_may_not_select(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    with Server.start("valkey") as server:
        server.cli("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-select")
        with Cache(f"redis://app:pw@127.0.0.1:{server.port}", bookkeeping_db=1) as cache:
            page = site.on(cache)
            assert page(1) == 0
            assert page.invalidate(1).queued
            assert server.cli("DBSIZE") == 0, "nothing was done by halves"
            server.cli("ACL", "SETUSER", "app", "+select")
            heard(cache)
            assert page(1) == page(1) == 0
            assert keys(server, 0) == [page.key(1)]
    assert any("+select" in record.getMessage() for record in caplog.records)
