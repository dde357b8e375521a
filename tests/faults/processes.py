"""Faults of the processes that use the cache: killed while they compute, after they invalidated; many threads."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.faults.catalog import DYING, Scene, fault
from tests.faults.judge import BEYOND, LEASE, Bounds
from tests.faults.records import RESERVED

__all__: list[str] = []


@fault(
    "computing process killed",
    "while everybody waits for its result",
    bounds=Bounds(beyond=BEYOND + LEASE, why="its waiters wait for the end of one lease (1 s) more"),
)
def _victims(scene: Scene) -> Iterator[None]:
    for _ in range(1 if scene.quick else 3):
        victim = scene.fleet.victim()
        try:
            victim.say("go")
            made = int(victim.expect(""))
            time.sleep(0.3)
            victim.kill()
            scene.fleet.journal.died(made, time.monotonic())
        finally:
            victim.kill()
    assert RESERVED
    yield


@fault("editors killed", "short-lived processes, each killed right after an acknowledgement", short_lived=3)
def _editors(scene: Scene) -> Iterator[None]:
    assert scene.fleet.processes
    yield


@fault(
    "editors killed around a failover",
    "the same, while the master is killed",
    bounds=DYING,
    short_lived=3,
    seconds=4,
    short=1.8,
)
def _editors_failover(scene: Scene) -> Iterator[None]:
    scene.master.kill()
    scene.stage.wait_new_master(scene.master)
    yield
    scene.master.restart()


@fault(
    "50 threads and a frozen replica",
    "more callers than connections, when a node freezes",
    callers=50,
    short=1.5,
)
def _pool_replica(scene: Scene) -> Iterator[None]:
    scene.replicas[0].freeze()
    yield
    scene.replicas[0].thaw()


@fault(
    "50 threads and a frozen master",
    "the same with the master, which is replaced",
    bounds=DYING,
    callers=50,
    seconds=4,
    short=1.8,
)
def _pool_master(scene: Scene) -> Iterator[None]:
    scene.master.freeze()
    scene.stage.wait_new_master(scene.master)
    yield
    scene.master.thaw()


@fault("nothing", "no fault at all: what the load itself is like")
def _nothing(scene: Scene) -> Iterator[None]:
    assert scene.fleet.processes
    yield
