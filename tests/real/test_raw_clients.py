"""Raw clients on healthy servers: what they are, where their commands go, what they need."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import trustme
from tests.real.raw_tools import Background, all_have_it, in_use, served
from tests.real.wire_peers import Peer, relay
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.errors import ConfigurationError
from evercache.raw import ClientsClosed, NotAttached, NotSent, RawClients


@pytest.fixture(scope="module")
def whole() -> Iterator[Deployment]:
    """A master and two replicas with passwords; nobody harms them."""
    with Deployment.start(password="node-secret", sentinel_password="sentinel-secret") as deployment:
        yield deployment


def test_they_are_whole_clients(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        assert type(cache.master) is redis.Redis
        assert isinstance(cache.replica, redis.Redis)
        assert type(cache.amaster) is redis.asyncio.Redis
        assert isinstance(cache.areplica, redis.asyncio.Redis)
        assert cache.master is cache.master
        assert cache.replica is cache.replica
        cache.master.hset("h", mapping={"a": 1})
        assert cache.master.hgetall("h") == {b"a": b"1"}
        assert cache.raw(decode_responses=True).replica.hgetall("h") == {"a": "1"}
        with cache.master.client() as single:
            assert single.ping()


def test_before_the_cache_is_known(valkey: Server) -> None:
    clients = RawClients()
    master, replica, amaster = clients.master, clients.replica, clients.amaster
    for client in (master, replica):
        with pytest.raises(NotAttached, match="attach"):
            client.get("a")
        with pytest.raises(redis.RedisError):
            client.pipeline().set("a", 1).execute()
        repr(client)
    with pytest.raises(NotAttached, match="attach"):
        asyncio.run(amaster.get("a"))
    script = master.register_script("return 7")
    with Cache(valkey.url) as cache:
        clients.attach(cache)
        assert master is clients.master
        assert replica is clients.replica
        assert master.set("a", 1)
        assert replica.get("a") == b"1"
        assert script() == 7
    with pytest.raises(ClientsClosed):
        master.get("a")


def test_another_cache_may_be_attached_later(valkey: Server) -> None:
    clients = RawClients()
    with Server.start("valkey") as other, Cache(valkey.url) as first, Cache(other.url) as second:
        clients.attach(first)
        clients.master.set("where", "first")
        clients.attach(second)
        assert clients.master.get("where") is None
        clients.attach(first)
        assert clients.master.get("where") == b"first"
        second.close()
        assert clients.master.get("where") == b"first", "the end of another cache is not theirs"


def test_memory_has_no_clients() -> None:
    cache = Cache("memory://")
    with pytest.raises(ConfigurationError, match="memory://"):
        cache.master
    with pytest.raises(ConfigurationError, match="memory://"):
        RawClients(cache)


@pytest.mark.parametrize("options", [{"host": "x"}, {"ssl_ca_certs": "x"}, {"retry": True}, {"wait": -1}])
def test_what_the_url_decides_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RawClients(**options)


def test_without_redis_py_the_error_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError('none')\n")
    code = (
        "from evercache import Cache\n"
        "from evercache.errors import PackageMissing\n"
        "cache = Cache('redis://127.0.0.1:1')\n"
        "try: cache.master\n"
        "except PackageMissing as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    assert "pip install 'evercache[redis]'" in done.stdout, done.stderr


def test_the_core_does_not_import_redis_py() -> None:
    code = "import sys, evercache; evercache.Cache('redis://127.0.0.1:1'); print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "False", done.stderr


async def test_a_scan_stays_at_one_server(whole: Deployment) -> None:
    """A cursor means nothing to another server: pages from two of them leave keys out."""
    with in_use(whole, 2) as cache:
        pipe = cache.master.pipeline()
        for n in range(1500):
            pipe.set(f"scan:{n}", n).hset("scan", f"f{n}", n).sadd("scans", n).zadd("scanz", {str(n): n})
        pipe.execute()
        all_have_it(whole, cache)
        ours = cache.raw(read_your_writes=True)
        for client in (cache.replica, ours.replica, cache.master):
            for turn in range(3):
                ours.master.set("scan:0", turn)
                seen = set()
                for key in client.scan_iter("scan:*", count=100):
                    seen.add(key)
                    ours.master.incr("other")
                assert len(seen) == 1500
                assert len(dict(client.hscan_iter("scan"))) == 1500
                assert len(set(client.sscan_iter("scans"))) == 1500
                assert len(dict(client.zscan_iter("scanz"))) == 1500
        assert len({key async for key in cache.areplica.scan_iter("scan:*")}) == 1500
        cursor, keys = cache.replica.scan(match="scan:*", count=10)
        assert cursor
        assert len(keys) >= 1, "a scan by hand"
        await cache.areplica.connection_pool.disconnect()
        cache.master.flushall()


def test_reads_are_balanced_command_by_command(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        cache.master.set("a", 1)
        all_have_it(whole, cache)
        before = [served(node, "get") for node in whole.nodes]
        for _ in range(1000):
            assert cache.replica.get("a") == b"1"
        at = [served(node, "get") - was for node, was in zip(whole.nodes, before, strict=True)]
        master = whole.nodes.index(whole.master())
        assert at.pop(master) == 0
        print(f"reads at the replicas: {at}")
        assert all(400 <= count <= 600 for count in at)


async def test_reads_of_tasks_too(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        await cache.amaster.set("a", 1)
        await asyncio.to_thread(all_have_it, whole, cache)
        seen: Counter[int] = Counter()
        for _ in range(20):
            infos = await asyncio.gather(*(cache.areplica.info("server") for _ in range(20)))
            seen.update(int(info["tcp_port"]) for info in infos)
        print(f"reads at the replicas: {seen}")
        assert set(seen) == {node.port for node in whole.replicas}
        assert all(160 <= count <= 240 for count in seen.values())
        await cache.aclose()


def test_writes_at_a_replica_are_refused(whole: Deployment) -> None:
    with in_use(whole, 2) as cache, pytest.raises(redis.exceptions.ReadOnlyError):
        cache.replica.set("a", 1)


def test_without_replicas_the_master_is_read(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        cache.master.set("a", 1)
        assert cache.replica.get("a") == b"1"
        connections = valkey.info("stats")["total_connections_received"]
        for _ in range(50):
            cache.replica.get("a")
        assert int(valkey.info("stats")["total_connections_received"]) - int(connections) < 10


def test_a_frozen_replica_is_left(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        replica = cache.raw(socket_timeout=0.3).replica
        cache.master.set("a", 1)
        whole.master().cli("WAIT", 2, 1000)
        with whole.replicas[0].frozen():
            worst = 0.0
            for _ in range(200):
                began = time.monotonic()
                assert replica.get("a") == b"1"
                worst = max(worst, time.monotonic() - began)
            assert worst < 1.5
        wait_for(lambda: sum(node.use == "reads" for node in cache.health().nodes) == 2, 10, "both to be read")


def test_one_reads_what_one_wrote(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        clients = cache.raw(read_your_writes=True)
        clients.master.set("warm", 0)
        for number in range(300):
            key = f"k{number}"
            clients.master.set(key, number)
            assert clients.replica.get(key) == str(number).encode()
            with clients.master.pipeline() as pipe:
                pipe.incr(key).hset(f"h{number}", "a", number)
                pipe.execute()
            with clients.replica.pipeline() as pipe:
                assert pipe.get(key).hget(f"h{number}", "a").execute() == [
                    str(number + 1).encode(),
                    str(number).encode(),
                ]
            clients.master.eval("return redis.call('SET', KEYS[1], 1)", 1, f"s{number}")
            assert clients.replica.exists(f"s{number}")
            clients.master.zunionstore(f"z{number}", {"none": 1})
            assert len(list(clients.replica.scan_iter(f"h{number}", count=5000))) == 1


def test_what_was_not_written_is_read_at_replicas_all_the_same(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        clients = cache.raw(read_your_writes=True)
        clients.master.set("other", 1)
        master = whole.master()
        before = served(master, "get")
        for number in range(100):
            clients.master.set(f"w{number}", 1)
            clients.replica.get("other-key")
        assert served(master, "get") - before == 0
        clients.master.set("mine", 1)
        assert clients.replica.get("mine") == b"1"
        assert served(master, "get") - before >= 1
        time.sleep(1.0)
        before = served(master, "get")
        assert clients.replica.get("mine") == b"1"
        assert served(master, "get") == before, "the replicas have it by now"


async def test_one_reads_what_one_wrote_in_tasks(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        clients = cache.raw(read_your_writes=True)
        for number in range(200):
            await clients.amaster.set(f"t{number}", number)
            assert await clients.areplica.get(f"t{number}") == str(number).encode()
            async with clients.areplica.pipeline() as pipe:
                assert await pipe.get(f"t{number}").execute() == [str(number).encode()]
        await clients.aclose()


def test_blocking_commands_outlast_the_time_out(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        master = cache.raw(socket_timeout=0.2).master
        began = time.monotonic()
        assert master.blpop("none", timeout=1) is None
        assert master.xread({"stream": "$"}, block=700) in ([], {})
        assert master.bzpopmin("none", timeout=0.5) is None
        with master.pipeline(transaction=False) as pipe:
            assert pipe.blpop("none", timeout=0.5).get("a").execute() == [None, None]
        assert 2.5 < time.monotonic() - began < 5
        for_ever = Background(lambda: master.blpop("queue", timeout=0))
        time.sleep(0.6)
        master.rpush("queue", "job")
        assert for_ever.result() == (b"queue", b"job")
        with valkey.frozen(), pytest.raises(redis.TimeoutError):
            master.get("a")
        assert master.get("a") is None


async def test_blocking_commands_of_tasks_outlast_the_time_out(valkey: Server) -> None:
    async with Cache(valkey.url) as cache:
        clients = cache.raw(socket_timeout=0.2)
        assert await clients.amaster.blpop("none", timeout=0.7) is None
        popped = asyncio.create_task(clients.amaster.blpop("queue", timeout=0))
        async with clients.amaster.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe("news")
            heard = asyncio.create_task(anext(pubsub.listen()))
            await asyncio.sleep(0.6)
            await clients.amaster.rpush("queue", "job")
            assert await popped == (b"queue", b"job")
            await clients.amaster.publish("news", "x")
            assert (await heard)["data"] == b"x"


def test_a_time_out_is_not_repeated_unless_asked_for(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        master = cache.raw(socket_timeout=0.3).master
        master.set("n", 0)
        with valkey.frozen(), pytest.raises(redis.TimeoutError):
            master.incr("n")
        time.sleep(0.2)
        assert int(valkey.cli("GET", "n")) == 1, "it may have run, and did, once"
        again = cache.raw(socket_timeout=0.3, retry=2, wait=1).master
        again.ping()
        with valkey.frozen(), pytest.raises(redis.ConnectionError) as caught:
            again.incr("n")
        assert not isinstance(caught.value, NotSent), "the first try may have run"
        wait_for(lambda: int(valkey.cli("GET", "n")) == 2, 3, "the first of them")
        again.incr("n")


def test_what_was_not_sent_is_sent_anew(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        cache.master.set("n", 0)
        for _ in range(20):
            valkey.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            cache.master.incr("n")
        assert cache.master.get("n") == b"20"


def test_a_fork_has_connections_of_its_own(whole: Deployment) -> None:
    with in_use(whole, 2) as cache:
        cache.master.set("n", 0)
        whole.master().cli("WAIT", 2, 1000)
        assert cache.replica.get("n") == b"0"
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    for _ in range(100):
                        cache.master.incr("n")
                        assert int(cache.replica.get("n")) >= 0
                    os._exit(0)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        for _ in range(100):
            cache.master.incr("n")
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert cache.master.get("n") == b"400"


def test_the_url_decides_database_name_and_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with Server.start("valkey", options={"unixsocket": str(path), "unixsocketperm": "700"}) as server:
        for url in (f"unix://{path}?db=3&client_name=shop", f"{server.url}?db=3&client_name=shop"):
            with Cache(url) as cache:
                assert cache.master.set("a", 1)
                assert cache.replica.get("a") == b"1"
                assert cache.master.client_getname() in ("shop", b"shop")
                assert cache.master.client_info()["db"] == 3

                async def look(cache: Cache = cache) -> Any:
                    value = await cache.amaster.get("a")
                    await cache.raw().aclose()
                    await cache.amaster.connection_pool.disconnect()
                    return value

                assert asyncio.run(look()) == b"1"


def test_the_kill_switch_leaves_them_on(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCACHE_DISABLED", "1")
    with Cache(valkey.url) as cache:
        assert cache.master.set("a", 1)
        cache.set("b", 1)
        assert cache.get("b") is None
        assert valkey.cli("KEYS", "*b*") == []


def test_many_loops_one_after_the_other(valkey: Server) -> None:
    with Cache(valkey.url) as cache:

        async def once() -> Any:
            await cache.amaster.incr("n")
            value = await cache.areplica.get("n")
            for client in (cache.amaster, cache.areplica):
                await client.connection_pool.disconnect()
            return value

        assert [asyncio.run(once()) for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]


def test_a_wrong_password_is_said_at_once() -> None:
    with (
        Server.start("valkey", password="secret") as server,
        Cache(f"redis://:wrong@127.0.0.1:{server.port}") as cache,
    ):
        began = time.monotonic()
        with pytest.raises(redis.AuthenticationError):
            cache.master.get("a")
        assert time.monotonic() - began < 6


async def test_aclose_leaves_nothing_open() -> None:
    with Server.start("valkey") as server:
        cache = Cache(server.url)
        alone = cache.raw().amaster
        for client in (cache.amaster, cache.areplica, alone):
            await client.ping()
        assert cache.master.ping()
        assert len(server.cli("CLIENT", "LIST").splitlines()) > 4
        await cache.aclose()
        for client in (cache.amaster, alone):
            with pytest.raises(ClientsClosed):
                await client.ping()
        wait_for(lambda: int(server.info("clients")["connected_clients"]) <= 1, 5, "all connections to be closed")


def test_a_master_that_became_a_replica_gets_no_command(valkey: Server) -> None:
    """Nobody told of another one: the command is held back, and was not run."""
    with Server.start("valkey") as server, Cache(server.url) as cache:
        clients = cache.raw(wait=0.3)
        assert clients.master.set("a", 1)
        server.cli("REPLICAOF", "127.0.0.1", valkey.port)
        with pytest.raises(NotSent):
            clients.master.set("a", 2)
        server.cli("REPLICAOF", "NO", "ONE")
        wait_for(lambda: _fine(clients.master), 10, "the master to be one again")


def _fine(client: Any) -> bool:
    try:
        return bool(client.set("a", 3))
    except redis.ConnectionError:
        return False


def test_tls(valkey: Server, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Peer(relay(valkey.port, tls=context)) as peer:
        with Cache(f"rediss://{peer.address}?ssl_ca_certs={tmp_path / 'ca.pem'}") as cache:
            assert cache.master.set("a", 1)
            assert cache.replica.get("a") == b"1"
            popped = Background(lambda: cache.raw().master.blpop("queue", timeout=5))
            assert cache.master.rpush("queue", "x")
            assert popped.result() == (b"queue", b"x")

            async def look() -> Any:
                value = await cache.areplica.get("a")
                await cache.areplica.connection_pool.disconnect()
                return value

            assert asyncio.run(look()) == b"1"
        with Cache(f"rediss://{peer.address}") as cache, pytest.raises(NotSent, match="ertificate"):
            cache.raw(wait=1.5).master.get("a")
