"""`evercache bench`: timings at real servers, and what it leaves there."""

from __future__ import annotations

import json

import pytest
from tests.servers import Deployment, Server

from evercache import Cache
from evercache.ops.bench import MANY, bench
from evercache.ops.cli import main

OPERATIONS = ["hit", f"get_many of {MANY}", "fill", "invalidate"]


def test_every_operation_is_timed_at_one_server(valkey: Server) -> None:
    measured = bench(valkey.url, seconds=0.2)
    assert [one.name for one in measured.trips] == [f"round trip to {valkey.address}, master"]
    assert [one.name for one in measured.operations] == OPERATIONS
    for one in (*measured.trips, *measured.operations):
        assert one.runs >= 20
        assert 0 < one.median <= one.p95
        assert one.median <= one.longest
    assert measured.hits > 0
    assert measured.replica_hits == 0


def test_what_it_leaves_expires(valkey: Server) -> None:
    bench(valkey.url, seconds=0.1)
    left = valkey.cli("KEYS", "*")
    assert left
    assert all(0 < ttl <= 60 for ttl in valkey.cli_many([("TTL", key) for key in left]))


def test_a_namespace_that_is_given_keeps_its_bookkeeping_and_its_entries(valkey: Server) -> None:
    with Cache(valkey.url, namespace="shop") as cache:
        cache.set("mine", 1)
        before = cache.stamp()
        bench(valkey.url, seconds=0.1, namespace="shop")
        after = cache.stamp()
        assert before is not None
        assert after is not None
        assert after >= before
        assert cache.get("mine") == 1
    assert valkey.cli("EXISTS", "shop~state") == 1


def test_replicas_take_part(deployment: Deployment) -> None:
    measured = bench(deployment.url, seconds=0.2)
    assert sorted(one.name.rsplit(", ")[-1] for one in measured.trips) == ["master", "replica", "replica"]
    assert measured.replica_hits > 0


def test_the_command_prints_a_table_or_json(valkey: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", valkey.url, "--seconds", "0.1"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in OPERATIONS)
    assert "the master answered the hits" in text
    assert main(["bench", valkey.url, "--seconds", "0.1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["operations"]] == OPERATIONS


def test_what_cannot_be_measured_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["bench", "memory://"]) == 2
    assert "no servers to look at" in capsys.readouterr().err
    assert main(["bench", "redis://127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert main(["bench", "redis://127.0.0.1:1", "--name", "default"]) == 2
    monkeypatch.setenv("EVERCACHE_URL", "redis://127.0.0.1:1")
    assert main(["bench"]) == 1
