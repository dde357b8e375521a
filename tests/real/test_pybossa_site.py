"""The drop-in for PyBossa on Sentinel with a replica that is 100 ms behind, as a site and its tests use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.sentinel
import rq
from tests.servers import Deployment, Server, find_server, wait_for

from evercache.integrations.pybossa import Sentinel, provide
from evercache.integrations.pybossa.decorators import DISABLED

SECRET = {"SECRET_KEY": "a secret of the site's"}


def settings(deployment: Deployment) -> dict[str, Any]:
    return SECRET | {
        "REDIS_SENTINEL": [("127.0.0.1", sentinel.port) for sentinel in deployment.sentinels],
        "REDIS_MASTER": deployment.name,
        "REDIS_PASSWORD": deployment.password,
    }


class Site:
    """The names of a site's cache module, and what its functions did."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.names: dict[str, Any] = {"sentinel": Sentinel()}
        provide(self.names)
        self.sentinel.init_app(_App(values))
        self.runs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    def listed(self) -> list[str]:
        return sorted(key.decode() for key in self.sentinel.master.scan_iter("*"))

    def close(self) -> None:
        self.sentinel.close()


class _App:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


@pytest.fixture(scope="module")
def lagging() -> Iterator[Deployment]:
    with Deployment.start(replicas=1, replica_delays=(0.1,), password="node-secret") as deployment:
        yield deployment


@pytest.fixture(autouse=True)
def enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLED, raising=False)


@pytest.fixture
def site(lagging: Deployment) -> Iterator[Site]:
    # Before it begins: of two flushes at once, the second life of the bookkeeping may be begun by a call that has
    # not heard of the first, and what was computed until that is heard is computed once more.
    lagging.master().cli("FLUSHALL")
    site = Site(settings(lagging))
    cache = site.sentinel.home.cache
    wait_for(lambda: [n.use for n in cache.health().nodes if n.role == "replica"] == ["reads"], 10, "the replica")
    yield site
    site.close()


# -- as the site's own tests look at it


@pytest.mark.parametrize("turn", range(5))
def test_flush_then_count(site: Site, turn: int) -> None:
    """`setUp` flushes; each test counts the keys of the calls it made."""

    @site.memoize(timeout=60)  # type: ignore[untyped-decorator]
    def stats(project: Any) -> dict[str, Any]:
        site.runs.append(project)
        return {"id": project, "turn": turn}

    @site.cache("front_page", timeout=60)  # type: ignore[untyped-decorator]
    def front_page() -> list[Any]:
        site.runs.append("front")
        return []

    for test in range(4):
        site.sentinel.master.flushall()
        assert site.listed() == []
        site.runs.clear()
        for _ in range(2):
            assert stats(test) == {"id": test, "turn": turn}
            assert stats("0")["id"] == "0"
            assert front_page() == []
        assert site.runs == [test, "0", "front"]
        assert len(site.listed()) == 3
        assert "pybossa_cache::front_page" in site.listed()
        assert site.delete_cached("front_page") is True
        assert site.delete_cached("front_page") is False
        assert all(key.startswith("pybossa_cache:stats_args::") for key in site.listed())
        assert site.delete_memoized(stats, "0") is True
        assert len(site.listed()) == 1
        assert site.delete_memoized(stats) is True
        assert site.delete_memoized(stats) is False
        assert site.listed() == []


def test_only_entries_of_other_functions_are_left(site: Site) -> None:
    functions = []
    for name in ("one", "other", "one"):  # the third is of another module

        def f(n: int) -> int:
            return n

        f.__name__ = f.__qualname__ = name
        f.__module__ = f"module{len(functions)}"
        functions.append(site.memoize()(f))
    for f in functions:
        for n in range(300):
            f(n)
    assert len(site.listed()) == 900
    assert site.delete_memoized(functions[0]) is True
    left = site.listed()
    assert (len(left), sum(key.startswith("pybossa_cache:one_args") for key in left)) == (600, 300)
    assert functions[2](1) == 1


