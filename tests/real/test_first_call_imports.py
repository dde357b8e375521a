"""The first calls of a process import nothing: what they need was imported when the cache was created."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.deployment import Deployment
from tests.servers import Server

#: Forked children and then the process itself print what was imported after the cache was created.
_PROGRAM = """
import asyncio, importlib.abc, json, os, sys
from evercache import Cache

names = []

class Recorder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        names.append(name)

cache = Cache(sys.argv[1], namespace="imports", budget=10)

@cache.cached(ttl=60, tags=("t:{n}",))
def page(n):
    return {"n": n, "text": "word " * 1000}

@cache.cached_many(ttl=60)
def pages(ids):
    return {n: n for n in ids}

@cache.cached(ttl=60)
async def apage(n):
    return {"n": n, "text": "word " * 1000}

@cache.cached_many(ttl=60)
async def apages(ids):
    return {n: n for n in ids}

def threads():
    assert page(1) == page(1) == {"n": 1, "text": "word " * 1000}
    assert pages([1, 2]) == {1: 1, 2: 2}
    cache.set("k", 1)
    assert cache.get("k") == 1
    with cache.changing(page):
        pass
    page.invalidate(1)
    cache.health()

async def tasks():
    assert await apage(1) == await apage(1)
    assert await apages([1, 2]) == {1: 1, 2: 2}
    await cache.aset("k", 2)
    assert await cache.aget("k") == 2
    async with cache.achanging(apage):
        pass
    await apage.ainvalidate(1)
    await cache.ahealth()

sys.meta_path.insert(0, Recorder())
for run in (threads, lambda: asyncio.run(tasks())):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            print(json.dumps(names), flush=True)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
asyncio.run(tasks())
threads()
print(json.dumps(names), flush=True)
cache.close()
"""


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """One of each kind of URL, with what answers there."""
    with Server.start("valkey") as server, Deployment.start() as whole:
        master, *replicas = [f"127.0.0.1:{node.port}" for node in whole.nodes]
        yield {
            "memory": "memory://",
            "standalone": server.url,
            "named": server.url.replace("127.0.0.1", "localhost"),
            "replicated": f"redis://{master}?replicas={','.join(replicas)}",
            "sentinel": whole.url,
        }


@pytest.mark.parametrize("kind", ["memory", "standalone", "named", "replicated", "sentinel"])
def test_the_first_calls_import_nothing(urls: dict[str, str], kind: str) -> None:
    """Also in a process forked after the cache was created, for threads and for tasks."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, urls[kind]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[], [], []]
