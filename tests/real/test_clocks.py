"""Rules 7 and 14: every moment is of one clock, which differs from `time.monotonic` once a machine was suspended.

A kernel cannot be suspended here, but a time namespace lets the two clocks differ by as much.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest
from tests.deployment import Deployment
from tests.servers import Server

#: By so much `CLOCK_BOOTTIME` is ahead there (seconds).
AHEAD = 1_000_000
UNSHARE = ["unshare", "--time", "--boottime", str(AHEAD)]

SCRIPT = """
import asyncio, sys, time
from evercache import Cache
from evercache.clock import monotonic

assert monotonic() - time.monotonic() > 900_000
url, replicas = sys.argv[1], int(sys.argv[2])
with Cache(url, budget=5, near_bytes=1_000_000) as cache:
    value = [1]

    @cache.cached
    def f(n):
        return [n, *value]

    @cache.cached(near=30)
    async def g(n):
        return [n, *value]

    @cache.cached_many
    def many(ns):
        return {n: [n, *value] for n in ns}

    def reads():
        return [n.use for n in cache.health().nodes].count("reads")

    end = time.monotonic() + 20
    while reads() < replicas:
        assert time.monotonic() < end, cache.health()
        time.sleep(0.05)
    assert cache.health().ok, cache.health()
    began = time.monotonic()

    async def main():
        for _ in range(3):
            assert await g(1) == [1, *value]
            assert await cache.aget("k") == value
            assert await cache.aget_many(["k"]) == {"k": value}

    for version in range(1, 4):
        value[:] = [version]
        assert cache.set("k", value) and f.invalidate(1) and g.invalidate(1) and many.invalidate([1, 2])
        for _ in range(3):
            assert f(1) == [1, version] and many([1, 2])[1] == [1, version]
        asyncio.run(main())
    counters = cache.stats().counters
    assert not counters.failures and not counters.queued, counters
    # Nobody waited for a deadline of the other clock.
    assert time.monotonic() - began < 5
print("well")
"""


def run_ahead(url: str, replicas: int) -> None:
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("no time namespaces here")
    ran = subprocess.run(
        [*UNSHARE, sys.executable, "-c", SCRIPT, url, str(replicas)], capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "well\n", ran.stderr


def test_one_server(valkey: Server) -> None:
    run_ahead(valkey.url, 0)


def test_sentinels_and_replicas(deployment: Any) -> None:
    assert isinstance(deployment, Deployment)
    run_ahead(deployment.url, len(deployment.replicas))
