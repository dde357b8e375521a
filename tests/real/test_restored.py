"""A backup that is restored brings back what was cached when it was taken. What was invalidated since stays dead.

Processes keep invalidations for ten minutes (rule 20), and a backup is older than that. Here they keep them for a
moment only, so that nobody has to wait.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.real.trouble_tools import Site
from tests.servers import Server, wait_for

from evercache import Cache

#: Seconds for which processes keep invalidations here.
KEPT = 1.5


class Pair:
    """A primary and its replica."""

    def __init__(self) -> None:
        self.primary = Server.start()
        self.replica = Server.start(replica_of=self.primary)
        self.url = f"{self.primary.url}?replicas=127.0.0.1:{self.replica.port}"

    def backup(self, to: Path) -> Path:
        """Of the replica, which has everything that the primary has."""
        wait_for(lambda: offset(self.replica) >= offset(self.primary), what="the replica to have everything")
        self.replica.cli("SAVE")
        return Path(shutil.copy(self.replica.dir / "dump.rdb", to / "backup.rdb"))

    def restore(self, backup: Path) -> None:
        """Both lose what they have; the primary comes back with the backup."""
        for server in (self.primary, self.replica):
            server.kill()
        shutil.copy(backup, self.primary.dir / "dump.rdb")
        self.primary.restart()
        self.replica.wipe()

    def close(self) -> None:
        self.replica.close()
        self.primary.close()


def offset(server: Server) -> int:
    return int(server.info("replication")["master_repl_offset"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.close()


def forgetful(cache: Cache) -> Any:
    """Let it forget what it heard as if ten minutes had passed; returns what it knows."""
    clients = cache._find()
    assert clients is not None
    state = clients.engine.state
    state.settings = replace(state.settings, journal_time=KEPT)
    return state


def cached_in(pair: Pair, folder: Path, cache: Cache, page: Any) -> Path:
    """A backup with what `page(1)` is now."""
    wait_for(lambda: cache.clear() and cache.health().ok, what="the servers to be followed")
    assert page(1) == 0
    assert wait_for(lambda: page.peek(1, default=None) == 0, what="the value to be stored")
    return pair.backup(folder)


def follow(pair: Pair, backup: Path, state: Any, page: Any) -> set[int]:
    """What is served after the backup is back, which has an entry."""
    before = state.resyncs
    pair.restore(backup)
    assert pair.primary.cli("EXISTS", page.key(1)) == 1
    seen: set[int] = set()
    wait_for(lambda: seen.add(page(1)) or state.resyncs > before, what="the restored primary to be followed")
    for _ in range(50):
        seen.add(page(1))
    return seen


@pytest.mark.parametrize("how", ["key", "function", "tag", "everything"])
def test_what_was_invalidated_after_the_backup_is_never_served(pair: Pair, how: str, tmp_path: Path) -> None:
    site = Site()
    with Cache(pair.url, namespace="shop", lag_bound=KEPT, budget=2.0) as cache:
        page = site.on(cache)
        state = forgetful(cache)
        backup = cached_in(pair, tmp_path, cache, page)
        site.change()
        assert {
            "key": lambda: page.invalidate(1),
            "function": page.invalidate_all,
            "tag": lambda: cache.invalidate_tag("page:1"),
            "everything": cache.clear,
        }[how]()
        assert page(1) == 1
        wait_for(lambda: not state.journal and not state.marks.keys, 20, "the invalidation to be forgotten")
        assert follow(pair, backup, state, page) == {1}


def test_nor_is_it_where_nobody_who_heard_of_it_lives(pair: Pair, tmp_path: Path) -> None:
    """The workers were restarted between the invalidation and the restoring."""
    site = Site()
    with Cache(pair.url, namespace="shop", budget=2.0) as cache:
        page = site.on(cache)
        backup = cached_in(pair, tmp_path, cache, page)
        site.change()
        assert page.invalidate(1)
    with Cache(pair.url, namespace="shop", budget=2.0) as cache:
        page = site.on(cache)
        state = forgetful(cache)
        assert page(1) == 1
        assert wait_for(lambda: state.ready, what="the servers to be followed")
        started = state.now()
        wait_for(lambda: state.now() > started + 2 * KEPT, what="it to have run for a while")
        assert follow(pair, backup, state, page) == {1}
