"""Promises 1 to 4 inside one process, while its master freezes, drops connections and loses its data."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.servers import Server, wait_for

from evercache import Cache

KEYS = 6


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Server, Server]]:
    """A master that keeps its data, and a replica."""
    kept = {"appendonly": "yes", "appendfsync": "everysec"}
    with Server.start(options=kept) as master, Server.start(replica_of=master) as replica:
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up", what="the link")
        yield master, replica


def freeze(master: Server, rng: random.Random) -> None:
    with master.frozen():
        time.sleep(rng.uniform(0.05, 0.6))


def drop(master: Server, _: random.Random) -> None:
    master.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def forget_scripts(master: Server, _: random.Random) -> None:
    master.cli("SCRIPT", "FLUSH")


def flush(master: Server, _: random.Random) -> None:
    master.cli("FLUSHALL")


def restart(master: Server, _: random.Random) -> None:
    master.kill()
    master.restart()


@pytest.mark.parametrize(
    "trouble",
    [freeze, restart, *(pytest.param(one, marks=pytest.mark.long) for one in (drop, forget_scripts, flush))],
)
def test_who_invalidated_never_sees_the_older_value_again(
    nodes: tuple[Server, Server], trouble: Callable[[Server, random.Random], None]
) -> None:
    """Acknowledged or queued: a read that begins afterwards has the new value, however it is served."""
    master, replica = nodes
    rng = random.Random(trouble.__name__)
    truth = [0] * KEYS
    ended = [0] * KEYS  # the newest version whose invalidation has returned
    wrong: list[Any] = []
    stop = threading.Event()
    url = f"{master.url}?replicas=127.0.0.1:{replica.port}"
    with Cache(url, namespace=f"chaos-{trouble.__name__[:6]}") as cache:

        def value(key: int) -> tuple[int, int]:
            version = truth[key]
            time.sleep(0.004)
            return key, version

        plain = cache.cached(ttl=60, tags=("k:{key}",), name="plain")(value)
        near = cache.cached(ttl=60, near=5, tags_from=lambda v: (f"r:{v[0]}",), name="near")(value)
        stale = cache.cached(ttl=0.05, stale=60, stale_if_error=60, tags=("k:{key}",), name="stale")(value)

        def read(seed: int) -> None:
            draw = random.Random(seed)
            while not stop.is_set():
                key, function = draw.randrange(KEYS), draw.choice((plain, near, stale))
                least, began = ended[key], time.monotonic()
                try:
                    got = function(key)
                except BaseException as error:
                    wrong.append(error)
                    return
                if got[0] != key or got[1] < least:
                    wrong.append((function, key, got, least, round(time.monotonic() - began, 3)))
                time.sleep(0.001)

        def edit(seed: int) -> None:
            # The keys are divided among the editors: one's versions are in order.
            draw = random.Random(seed)
            while not stop.is_set():
                key = draw.randrange(seed % 2, KEYS, 2)
                truth[key] += 1
                version = truth[key]
                match draw.randrange(3):
                    case 0:
                        plain.invalidate(key)
                        near.invalidate(key)
                        stale.invalidate(key)
                    case 1:
                        cache.invalidate_tag(f"k:{key}")
                        cache.invalidate_tag(f"r:{key}")
                    case _:
                        cache.clear()
                ended[key] = version
                time.sleep(draw.uniform(0, 0.06))

        wait_for(lambda: cache.set("warm", 1), what="the master")
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        threads += [threading.Thread(target=edit, args=(seed,)) for seed in range(10, 12)]
        for thread in threads:
            thread.start()
        try:
            end = time.monotonic() + 2.5
            while time.monotonic() < end and not wrong:
                time.sleep(rng.uniform(0.05, 0.4))
                trouble(master, rng)
            time.sleep(0.3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        wait_for(lambda: not cache.stats().pending, what="what was queued to be brought")
        assert all(plain(key)[1] >= ended[key] for key in range(KEYS))
