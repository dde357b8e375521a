"""Bad settings of sites, Flask's and PyBossa's: each starts, and one line says what to do, over many requests."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from tests.real.doctor_tools import Hall
from tests.servers import Deployment, Server, free_port, wait_for

from evercache.integrations.flask import Cache
from evercache.integrations.pybossa import Sentinel, provide
from evercache.integrations.pybossa.decorators import DISABLED

#: Seconds in which all sites are asked, again and again.
SECONDS = [1.0, pytest.param(15.0, marks=pytest.mark.long)]
#: What a machine that stands still adds to a line.
STALLED = ("did not answer", "could not be reached in")


@pytest.fixture(scope="module")
def whole() -> Iterator[Deployment]:
    with Deployment.start(replicas=1, name="shop", password="node-secret", down_after_ms=10_000) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    with Server.start("valkey", options={"cluster-enabled": "yes"}) as server:
        yield server


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DISABLED, "EVERCACHE_URL", "EVERCACHE_DISABLED"):
        monkeypatch.delenv(name, raising=False)


#: A bad setting, and what its line tells to do.
NOBODY = "no sentinel of 'gone' answered"
NAME = "check the service name in the URL"
PASSWORD = "check the user name and the password"
CLUSTER = "Cluster is not supported"
TYPE = "there is no such type here"


def flask_sites(whole: Deployment, cluster: Server) -> list[tuple[dict[str, Any], str]]:
    good = {
        "CACHE_TYPE": "RedisSentinelCache",
        "CACHE_REDIS_SENTINELS": [("127.0.0.1", sentinel.port) for sentinel in whole.sentinels],
        "CACHE_REDIS_SENTINEL_MASTER": whole.name,
        "CACHE_REDIS_PASSWORD": "node-secret",
        "SECRET_KEY": "sixteen or more bytes",
    }
    gone = {"CACHE_REDIS_SENTINELS": [("127.0.0.1", free_port())], "CACHE_REDIS_SENTINEL_MASTER": "gone"}
    return [
        (good | gone, NOBODY),
        (good | {"CACHE_REDIS_SENTINEL_MASTER": "other"}, NAME),
        (good | {"CACHE_REDIS_PASSWORD": "wrong-secret"}, PASSWORD),
        (good | {"EVERCACHE_URL": "redis-cluster://:cluster-secret@127.0.0.1:7000"}, CLUSTER),
        (good | {"EVERCACHE_URL": cluster.url}, CLUSTER),
        (good | {"CACHE_TYPE": "NoSuchCache"}, TYPE),
    ]


def pybossa_sites(whole: Deployment, cluster: Server) -> list[tuple[dict[str, Any], str]]:
    good = {
        "REDIS_SENTINEL": [("127.0.0.1", sentinel.port) for sentinel in whole.sentinels],
        "REDIS_MASTER": whole.name,
        "REDIS_PASSWORD": "node-secret",
        "SECRET_KEY": "sixteen or more bytes",
    }
    return [
        (good | {"REDIS_SENTINEL": [("127.0.0.1", free_port())], "REDIS_MASTER": "gone"}, NOBODY),
        (good | {"REDIS_MASTER": "other"}, NAME),
        (good | {"REDIS_PASSWORD": "wrong-secret"}, PASSWORD),
        (good | {"EVERCACHE_URL": "redis-cluster://:cluster-secret@127.0.0.1:7000"}, CLUSTER),
        ({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": cluster.port, "SECRET_KEY": good["SECRET_KEY"]}, CLUSTER),
        (good | {"REDIS_DB": "nine"}, "write REDIS_DB = 0"),
    ]


def flask_requests(config: dict[str, Any], cleanup: contextlib.ExitStack) -> Callable[[int], None]:
    app = Flask("site")
    app.config.update(config)
    cache = Cache(app)
    if hasattr(cache.cache, "evercache"):
        cleanup.callback(cache.cache.evercache.close)

    @app.get("/<int:n>")
    @cache.cached(60)
    def page(n: int) -> str:
        return f"{n} {total(n)}"

    @cache.memoize(60)
    def total(n: int) -> int:
        return n

    @app.post("/<int:n>")
    def change(n: int) -> str:
        cache.delete_memoized(total, n)
        cache.delete_memoized(total)
        cache.set("a", n)
        cache.delete("a")
        return f"{cache.get('a')}"

    client = app.test_client()

    def ask(n: int) -> None:
        assert client.get(f"/{n % 3}").text == f"{n % 3} {n % 3}"
        assert client.post(f"/{n % 3}").status_code == 200

    return ask


def pybossa_requests(config: dict[str, Any], cleanup: contextlib.ExitStack) -> Callable[[int], None]:
    names: dict[str, Any] = {"sentinel": Sentinel()}
    provide(names)
    cleanup.callback(names["sentinel"].close)
    names["sentinel"].init_app(type("App", (), {"config": config}))

    @names["memoize"]()  # type: ignore[untyped-decorator]
    def total(n: int) -> int:
        return n

    @names["cache"]("front")  # type: ignore[untyped-decorator]
    def front() -> str:
        return "front"

    def ask(n: int) -> None:
        assert total(n % 3) == n % 3
        assert front() == "front"
        for done in (
            names["delete_memoized"](total, n % 3),
            names["delete_memoized"](total),
            names["delete_cached"]("front"),
        ):
            assert done in (True, False)

    return ask


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize(("sites", "requests"), [(flask_sites, flask_requests), (pybossa_sites, pybossa_requests)])
def test_each_site_says_what_to_do_in_one_line(
    sites: Any, requests: Any, seconds: float, whole: Deployment, cluster: Server, caplog: pytest.LogCaptureFixture
) -> None:
    mistakes = sites(whole, cluster)
    rounds = [0] * len(mistakes)
    errors: list[BaseException] = []

    with contextlib.ExitStack() as cleanup:
        asks = [requests(config, cleanup) for config, _ in mistakes]
        until = time.monotonic() + seconds

        def visit(site: int) -> None:
            try:
                while time.monotonic() < until or rounds[site] < 10:
                    asks[site](rounds[site])
                    rounds[site] += 1
                    time.sleep(0.01)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=visit, args=(site,)) for site in range(len(mistakes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
        records = list(caplog.records)  # at its end each tells of the deletes that no master heard of
    assert errors == []
    assert min(rounds) >= 10
    lines = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    for said in {said for _, said in mistakes}:
        wanted = sum(said == other for _, other in mistakes)
        assert len([line for line in lines if said in line]) == wanted, (said, lines)
    others = [line for line in lines if not any(said in line for _, said in mistakes)]
    assert [line for line in others if not any(words in line for words in STALLED)] == []
    assert not any(secret in caplog.text for secret in ("node-secret", "wrong-secret", "cluster-secret"))


def test_a_site_that_starts_before_its_servers_uses_them_when_they_come(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with contextlib.ExitStack() as cleanup:
        app = Flask("site")
        app.config.update(EVERCACHE_URL=f"redis://127.0.0.1:{port}", SECRET_KEY="sixteen or more bytes")
        cache = Cache(app)
        cleanup.callback(cache.cache.evercache.close)
        assert cache.set("a", 1) is False
        wait_for(lambda: [r for r in caplog.records if "nothing listens there" in r.getMessage()], 10)
        with Server.start("valkey", port=port):
            wait_for(lambda: cache.set("a", 1) and cache.get("a") == 1, 15, "the cache")
            cache.cache.evercache.close()


# -- what `flask cache doctor` says of servers


def doctor(config: dict[str, Any], patience: float = 15) -> tuple[int, str]:
    app = Flask("site")
    app.config.update({"SECRET_KEY": "sixteen or more bytes", "CACHE_KEY_PREFIX": "site"} | config)
    cache = Cache(app)
    try:
        told = app.test_cli_runner().invoke(args=["cache", "doctor", "--patience", str(patience)])
    finally:
        cache.cache.evercache.close()
    assert "-secret" not in told.output
    lines = told.output.splitlines()
    heads = [line for line in lines if not line.startswith("        ")]  # what fixes it may be of several steps
    assert heads == ["nothing to fix"] or all(line.startswith("  fix: ") for line in heads[1::2])
    return told.exit_code, told.output


def test_the_doctor_of_a_sound_deployment() -> None:
    with Hall.open() as hall:
        assert doctor({"EVERCACHE_URL": hall.url()}) == (0, "nothing to fix\n")
        hall.nodes[1].cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        code, told = doctor({"EVERCACHE_URL": hall.url()}, patience=0.5)
        assert code == 1, told
        assert "maxmemory-policy" in told


def test_the_doctor_of_a_deployment_that_cannot_fail_over() -> None:
    """What `evercache doctor` finds is found here too."""
    with Deployment.start(replicas=0, sentinels=1, password="node-secret", down_after_ms=60_000) as shop:
        shop.sentinels[0].cli("SENTINEL", "SET", shop.name, "quorum", "2")
        code, told = doctor({"EVERCACHE_URL": shop.url})
        assert code == 2, told
        for words in ("(wanted: at least three sentinels)", "1 sentinel(s) are named"):
            assert words in told
        shop.sentinels[0].kill()
        assert "error: " in doctor({"EVERCACHE_URL": shop.url}, patience=0.5)[1]


def test_the_doctor_of_what_is_wrong(whole: Deployment, valkey: Server) -> None:
    wrong = whole.url.replace("node-secret", "wrong-secret")
    for config, code, words in [
        ({"EVERCACHE_URL": wrong}, 2, PASSWORD),
        (
            {"EVERCACHE_URL": f"redis://:x-secret@127.0.0.1:{free_port()}"},
            2,
            "start the server, or correct its address",
        ),
    ]:
        found, told = doctor(config, patience=0.5)
        assert (found, words in told) == (code, True), told
    valkey.cli_many([("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), ("CONFIG", "SET", "maxmemory", "1gb")])
    code, told = doctor({"EVERCACHE_URL": valkey.url}, patience=0.5)
    assert code == 2, "nothing is persisted"
    assert "CONFIG SET maxmemory-policy volatile-lru" in told
    valkey.cli_many([("CONFIG", "SET", "maxmemory-policy", "noeviction"), ("CONFIG", "SET", "maxmemory", 1)])
    try:
        code, told = doctor({"EVERCACHE_URL": valkey.url}, patience=0.5)
        assert code == 2
        assert "takes no write" in told
        assert "maxmemory" in told
    finally:
        valkey.cli("CONFIG", "SET", "maxmemory", 0)
