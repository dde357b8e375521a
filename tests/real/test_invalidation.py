"""Promises 2, 3 and 4 on real servers: what was invalidated is never seen again, however far a replica lags."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fleet import Plan, Truth, start_together, truth, worker
from tests.servers import Deployment

from evercache import Cache

KEYS = tuple(f"k{number}" for number in range(6))
#: What one message may take on a busy machine of two cores.
MESSAGE = 0.1
#: How long the one who invalidates waits for its acknowledgement: what is measured begins with it.
PATIENCE = 2.0


@pytest.fixture(scope="module")
def lagging() -> Iterator[Deployment]:
    """A master, a replica that is 200 ms behind and one that is not."""
    with Deployment.start(replicas=2, replica_delays=[0.2]) as deployment:
        yield deployment


@pytest.mark.parametrize("tries", [60, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_an_invalidated_value_is_never_seen_again(lagging: Deployment, tasks: bool, tries: int) -> None:
    """Invalidations of a key, a function and a tag at random moments of computations, two processes of readers."""
    rng = random.Random(7 + tasks)
    namespace = f"inv{int(tasks)}-{tries}"
    with truth() as shared:
        plan = Plan(
            lagging.url,
            str(shared.folder),
            KEYS,
            seconds=0.01,
            callers=16 if tasks else 4,
            tasks=tasks,
            reading=2.0 + tries * 0.035,
            slot_of=tuple(range(len(KEYS))),
            options={"tags": ["tag:{key}"]},
            cache={"namespace": namespace},
        )
        with worker(plan) as one, worker(plan) as two:
            start_together(one, two)
            invalidations, own = invalidate_at_random(lagging.url, namespace, shared, rng, tries)
            records = one.records() + two.records()
    assert [r for r in records if r["error"]] == []
    assert own == []
    assert len(records) > 1_000
    stale = stale_reads(records, invalidations)
    assert stale == [], f"{len(stale)} of {len(records)} reads were stale, by up to {max(s[0] for s in stale)} s"


def invalidate_at_random(
    url: str, namespace: str, shared: Truth, rng: random.Random, tries: int
) -> tuple[list[tuple[float, set[str], dict[str, int]]], list[Any]]:
    """Bump the truth and invalidate, `tries` times; what this process itself then sees must be new at once."""
    invalidations, own = [], []
    with Cache(url, namespace=namespace, budget=PATIENCE) as cache:

        def work(key: str) -> tuple[str, int, int]:
            time.sleep(0.005)
            version = shared[KEYS.index(key)]
            time.sleep(0.005)
            return key, version, 0

        work.__module__, work.__qualname__ = "tests.fleet", "work"
        f = cache.cached(ttl=600, tags=("tag:{key}",), name=worker_name())(work)
        for _ in range(tries):
            key = rng.choice(KEYS)
            what = rng.choice(["key", "tag", "function"])
            covered = set(KEYS) if what == "function" else {key}
            for each in covered:
                shared[KEYS.index(each)] += 1
            versions = {each: shared[KEYS.index(each)] for each in covered}
            time.sleep(rng.uniform(0, 0.012))
            ack = (
                f.invalidate(key)
                if what == "key"
                else cache.invalidate_tag(f"tag:{key}")
                if what == "tag"
                else f.invalidate_all()
            )
            assert ack
            invalidations.append((time.monotonic(), covered, versions))
            seen = f(key)[1]
            if seen < versions[key]:
                own.append((what, key, seen, versions[key]))
            time.sleep(rng.uniform(0, 0.03))
    return invalidations, own


def worker_name() -> str:
    """The name under which a worker of the fleet caches its function."""
    return "tests.fleet.work"


def stale_reads(
    records: list[dict[str, Any]], invalidations: list[tuple[float, set[str], dict[str, int]]]
) -> list[tuple[float, dict[str, Any]]]:
    """Reads that returned less than was acknowledged more than a message's time before they began.

    What their process stood still in the second before is not counted.
    """
    stale = []
    for record in records:
        for acknowledged, covered, versions in invalidations:
            if record["key"] not in covered or record["version"] >= versions[record["key"]]:
                continue
            late = record["began"] - acknowledged - record["stalled"]
            if late > MESSAGE:
                stale.append((late, record))
    return stale
