"""Faults of the processes that use the cache: killed while they compute, after they invalidated; many threads."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.faults.catalog import DYING, Scene, fault
from tests.faults.fleet import Process
from tests.faults.judge import BEYOND, LEASE, Bounds

__all__: list[str] = []

#: So many victims in a row may find the value computed by a reader.
VICTIMS = 10


@fault(
    "computing process killed",
    "while everybody waits for its result",
    bounds=Bounds(beyond=BEYOND + LEASE, why="its waiters wait for the end of one lease (1 s) more"),
)
def _victims(scene: Scene) -> Iterator[None]:
    for _ in range(1 if scene.quick else 3):
        victim, made = _computing(scene)
        try:
            time.sleep(0.3)
        finally:
            victim.kill()
        scene.fleet.journal.died(made, time.monotonic())
    yield


def _computing(scene: Scene) -> tuple[Process, int]:
    """A process in the midst of a run, and the number of the run.

    A reader may ask for the key between the victim's invalidation and its call. Then the reader computes it, the
    victim gets that value and ends well, having said nothing, and another one takes its place.
    """
    for _ in range(VICTIMS):
        victim = scene.fleet.victim()
        try:
            victim.say("go")
            if said := victim.expect(""):
                if not said.isdigit():
                    raise RuntimeError(f"{victim!r} said {said!r} instead of a run's number: {victim.stderr()}")
                return victim, int(said)
            if code := victim.process.wait(10):
                raise RuntimeError(f"{victim!r} ended with {code} before its run: {victim.stderr()}")
        except BaseException:
            victim.kill()
            raise
        victim.kill()
    raise RuntimeError(f"{VICTIMS} victims in a row got the value from a reader and computed nothing")


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
