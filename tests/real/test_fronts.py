"""The fronts of sites (Flask's `memoize` and `cached`, PyBossa's `memoize`), over two processes and a failover."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from tests.fleet import Truth, truth
from tests.real.front_worker import BEGAN, GO, HELD, KINDS, SLOW, Front, Other, other
from tests.servers import Deployment, wait_for

from evercache.integrations.flask import Cache
from evercache.integrations.pybossa.decorators import DISABLED

#: What one message may take on a busy machine of two cores (s), as in `test_invalidation`.
MESSAGE = 0.1
HOT = 3999


@pytest.fixture(scope="module")
def lagging() -> Iterator[Deployment]:
    """A master, a replica that is 200 ms behind and one that is not."""
    with Deployment.start(replicas=2, replica_delays=[0.2], down_after_ms=20_000) as deployment:
        yield deployment


@pytest.fixture(autouse=True, scope="module")
def plain_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (DISABLED, "EVERCACHE_URL", "EVERCACHE_DISABLED"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, lagging: Deployment, plain_environment: None
) -> Iterator[tuple[Front, Other, Truth]]:
    """A front in this process, the same in another, and what they compute from."""
    with truth() as shared:
        front = Front(request.param, lagging.url, shared)
        front.call(1)
        with other(request.param, lagging.url, shared) as there:
            yield front, there, shared
        front.close()


def test_twenty_threads_in_each_of_two_processes_run_it_once(pair: tuple[Front, Other, Truth]) -> None:
    front, there, shared = pair
    keys = range(10, 15)
    front.delete_all()
    before = len(shared.runs())
    shared[SLOW] = 60
    for key in keys:
        shared[key] = key
        at = time.monotonic() + 0.1
        there.tell("race", key=key, callers=20, at=at)
        assert front.race(key, 20, at) == [key] * 20
        assert there.answer() == [key] * 20
    shared[SLOW] = 0
    assert sorted(run.key for run in shared.runs()[before:]) == [str(key) for key in keys]


@pytest.mark.parametrize("turns", [40, pytest.param(200, marks=pytest.mark.long)])
def test_what_was_deleted_during_a_computation_never_comes_back(
    pair: tuple[Front, Other, Truth], turns: int
) -> None:
    """The other process computes, this one deletes meanwhile; both read. And a key that is cached all the time."""
    front, there, shared = pair
    keys = range(101, 101 + turns)
    for key in (HOT, *keys):
        shared[key] = 0
    front.delete_all()
    deletes: list[tuple[float, int]] = []
    own: list[Any] = []
    assert there.ask("read", key=HOT) == "reading"
    for turn, key in enumerate(keys, 1):
        shared[GO], shared[HELD] = 0, key
        there.tell("call", key=key)
        wait_for(lambda key=key: shared[BEGAN] == key, 20, "the computation", pause=0.001)
        shared[key] = shared[HOT] = turn
        if turn % 2:
            front.delete(key)
            front.delete(HOT)
        else:
            front.delete_all()
        deletes.append((time.monotonic(), turn))
        shared[HELD], shared[GO] = 0, key
        own += [(what, turn, seen) for what in (key, HOT) if (seen := front.call(what)) != turn]
        assert there.answer() == 0, "whoever began before the delete gets what was then"
        own += [("late", turn, seen) for _ in range(3) if (seen := front.call(key)) != turn]
    time.sleep(2 * MESSAGE)
    late = [there.ask("call", key=key) for key in keys]
    records = there.ask("stop")
    assert own == []
    assert late == list(range(1, turns + 1)), "in the other process"
    assert len(records) > 3 * turns
    stale = [
        (began - deleted, version, turn)
        for began, version in records
        for deleted, turn in deletes
        if version < turn and began > deleted + MESSAGE
    ]
    assert stale == [], f"reads were stale, by up to {max(stale)[0]} s"


@pytest.mark.long
def test_pages_through_the_death_of_the_master() -> None:
    """Threads read pages, the master is killed; what was deleted is never on a page that was asked for later."""
    pages = 6
    versions = [0] * pages
    app = Flask("site")
    reads: list[tuple[int, float, int]] = []
    wrong: list[Any] = []
    deletes: list[tuple[int, float, int]] = []
    computed = [0]
    go_on = True
    with Deployment.start(replicas=2, replica_delays=[0.05]) as deployment:
        app.config.update(EVERCACHE_URL=deployment.url, SECRET_KEY="sixteen or more bytes")
        cache = Cache(app)

        @app.route("/page/<int:n>")
        @cache.cached(timeout=600)
        def page(n: int) -> str:
            return f"{part(n)}"

        @cache.memoize(timeout=600)
        def part(n: int) -> int:
            computed[0] += 1
            version = versions[n]
            time.sleep(0.005)
            return version

        def read() -> None:
            client, n = app.test_client(), 0
            while go_on:
                n = (n + 1) % pages
                began = time.monotonic()
                try:
                    response = client.get(f"/page/{n}")
                    if response.status_code != 200:
                        wrong.append(response.status)
                    reads.append((n, began, int(response.text)))
                except Exception as error:
                    wrong.append(error)

        def change(turn: int) -> None:
            n = turn % pages
            versions[n] += 1
            version = versions[n]
            # From the inside to the outside, as a page is made of what is cached too.
            cache.delete_memoized(part, n)
            with app.app_context():
                cache.delete_cached(page, path=f"/page/{n}")
            deletes.append((n, time.monotonic(), version))

        threads = [threading.Thread(target=read) for _ in range(4)]
        try:
            for thread in threads:
                thread.start()
            for turn in range(30):
                change(turn)
                time.sleep(0.02)
            old = deployment.master()
            old.kill()
            killed = time.monotonic()
            while time.monotonic() < killed + 1.5:
                change(len(deletes))
                time.sleep(0.05)
            new = deployment.wait_new_master(old, 30)
            wait_for(lambda: cache.cache.evercache.health().master == str(new.address), 20, "the new master")
            after = len(reads)
            for turn in range(30):
                change(turn)
                time.sleep(0.02)
            wait_for(lambda: cache.cache.evercache.stats().pending == 0, 20, "all deletes to be brought")
        finally:
            go_on = False
            for thread in threads:
                thread.join(10)
        ran = computed[0]
        # What a process that begins now sees.
        with app.app_context():
            fresh = Cache(Flask("site"), config=dict(app.config))
        for n in range(pages):
            seen = fresh.cache.get(part.make_cache_key(part, n))
            assert seen in (None, versions[n])
        fresh.cache.evercache.close()
        cache.cache.evercache.close()
    assert wrong == []
    in_failover = [began for _, began, _ in reads if killed < began < killed + 1.5]
    assert len(in_failover) > 50
    assert len(reads) > after + 50
    assert ran < len(reads), "most pages are from the cache"
    stale = [
        (began - deleted, n, version)
        for n, began, version in reads
        for changed, deleted, least in deletes
        if n == changed and began > deleted and version < least
    ]
    assert stale == [], f"pages were stale, by up to {max(stale)[0]} s"
