"""Moving a site from its own cache module: both versions run side by side, old entries are read if allowed."""

from __future__ import annotations

import functools
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from tests.servers import Server, wait_for

from evercache.integrations.pybossa import Sentinel, get_hash_key, get_key_to_hash, provide
from evercache.integrations.pybossa.decorators import DISABLED

PREFIX = "pybossa_cache"


class OldSite:
    """What the old design does, plain pickles, `get` and `setex`, `KEYS` to delete."""

    def __init__(self, server: Server, prefix: str = PREFIX) -> None:
        self.client = redis.Redis(port=server.port)
        self.prefix = prefix
        self.runs: list[Any] = []

    def _kept(self, key: str, timeout: int, compute: Callable[[], Any]) -> Any:
        found = self.client.get(key)
        if found is not None:
            return pickle.loads(found)
        value = compute()
        self.client.set(key, pickle.dumps(value), ex=timeout)
        return value

    def cache(self, key_prefix: str, timeout: int = 300) -> Any:
        def decorate(f: Any) -> Any:
            @functools.wraps(f)
            def call(*args: Any) -> Any:
                return self._kept(f"{self.prefix}::{key_prefix}", timeout, lambda: f(*args))

            return call

        return decorate

    def memoize(self, timeout: int = 300) -> Any:
        def decorate(f: Any) -> Any:
            @functools.wraps(f)
            def call(*args: Any, **kwargs: Any) -> Any:
                key = get_hash_key(f"{self.prefix}:{f.__name__}_args:", get_key_to_hash(*args, **kwargs))
                return self._kept(key, timeout, lambda: f(*args, **kwargs))

            return call

        return decorate

    def delete_cached(self, key: str) -> bool:
        return bool(self.client.delete(f"{self.prefix}::{key}"))

    def delete_memoized(self, f: Any) -> bool:
        keys = self.client.keys(f"{self.prefix}:{f.__name__}_args:*")
        return bool(keys and self.client.delete(*keys))


class NewSite:
    def __init__(self, server: Server, **more: Any) -> None:
        self.names: dict[str, Any] = {"sentinel": Sentinel()}
        provide(self.names)
        values = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": server.port, "SECRET_KEY": "a secret of the site's"}
        assert self.sentinel.configure(values | more)
        self.sentinel.home.cache.get("nothing")  # connects
        state = self.sentinel.home.cache._client_sync().engine.state
        wait_for(lambda: state.sure(state.now()), 30, "the connection")  # until then functions just run

    def __getattr__(self, name: str) -> Any:
        return self.names[name]


@pytest.fixture
def make(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NewSite]]:
    monkeypatch.delenv(DISABLED, raising=False)
    sites: list[NewSite] = []

    def new(**more: Any) -> NewSite:
        sites.append(NewSite(valkey, **more))
        return sites[-1]

    yield new
    for site in sites:
        site.sentinel.close()


def functions(site: Any, runs: list[Any], who: str) -> tuple[Any, Any]:
    def stats(project: Any) -> Any:
        runs.append((who, project))
        return {"project": project, "by": who}

    def front() -> Any:
        runs.append((who, "front"))
        return [who]

    return site.memoize(timeout=300)(stats), site.cache("front", timeout=300)(front)


class Bomb:
    """Runs code when it is unpickled."""

    went_off = False

    def __reduce__(self) -> Any:
        return Bomb.explode, ()

    @staticmethod
    def explode() -> str:
        Bomb.went_off = True
        return "exploded"


def test_old_entries_are_never_read_unless_it_is_allowed(valkey: Server, make: Callable[..., NewSite]) -> None:
    runs: list[Any] = []
    old, new = OldSite(valkey), make()
    stats, front = functions(new, runs, "new")
    Bomb.went_off = False
    for key in (get_hash_key(f"{PREFIX}:stats_args:", ":1"), f"{PREFIX}::front"):
        old.client.set(key, pickle.dumps(Bomb()), ex=60)
    key = new.sentinel.home.naming.entry_key("", "stats@x", "1")
    old.client.set(key, pickle.dumps(Bomb()), ex=60)
    assert stats(1) == {"project": 1, "by": "new"}
    assert front() == ["new"]
    assert front() == ["new"]
    assert runs == [("new", 1), ("new", "front")]
    assert not Bomb.went_off