def test_nothing_but_entries_in_the_database_and_no_keys_command(site: Site, lagging: Deployment) -> None:
    lagging.master().cli("CONFIG", "RESETSTAT")

    @site.memoize()  # type: ignore[untyped-decorator]
    def f(n: int) -> int:
        if n < 0:
            raise ValueError
        return n

    f(1)
    site.delete_memoized(f, 1)
    site.delete_memoized(f)
    site.delete_cached("nothing")
    with pytest.raises(ValueError):
        f(-1)
    client = site.sentinel.master
    wait_for(lambda: client.dbsize() == 0, 2, "the lease of what raised to be given back")
    names = {name for node in lagging.nodes for name in node.info("commandstats")}
    assert "cmdstat_keys" not in names
    assert f(2) == 2
    assert client.dbsize() == 1


# -- what a replica that lags did to the old code


def test_no_old_value_after_a_delete(site: Site) -> None:
    version = 0

    @site.memoize()  # type: ignore[untyped-decorator]
    def f(n: int) -> int:
        return version

    for version in range(40):
        assert f(1) == version
        site.delete_memoized(f, 1) if version % 2 else site.delete_memoized(f)


def test_a_delete_during_a_computation_200_times(site: Site) -> None:
    """What a computation that began before the delete returns is never served after it."""
    state = {"version": 0}
    began, go_on = threading.Event(), threading.Event()

    @site.memoize()  # type: ignore[untyped-decorator]
    def f(n: int) -> int:
        value = state["version"]
        if threading.current_thread() is not threading.main_thread():
            began.set()
            go_on.wait(5)
        return value

    old = 0
    with ThreadPoolExecutor(1) as pool:
        for turn in range(200):
            began.clear()
            go_on.clear()
            computing = pool.submit(f, turn)
            assert began.wait(5)
            state["version"] = turn + 1
            site.delete_memoized(f, turn) if turn % 2 else site.delete_memoized(f)
            go_on.set()
            assert computing.result(5) == turn
            old += f(turn) != turn + 1
    assert old == 0


def test_one_execution_for_20_threads(site: Site) -> None:
    barrier = threading.Barrier(20)

    @site.memoize()  # type: ignore[untyped-decorator]
    def slow(n: int) -> int:
        site.runs.append(n)
        time.sleep(0.2)
        return n

    def call(n: int) -> int:
        barrier.wait(5)
        value: int = slow(n)
        return value

    with ThreadPoolExecutor(20) as pool:
        for turn in range(5):
            assert list(pool.map(call, [turn] * 20)) == [turn] * 20
    assert site.runs == list(range(5))


def test_the_client_reads_what_it_wrote(site: Site) -> None:
    """The site sets a flag on the master, and asks the replica for it in the next line."""
    master, slave = site.sentinel.master, site.sentinel.slave
    for n in range(30):
        key = f"guard:{n}"
        assert not slave.exists(key)
        master.set(key, n, ex=60)
        assert slave.exists(key)
        assert slave.get(key) == b"%d" % n
        with master.pipeline() as pipe:
            pipe.zadd("feed", {f"e{n}": n})
            pipe.expireat("feed", int(time.time()) + 60)
            pipe.execute()
        assert len(slave.zrevrange("feed", 0, -1, withscores=True)) == n + 1


def test_a_queue_made_at_import_time(lagging: Deployment) -> None:
    sentinel = Sentinel()
    master = sentinel.master
    queue = rq.Queue("high", connection=sentinel.master)
    sentinel.init_app(_App(settings(lagging)))
    assert sentinel.master is master
    queue.enqueue("operator.add", 1, 2)
    assert queue.count == 1
    queue.empty()
    sentinel.close()


