"""Fixtures for tests on real servers; see `tests/servers.py`."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from evercache import connect
from tests.servers import Deployment, Server, find_server, free_port, release_port

# How long an example takes says nothing on a machine that is busy with other tests.
settings.register_profile("evercache", deadline=None)
settings.load_profile("evercache")

# Tests that were started in the background ignore Ctrl-C, and so would all that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Hundreds of processes import the library here. It is compiled once nevertheless, away from the sources.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


#: A test on real servers begins once no more threads than this want a processor, as with `make --max-load`; or
#: after so many seconds. Whatever waits for a reply waits for a processor first where there are more of them.
MAX_LOAD, MAX_WAIT = 2 * (os.cpu_count() or 1), 1.0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where all tests run many times (`--count`), each pass has an order of modules of its own. Else all processes
    would be at the same place: now all of them wait, and now all of them want the processors."""
    modules = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.path)]
    if (count := config.getoption("count", 1)) > 1 and len(modules) > count:
        rng, size = random.Random(count), len(modules) // count
        passes = [modules[start : start + size] for start in range(0, len(modules), size)]
        for before, one in itertools.pairwise([[], *passes]):
            rng.shuffle(one)
            if before and before[-1][0].path == one[0][0].path:  # what a module starts is for one pass
                one.reverse()
        items[:] = [item for one in passes for group in one for item in group]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """See `MAX_LOAD`. And what is there before such a test is none of the collector's business while it runs: to go
    through it stops every thread of the process, for longer than a cache waits for its servers."""
    if item.path.parent.name == "real":
        gc.collect()
        gc.freeze()
        until = time.monotonic() + MAX_WAIT
        while _load() > MAX_LOAD and time.monotonic() < until:
            time.sleep(0.02)


def _load() -> int:
    """Threads that run or could, by Linux; 0 elsewhere."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def kept_ports() -> Iterator[None]:
    """A deployment that a test brings up keeps its ports from other tests while it is down, as a `Server` does."""

    def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
        shunned, found = set(avoid), list[int]()
        while len(found) < count:
            kept.append(port := free_port())
            if port not in shunned:
                found.append(port)
        return found

    kept: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evercache.ops.config.free_ports", free_ports)
        yield
    for port in kept:
        release_port(port)


@pytest.fixture
def own_deployments() -> Iterator[None]:
    """The caches of the test share no deployment, and so no background, with those of other tests."""
    connect._deployments.clear()
    yield
    connect._deployments.clear()


@pytest.fixture(scope="module")
def module_valkey() -> Iterator[Server]:
    """One Valkey for the module; use `valkey`."""
    with Server.start("valkey") as server:
        yield server


@pytest.fixture
def valkey(module_valkey: Server) -> Server:
    """An empty Valkey (shared by the module: do not kill it, put settings back)."""
    module_valkey.cli_many([("FLUSHALL",), ("SCRIPT", "FLUSH")])
    return module_valkey


@pytest.fixture(params=["valkey", "redis6", "redis7"])
def server_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server that this machine has."""
    kind: str = request.param
    if find_server(kind) is None:
        pytest.skip(f"no {kind} server on this machine")
    return kind


@pytest.fixture
def fresh_server(server_kind: str) -> Iterator[Server]:
    """A server of its own of each kind, to be ill-treated."""
    with Server.start(server_kind) as server:
        yield server


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    """A Valkey deployment of its own: master, two replicas, three sentinels, with passwords."""
    with Deployment.start(password="node-secret", sentinel_password="sentinel-secret") as whole:
        yield whole