def test_a_pickle_that_the_site_did_not_sign_is_not_read(valkey: Server, make: Callable[..., NewSite]) -> None:
    """One process has another secret: its pickles are computed anew."""
    first, second = make(), make(SECRET_KEY="another secret of somebody")
    runs: list[str] = []

    def own() -> Any:
        runs.append("run")
        return Own()

    for site in (first, second, first):
        assert isinstance(site.memoize()(own)(), Own)
    assert len(runs) == 3


class Own:
    pass


def test_old_entries_are_read_if_it_is_allowed(valkey: Server, make: Callable[..., NewSite]) -> None:
    runs: list[Any] = []
    old = OldSite(valkey)
    old_stats, old_front = functions(old, runs, "old")
    old_stats(1), old_stats(2), old_front()
    new = make(EVERCACHE_OLD_KEYPREFIX=PREFIX)  # the old code has been stopped
    stats, front = functions(new, runs, "new")
    runs.clear()
    for _ in range(3):
        assert stats(1)["by"] == stats(2)["by"] == "old"
        assert front() == ["old"]
    assert runs == []
    assert stats(3)["by"] == "new"
    assert new.delete_memoized(stats, 1) is True
    assert stats(1)["by"] == "new"
    assert new.delete_cached("front") is True
    assert front() == ["new"]
    assert stats(2)["by"] == "old"
    assert new.delete_memoized(stats) is True
    assert stats(2)["by"] == "new"
    assert new.delete_memoized(stats) is True
    assert new.delete_cached("front") is True
    assert list(old.client.scan_iter("*")) == []


def test_a_late_write_of_the_old_code_does_not_come_back(valkey: Server, make: Callable[..., NewSite]) -> None:
    runs: list[Any] = []
    old, new = OldSite(valkey), make(EVERCACHE_OLD_KEYPREFIX=PREFIX, REDIS_KEYPREFIX="new")
    old_stats, _ = functions(old, runs, "old")
    stats, _ = functions(new, runs, "new")
    for everything in (False, True):
        new.delete_memoized(stats) if everything else new.delete_memoized(stats, 1)
        old_stats(1)  # as if it had been computing before
        assert stats(1)["by"] == "new"


MOVING = {"EVERCACHE_OLD_KEYPREFIX": PREFIX, "REDIS_KEYPREFIX": "pybossa_cache2"}


def members(project: int, kind: str = "all") -> str:
    return "new"


def index() -> str:
    return "new"


def same_in_new(site: NewSite) -> tuple[Any, Any]:
    """Functions without a closure: those of two processes are the same."""
    return site.memoize()(members), site.cache("index")(index)


def same_in_old(site: OldSite) -> tuple[Any, Any]:
    def members(project: int, kind: str = "all") -> str:
        return "old"

    return site.memoize()(members), site.cache("index")(lambda: "old")


def test_a_deleted_call_is_never_read_from_the_old_code_again(valkey: Server, make: Callable[..., NewSite]) -> None:
    """A process that starts after the delete does not know the mark of a single key, like one that forgot it."""
    old_members, old_index = same_in_old(OldSite(valkey))
    new = make(**MOVING)
    new.delete_memoized(same_in_new(new)[0], 1)
    new.delete_cached("index")
    assert (old_members(1), old_members(2), old_index()) == ("old", "old", "old")  # stored late
    later_members, later_index = same_in_new(restarted(new, make))
    assert later_members(1) == "new"
    assert later_index() == "new"
    assert later_members(2) == "old"  # no other call is affected


def restarted(site: NewSite, make: Callable[..., NewSite]) -> NewSite:
    """The site in another process: sites that live at the same time in one process share what they know."""
    site.sentinel.close()
    return make(**MOVING)


def test_a_delete_reaches_the_other_spellings_of_a_call(valkey: Server, make: Callable[..., NewSite]) -> None:
    """`f(1)` and `f(1, "all")` are one call here, and two entries of the old code."""
    old_members, _ = same_in_old(OldSite(valkey))
    assert old_members(1) == "old"
    new = make(**MOVING)
    new.delete_memoized(same_in_new(new)[0], 1, "all")
    assert same_in_new(restarted(new, make))[0](1) == "new"


