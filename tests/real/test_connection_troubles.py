"""Wrong passwords, wrong ports, unknown services: the value in time, one line in the log that says what to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.proxy import DelayProxy
from tests.real.trouble_tools import MESSAGE, Site, timed, warm
from tests.servers import Deployment, Server, free_port, wait_for

from evercache import Cache
from evercache.client._sync.writes import SyncWrites
from evercache.errors import (
    AccessDenied,
    AuthenticationFailed,
    MasterUnknown,
    SentinelsUnreachable,
    ServerError,
    ServiceUnknown,
    UnavailableError,
)

BUDGET = 0.25


@pytest.fixture(scope="module")
def guarded() -> Iterator[Deployment]:
    """A deployment with passwords; nobody harms it."""
    with Deployment.start(replicas=1, password="node-secret", sentinel_password="sentinel-secret") as whole:
        yield whole


CASES: dict[str, tuple[type[UnavailableError], str]] = {
    "wrong port": (MasterUnknown, "check that the server runs, and the URL"),
    "a node's wrong password": (AuthenticationFailed, "check the user name and the password in the URL"),
    "no password": (AuthenticationFailed, "check the user name and the password in the URL"),
    "a sentinel's wrong password": (SentinelsUnreachable, "set sentinel_username/sentinel_password"),
    "no sentinel": (SentinelsUnreachable, "check that they run and that their addresses in the URL are right"),
    "an unknown service": (ServiceUnknown, "check the service name in the URL"),
    "a sentinel as a node": (MasterUnknown, "use a sentinel:// URL"),
    "a node as a sentinel": (SentinelsUnreachable, "check the port in the URL"),
    "a replica as the master": (MasterUnknown, "put the master into the URL"),
}


def url_of(case: str, whole: Deployment) -> str:
    """The URL with this mistake in it."""
    node, replica, sentinel = whole.nodes[0], whole.nodes[1], whole.sentinels[0]
    dead = free_port()
    return {
        "wrong port": f"redis://127.0.0.1:{dead}",
        "a node's wrong password": whole.url.replace("node-secret", "wrong"),
        "no password": f"redis://127.0.0.1:{node.port}",
        "a sentinel's wrong password": whole.url.replace("sentinel-secret", "wrong"),
        "no sentinel": f"sentinel://127.0.0.1:{dead},127.0.0.1:{free_port()}/evercache",
        "an unknown service": whole.url.replace("/evercache", "/nobody"),
        "a sentinel as a node": f"redis://:sentinel-secret@127.0.0.1:{sentinel.port}",
        "a node as a sentinel": f"sentinel://127.0.0.1:{node.port}/evercache?sentinel_password=node-secret",
        "a replica as the master": replica.url,
    }[case]


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_in_the_url(case: str, guarded: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    kind, mend = CASES[case]
    caplog.set_level(logging.WARNING)
    site = Site()
    with Cache(url_of(case, guarded)) as cache:
        page = site.on(cache)
        first, took = timed(page, 1)
        assert first == 0
        assert took < BUDGET + MESSAGE
        wait_for(lambda: any(mend in problem for problem in cache.health().problems), 3, f"{mend!r} in health")
        # From now on nobody waits for what is known to be missing.
        for call, wanted in (
            (lambda: page(2), 0),
            (lambda: cache.get("k", "default"), "default"),
            (lambda: cache.incr("n"), None),
            (lambda: cache.touch("k"), False),
            (lambda: cache.get_or_compute("third", lambda: 7), 7),
        ):
            value, took = timed(call)
            assert value == wanted
            assert took < BUDGET / 2
        ack, took = timed(page.invalidate, 1)
        assert not ack
        assert ack.queued
        assert took < BUDGET / 2
        for write in (
            lambda: cache.set("k", 1, on_error="raise"),
            lambda: cache.get("k", on_error="raise"),
            lambda: cache.delete("k", on_error="raise"),
            lambda: cache.incr("n", on_error="raise"),
            lambda: cache.get_or_compute("other", lambda: 7, on_error="raise"),
        ):
            with pytest.raises(kind, match=mend):
                write()
        time.sleep(0.3)  # more rounds of the background
    told = [r.getMessage() for r in caplog.records if mend in r.getMessage()]
    about_nodes = [line for line in told if "wait for the master" not in line]
    assert about_nodes, "it is in the log"
    assert len(about_nodes) == len(set(about_nodes)) <= 2, about_nodes
    assert not any("secret" in r.getMessage() or "wrong@" in r.getMessage() for r in caplog.records)


async def test_a_mistake_in_the_url_and_tasks(guarded: Deployment) -> None:
    site = Site()
    async with Cache(url_of("a node's wrong password", guarded), on_error="raise") as cache:
        page = site.aon(cache, on_error="absorb")
        assert await page(1) == 0
        began = time.monotonic()
        with pytest.raises(AuthenticationFailed):
            await cache.aget("k")
        with pytest.raises(AuthenticationFailed):
            await cache.aset("k", 1)
        with pytest.raises(AuthenticationFailed):
            await cache.adelete("k")
        assert time.monotonic() - began < 3 * BUDGET


def test_a_password_changed_under_way(caplog: pytest.LogCaptureFixture) -> None:
    """Connections live on; new ones are refused, and the page is served all the same."""
    site = Site()
    with Server.start("valkey", password="before") as server, Cache(server.url) as cache:
        page = site.on(cache)
        assert page(1) == 0
        assert cache.set("k", "v")
        server.cli("CONFIG", "SET", "requirepass", "after")
        assert page(1) == 0
        assert cache.get("k") == "v"
        server.password = "after"
        server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_for(lambda: any("password" in p for p in cache.health().problems), 3, "the refusal to be seen")
        value, took = timed(page, 1)
        assert value == 0
        assert took < BUDGET
        version = site.change()
        assert page.invalidate(1).queued
        assert page(1) == version

        def told() -> list[str]:
            lines = [record.getMessage() for record in caplog.records]
            about = [line for line in lines if ": the master" in line or ": the log" in line]
            return [line for line in about if str(server.address) in line and "the password in the URL" in line]

        wait_for(told, 3, "the log to say so")
        server.cli("CONFIG", "SET", "requirepass", "before")
        server.password = "before"
        wait_for(lambda: cache.get("k") == "v", 5, "the old password to work again")
        assert page(1) == version
        wait_for(lambda: cache.health().ok, 3, f"{cache.health().problems} to be over")
        assert len(told()) == len(set(told())) <= 2


ALL_BUT_INFO = ("~*", "&*", "+@all", "-info")


def acl_url(server: Server) -> str:
    return f"redis://app:app-secret@127.0.0.1:{server.port}"


def test_a_user_without_info(caplog: pytest.LogCaptureFixture) -> None:
    """The replication id is read by INFO: an ACL without it is named in the log, and the cache computes."""
    site = Site()
    with Server.start("valkey") as server:
        server.cli("ACL", "SETUSER", "app", "on", ">app-secret", *ALL_BUT_INFO)
        with Cache(acl_url(server)) as cache:
            page = site.on(cache)
            assert page(1) == 0
            wait_for(lambda: any("+info" in p for p in cache.health().problems), 2, "the ACL to be named")
            with pytest.raises(AccessDenied, match=r"\+info"):
                cache.get("k", on_error="raise")
            # The mend works without a restart.
            server.cli("ACL", "SETUSER", "app", "+info")
            wait_for(lambda: cache.stamp() is not None, 3, "the mended ACL to be noticed")
            assert cache.set("k", "v")
            assert cache.get("k") == "v"
            # And taken away under way, on connections that are greeted already.
            server.cli("ACL", "SETUSER", "app", "-info")
            version = site.change()
            assert page.invalidate(1).queued
            value, took = timed(page, 1)
            assert value == version
            assert took < BUDGET + MESSAGE
            with pytest.raises(ServerError):
                cache.set("k", "w", on_error="raise")
            server.cli("ACL", "SETUSER", "app", "+info")
            wait_for(lambda: cache.stats().pending == 0, 3, "what was queued to be brought")
            assert page(1) == version
    assert any("+info" in record.getMessage() for record in caplog.records)


def test_the_rights_that_are_enough(valkey: Server) -> None:
    """A user with no more than what the errors ask for, on the keys of the namespace alone."""
    rights = [
        "+info",
        "+time",
        "+select",
        "+client",
        "+hello",
        "+auth",
        "+evalsha",
        "+eval",
        "+get",
        "+mget",
        "+xread",
        "+exists",
        "+hget",
        "+hgetall",
        "+hmget",
        "+hset",
        "+set",
        "+setrange",
        "+unlink",
        "+pttl",
        "+pexpire",
        "+xadd",
        "+xtrim",
        "+xrevrange",
        "+zadd",
        "+zrange",
        "+zrangebyscore",
        "+zmscore",
        "+zscore",
        "+zrem",
        "+zcard",
        "+zpopmin",
    ]
    valkey.cli("ACL", "SETUSER", "app", "reset", "on", ">app-secret", "~shop:*", "~shop~*", *rights)
    try:
        with Cache(acl_url(valkey), namespace="shop") as cache:
            page = Site().on(cache)
            warm(cache)
            assert page(1) == 0
            assert cache.set("k", 1)
            assert cache.incr("k") == 2
            assert cache.touch("k")
            assert page.invalidate(1)
            assert page.invalidate_all()
            assert cache.invalidate_tag("x")
            assert cache.clear()
            assert cache.get("k") is None
            assert cache.health().ok, cache.health().problems
    finally:
        valkey.cli("ACL", "DELUSER", "app")


@pytest.mark.parametrize("trouble", ["frozen", "killed"])
def test_first_use_of_a_server_that_does_not_answer(trouble: str) -> None:
    """A process that starts while its server is ill serves its pages, and takes it up later."""
    site = Site()
    with Server.start("valkey") as server:
        if trouble == "frozen":
            server.freeze()
        else:
            server.kill()
        with Cache(server.url) as cache:
            page: Any = site.on(cache)
            for number in range(4):
                value, took = timed(page, number)
                assert value == 0
                assert took < BUDGET + MESSAGE
            if trouble == "frozen":
                server.thaw()
            else:
                server.restart()
            wait_for(lambda: cache.set("k", "v"), 5, "the server to be used")
            assert page(9) == 0
            assert page(9) == 0
            assert cache.stats().counters.hits == 1


class StalledLog(DelayProxy):
    """Once `stalled`, requests for the log are held back for 10 s; all others pass."""

    stalled = False
    _next = 0.0

    @property
    def delay(self) -> float:
        """That of the chunk that `from_client` was just called with, which asks for it next."""
        delay, self._next = self._next, 0.0
        return delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._next = seconds

    def from_client(self, data: bytes) -> None:
        if self.stalled and b"XREAD" in data:
            self.delay = 10.0


def test_a_stalled_connection_of_the_log_is_not_taken_for_a_dead_primary() -> None:
    """Writes that were answered show that the primary serves: what is cached there is not computed again."""
    computed = 0
    with (
        Server.start("valkey") as server,
        StalledLog(server.port) as proxy,
        Cache(f"redis://127.0.0.1:{proxy.port}", namespace="stalled") as cache,
    ):

        @cache.cached(ttl=60)
        def page() -> int:
            nonlocal computed
            computed += 1
            return computed

        wait_for(lambda: cache.health().ok, what="the cache to follow the log")
        assert page() == 1
        proxy.stalled = True
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            assert cache.set("beside", 1)
            assert page() == 1
            time.sleep(0.01)


@pytest.mark.parametrize("operation", ["incr", "touch", "set", "delete"])
def test_a_pause_within_a_write_does_not_move_its_deadline(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands still before a write is sent must not send it after the budget of the call."""
    with Server.start("valkey") as server, Cache(server.url, namespace="pause", budget=BUDGET) as cache:
        assert cache.set("count", 1)
        calls = {
            "incr": (lambda: cache.incr("count"), "incr"),
            "touch": (lambda: cache.touch("count", ttl=600), "touch"),
            "set": (lambda: cache.set("count", 5), "set_many"),
            "delete": (lambda: cache.delete("count"), "invalidate_many"),
        }
        call, name = calls[operation]
        sent = getattr(SyncWrites, name)

        def late(*args: Any, **options: Any) -> Any:
            time.sleep(3 * BUDGET)
            return sent(*args, **options)

        monkeypatch.setattr(SyncWrites, name, late)
        answer = call()
        monkeypatch.undo()
        assert not answer, "sent after its deadline"