def test_the_connection_is_redis_pys(site: Site, lagging: Deployment, valkey: Server) -> None:
    assert isinstance(site.sentinel.connection, redis.sentinel.Sentinel)
    assert site.sentinel.connection.discover_master(lagging.name)[1] == lagging.master().port
    alone = Site({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": valkey.port})
    assert alone.sentinel.connection is None
    alone.sentinel.master.set("a", 1)
    assert alone.sentinel.slave.get("a") == b"1"
    alone.close()


# -- trouble


def test_all_servers_are_down() -> None:
    with Deployment.start(replicas=1, sentinels=1) as deployment:
        site = Site(settings(deployment))

        @site.memoize()  # type: ignore[untyped-decorator]
        def f(n: int) -> int:
            site.runs.append(n)
            return n

        assert f(1) == 1
        for server in [*deployment.sentinels, *deployment.nodes]:
            server.kill()
        slowest = 0.0
        for n in range(30):
            began = time.monotonic()
            assert f(n) == n
            assert site.delete_memoized(f, n) in (True, False)
            assert site.delete_memoized(f) in (True, False)
            assert site.delete_cached("front") in (True, False)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2.5
        site.close()


def test_a_frozen_master() -> None:
    with Deployment.start(replicas=1, sentinels=1, down_after_ms=60_000) as deployment:
        site = Site(settings(deployment) | {"REDIS_SOCKET_TIMEOUT": None})
        f = site.memoize()(abs)
        assert f(-1) == 1
        with deployment.master().frozen():
            for n in range(10):
                began = time.monotonic()
                assert f(n) == n
                site.delete_cached("x")
                assert time.monotonic() - began < 1.5
        site.close()


def test_a_failover(caplog: pytest.LogCaptureFixture) -> None:
    with Deployment.start(replicas=2) as deployment:
        site = Site(settings(deployment))
        f = site.memoize()(lambda n: n)
        f(1)
        site.sentinel.master.set("kept", 1)
        deployment.failover("COORDINATED")
        wait_for(lambda: f(1) == 1 and site.sentinel.master.get("kept") == b"1", 5)
        assert site.delete_memoized(f) in (True, False)
        site.close()


def test_a_client_used_before_anything_is_configured(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """`settings_local` is found by the first command as well."""
    local: Any = types.ModuleType("settings_local")
    local.__spec__ = types.SimpleNamespace(name="settings_local")
    local.REDIS_HOST, local.REDIS_PORT = "127.0.0.1", valkey.port
    monkeypatch.setitem(sys.modules, "settings_local", local)
    sentinel = Sentinel()
    assert sentinel.master.set("a", 1)
    assert sentinel.slave.get("a") == b"1"
    sentinel.close()


#: Modules of a site that take `sentinel.master` at import time, and use it before there is an application.
_EARLY = """
from evercache.integrations.pybossa import memoize, sentinel
conn = sentinel.master
assert conn.set("otp", 1) and conn.get("otp") == b"1"
pipe = sentinel.master.pipeline()
assert pipe.incr("n").expire("n", 9).execute() == [1, True]
assert sentinel.slave.get("otp") == b"1"
assert sentinel.master.keys() and set(sentinel.master.keys()) == {b"otp", b"n"}
f = memoize()(lambda: 1)
assert f() == 1 and sentinel.home is None, "cached functions have no servers before the configuration"
class App:
    config = {"REDIS_SENTINEL": None, "REDIS_PORT": OTHER}
sentinel.init_app(App)
assert conn is sentinel.master and conn.get("otp") is None
assert conn.set("otp", 2)
print("done")
"""


def test_before_init_app_the_clients_are_of_localhost() -> None:
    """As in PyBossa: `redis.Redis()`. In a namespace of its own, where the port of localhost is ours."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs root and unshare for a network of its own, in which 6379 is free")
    server = find_server("valkey")
    script = f"""
    ip link set lo up
    {server} --port 6379 --save '' --dir "$1" >/dev/null & one=$!
    {server} --port 6380 --save '' --dir "$1" >/dev/null & two=$!
    for turn in 1 2 3 4 5 6 7 8 9 10; do
      {sys.executable} -c "import redis; redis.Redis().ping(); redis.Redis(port=6380).ping()" 2>/dev/null && break
    done
    {sys.executable} -c "$2"; code=$?
    kill $one $two; wait
    exit $code
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["unshare", "-n", "sh", "-c", script, "sh", folder, _EARLY.replace("OTHER", "6380")],
            capture_output=True, text=True, timeout=50, cwd=folder, check=False,
        )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr
    assert "init_app" in done.stderr, "the log says which servers those are"


def test_settings_that_are_wrong_give_no_client_of_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "settings_local", None)
    sentinel = Sentinel()
    sentinel.init_app(_App({"REDIS_SENTINEL": "nonsense"}))
    with pytest.raises(redis.RedisError, match="init_app"):
        sentinel.master.get("a")


# -- a kill, as a site has its sentinels


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_commands_outlive_an_election_of_the_usual_length(how: str) -> None:
    """Rate limits, feed and queues at work in the moment of the kill: PyBossa's setting is to repeat them."""
    with Deployment.start(down_after_ms=5000, failover_timeout_ms=10_000) as deployment:
        site = Site(settings(deployment))
        stop = threading.Event()
        errors: list[BaseException] = []
        served = [0] * 6

        def page(n: int) -> None:
            while not stop.is_set():
                try:
                    with site.sentinel.master.pipeline() as pipe:  # as its rate limit does
                        pipe.incr(f"limit:{n}").expireat(f"limit:{n}", int(time.time()) + 60).execute()
                    site.sentinel.master.set(f"otp:{n}", "1", ex=60)
                    assert site.sentinel.slave.get(f"otp:{n}") in (b"1", None)
                    site.sentinel.slave.zrange("feed", 0, 99, desc=True, withscores=True)
                    site.sentinel.master.publish("channel", "x")
                    served[n] += 1
                except Exception as error:
                    errors.append(error)
                    return

        pages = [threading.Thread(target=page, args=(n,)) for n in range(len(served))]
        for one in pages:
            one.start()
        wait_for(lambda: min(served) > 20 or errors, 20, "the pages")
        assert errors == []
        old = deployment.master()
        old.kill() if how == "killed" else old.freeze()
        deployment.wait_new_master(old, 20)
        before = list(served)
        wait_for(lambda: all(now > then + 20 for now, then in zip(served, before, strict=True)), 20, "the pages")
        stop.set()
        for one in pages:
            one.join(15)
        if how == "frozen":
            old.thaw()
        site.close()
        assert errors == []


def test_who_wants_no_repetition_says_so(lagging: Deployment) -> None:
    site = Site(settings(lagging) | {"REDIS_RETRY_ON_TIMEOUT": False, "EVERCACHE_WAIT": 7})
    assert site.sentinel.master.ping()
    assert _retries(site) == 0
    assert site.sentinel._clients.wait == 7
    site.close()
    site = Site(settings(lagging))
    assert site.sentinel.master.ping()
    assert _retries(site) == 3
    site.close()


def _retries(site: Site) -> int:
    """How often a command is sent again whose answer is late: its kind of error is in the connection's policy."""
    connection = site.sentinel.master.connection_pool.get_connection()
    retry = connection.retry
    site.sentinel.master.connection_pool.release(connection)
    return int(retry._retries) if redis.TimeoutError in retry._supported_errors else 0


def test_init_app_again(valkey: Server) -> None:
    """Each test of a site makes an application; the same settings keep the cache, others exchange it."""
    values = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": valkey.port}
    site = Site(values)
    f = site.memoize()(lambda n: site.runs.append(n) or n)
    home = site.sentinel.home
    f(1)
    site.sentinel.init_app(_App(dict(values)))
    assert site.sentinel.home is home
    f(1)
    assert site.runs == [1]
    with Server.start("valkey") as other:
        site.sentinel.init_app(_App(values | {"REDIS_PORT": other.port}))
        f(1)
        assert site.runs == [1, 1]
        assert site.listed() == list(other.cli("KEYS", "*"))
        site.close()