def test_a_delete_without_a_master_outdates_the_old_entry(valkey: Server, make: Callable[..., NewSite]) -> None:
    """Nobody removes the old entry then. The mark arrives later, and it is what counts."""
    old, new = OldSite(valkey), make(**MOVING)
    old_members, old_index = same_in_old(old)
    old_members(1), old_index()
    new_members, _ = same_in_new(new)
    assert new_members(1) == "old"
    valkey.freeze()
    try:
        assert new.delete_memoized(new_members, 1) is False
        assert new.delete_cached("index") is False
    finally:
        valkey.thaw()
    pending = new.sentinel.home.cache._client_sync().engine.state.journal.pending
    wait_for(lambda: not pending, 30, "the queued deletes")
    assert old.client.exists(f"{PREFIX}::index")
    later_members, later_index = same_in_new(restarted(new, make))
    assert later_members(1) == "new"
    assert later_index() == "new"


def test_a_process_that_may_have_missed_a_delete_reads_no_old_entry(
    valkey: Server, make: Callable[..., NewSite]
) -> None:
    old, new = OldSite(valkey), make(**MOVING)
    old_members, _ = same_in_old(old)
    new_members, _ = same_in_new(new)
    old_members(1), old_members(2)
    state = new.sentinel.home.cache._client_sync().engine.state
    old.client.execute_command("ACL", "SETUSER", "default", "-xread")
    try:
        wait_for(lambda: not state.sure(state.now()), 30, "the log to be unheard")
        assert new_members(1) == "new"
    finally:
        old.client.execute_command("ACL", "SETUSER", "default", "+xread")
    wait_for(lambda: state.sure(state.now()), 30, "the log to be heard")
    assert new_members(2) == "old"


def test_a_rolling_upgrade(valkey: Server, make: Callable[..., NewSite]) -> None:
    """Both versions run: each reads its own, none fails on what the other wrote, deletes of ours reach both."""
    runs: list[Any] = []
    old = OldSite(valkey)
    new = make(EVERCACHE_OLD_KEYPREFIX=PREFIX, REDIS_KEYPREFIX="pybossa_cache2", EVERCACHE_MIGRATION_TTL=1)
    old_stats, old_front = functions(old, runs, "old")
    stats, front = functions(new, runs, "new")
    for n in range(5):
        assert old_stats(n)["by"] == stats(n)["by"] == "old"
    assert front() == ["new"]
    assert old_front() == ["old"]
    # Ours reach both.
    assert new.delete_memoized(stats, 1) is True
    assert old.client.get(get_hash_key(f"{PREFIX}:stats_args:", ":1")) is None
    assert new.delete_memoized(stats) is True
    assert new.delete_cached("front") is True
    assert list(old.client.scan_iter("*")) == []
    runs.clear()
    assert old_stats(1)["by"] == "old"
    assert stats(1)["by"] == "new"
    # Theirs reach ours within EVERCACHE_MIGRATION_TTL.
    assert old.delete_memoized(old_stats) is True
    time.sleep(1.1)
    runs.clear()
    assert stats(1)["by"] == "new"
    assert runs == [("new", 1)]
    # And the end: the setting is taken away, the old prefix is not read any more.
    old_front()
    last = make(REDIS_KEYPREFIX="pybossa_cache2")
    stats, front = functions(last, runs, "last")
    assert front() == ["last"]


def test_going_back(valkey: Server, make: Callable[..., NewSite]) -> None:
    """The old code after ours, with the other prefix: as if ours had never been there."""
    runs: list[Any] = []
    new = make(EVERCACHE_OLD_KEYPREFIX=PREFIX, REDIS_KEYPREFIX="pybossa_cache2")
    stats, front = functions(new, runs, "new")
    stats(1), front()
    old = OldSite(valkey)
    old_stats, old_front = functions(old, runs, "old")
    assert old_stats(1)["by"] == "old"
    assert old_front() == ["old"]
