"""Bad settings of a PyBossa site, on real servers: it starts, says once what to do, and `check` says it before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Deployment, Server, free_port, wait_for

from evercache.integrations.pybossa import Sentinel, provide
from evercache.integrations.pybossa.__main__ import main
from evercache.integrations.pybossa.decorators import DISABLED


@pytest.fixture(scope="module")
def whole() -> Iterator[Deployment]:
    with Deployment.start(replicas=1, password="node-secret") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def guarded() -> Iterator[Deployment]:
    """Its sentinel wants a password, too, and its quorum can never be had."""
    with Deployment.start(
        replicas=0, sentinels=1, password="node-secret", sentinel_password="sentinel-secret", down_after_ms=60_000
    ) as deployment:
        deployment.sentinels[0].cli("SENTINEL", "SET", deployment.name, "quorum", "2")
        yield deployment


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    with Server.start("valkey", options={"cluster-enabled": "yes"}) as server:
        yield server


def good(deployment: Deployment) -> dict[str, Any]:
    return {
        "REDIS_SENTINEL": [("127.0.0.1", sentinel.port) for sentinel in deployment.sentinels],
        "REDIS_MASTER": deployment.name,
        "REDIS_PASSWORD": "node-secret",
        "REDIS_SOCKET_TIMEOUT": 5,
        "SECRET_KEY": "sixteen or more bytes",
    }


def bad(name: str, whole: Deployment, cluster: Server) -> dict[str, Any]:
    nobody = [("127.0.0.1", free_port())]
    return {
        "no sentinel": good(whole) | {"REDIS_SENTINEL": nobody},
        "wrong name": good(whole) | {"REDIS_MASTER": "other"},
        "wrong password": good(whole) | {"REDIS_PASSWORD": "wrong-secret"},
        "no password": good(whole) | {"REDIS_PASSWORD": None},
        "a node as a sentinel": good(whole) | {"REDIS_SENTINEL": [("127.0.0.1", cluster.port)]},
        "cluster address": {"EVERCACHE_URL": "redis-cluster://127.0.0.1:7000"},
        "cluster node": {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": cluster.port},
        "a sentinel as a node": {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": whole.sentinels[0].port},
        "bookkeeping out of range": good(whole) | {"EVERCACHE_BOOKKEEPING_DB": 99},
    }[name]


#: By the name of the mistake: what the log says of it, what `check` says.
MISTAKES = {
    "no sentinel": ("check that they run and that their addresses", "no sentinel names a master"),
    "wrong name": ("check the service name", "set REDIS_MASTER to 'evercache'"),
    "wrong password": ("check the user name and the password", "check REDIS_PASSWORD"),
    "no password": ("check the user name and the password", "check REDIS_PASSWORD"),
    "a node as a sentinel": ("a data node answers where a sentinel was expected", "is no sentinel"),
    "cluster address": ("Cluster is not supported", "Cluster is not supported"),
    "cluster node": ("Cluster is not supported", "Redis Cluster, which is not supported"),
    "a sentinel as a node": ("use a sentinel:// URL", "name it in REDIS_SENTINEL"),
    "bookkeeping out of range": ("choose a lower database number", "give a lower number"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_site_starts_and_the_log_says_what_to_do(
    name: str, whole: Deployment, cluster: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DISABLED, raising=False)
    names: dict[str, Any] = {"sentinel": Sentinel()}
    provide(names)
    said = MISTAKES[name][0]

    def lines() -> list[str]:
        """Those that say what is wrong."""
        return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and said in r.getMessage()]

    try:
        names["sentinel"].init_app(type("App", (), {"config": bad(name, whole, cluster)}))
        runs: list[int] = []
        f = names["memoize"]()(lambda n: runs.append(n) or n)
        for _ in range(3):
            assert f(1) == 1
            assert names["delete_memoized"](f, 1) in (True, False)
            assert names["delete_memoized"](f) in (True, False)
            assert names["delete_cached"]("front") in (True, False)
        assert runs
        wait_for(lines, 5, "the line in the log")
        assert len(lines()) == 1
        assert "-secret" not in caplog.text
    finally:
        names["sentinel"].close()


def check(values: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    file = folder / "settings_local.py"
    file.write_text("\n".join(f"{name} = {value!r}" for name, value in values.items()))
    code = main(["check", str(file)])
    out = capsys.readouterr().out
    assert "-secret" not in out
    return code, out


@pytest.mark.parametrize("name", MISTAKES)
def test_check_finds_mistakes(
    name: str, whole: Deployment, cluster: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = check(bad(name, whole, cluster), tmp_path, capsys)
    assert code == 2
    assert MISTAKES[name][1] in out
    assert "error: " in out


def test_check_of_what_is_good(
    whole: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DISABLED, raising=False)
    code, out = check(good(whole), tmp_path, capsys)
    assert code == 0, out
    assert f"/{whole.name}" in out


def test_check_of_a_deployment_as_it_was_shipped(
    guarded: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentinel with quorum 2, a master that is missed after a minute, no replica."""
    code, out = check(good(guarded), tmp_path, capsys)
    assert code == 2
    assert "wants a password" in out
    code, out = check({"EVERCACHE_URL": guarded.url, "SECRET_KEY": "sixteen or more bytes"}, tmp_path, capsys)
    assert code == 1
    for words in ("no failover can ever be agreed", "down-after-milliseconds 60000", "has no replica"):
        assert words in out


def test_check_compares_the_wait_with_what_a_promotion_takes(
    whole: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(down_after: int, **more: Any) -> str:
        for sentinel in whole.sentinels:
            sentinel.cli("SENTINEL", "SET", whole.name, "down-after-milliseconds", down_after)
        file = tmp_path / "settings_local.py"
        file.write_text("".join(f"{name} = {value!r}\n" for name, value in (good(whole) | more).items()))
        main(["check", str(file)])
        return capsys.readouterr().out

    try:
        assert "waits up to 10 s for another master; the sentinels take up to 10 s" in said(5000)
        assert "risk: a command of sentinel.master waits 5 s" in said(5000, EVERCACHE_WAIT=5)
        assert "raise EVERCACHE_WAIT to 10" in said(5000, EVERCACHE_WAIT=5)
        assert "risk: a command of sentinel.master waits 30 s" in said(60_000)
        assert "lower that to 5000" in said(60_000)
    finally:
        said(500)
