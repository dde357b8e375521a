"""Faults of servers: killed, frozen, replaced, restarted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tests.faults.catalog import DYING, Scene, fault
from tests.faults.judge import Bounds

__all__: list[str] = []

#: All data survives a SIGKILL (but for what the last write had not brought to the file).
PERSISTENT = {"appendonly": "yes", "appendfsync": "everysec"}


def replaced(scene: Scene) -> None:
    """Until another node is the master."""
    scene.stage.wait_new_master(scene.master)


@fault(
    "master killed",
    "SIGKILL; a replica is promoted; the old master comes back as a replica",
    bounds=DYING,
    seconds=4,
    short=1.8,
)
def _master_killed(scene: Scene) -> Iterator[None]:
    scene.master.kill()
    replaced(scene)
    yield
    scene.master.restart()


@fault(
    "master frozen",
    "SIGSTOP; a replica is promoted; SIGCONT afterwards, with what was in its sockets",
    bounds=DYING,
    seconds=4,
    short=1.8,
)
def _master_frozen(scene: Scene) -> Iterator[None]:
    scene.master.freeze()
    replaced(scene)
    yield
    scene.master.thaw()


@fault(
    "master frozen briefly",
    "SIGSTOP for 0.5 s, again and again: no failover",
    bounds=Bounds(
        silent=True,
        why="what it acknowledged just before it froze (“last moments”) is heard at a replica, or when it thaws, "
        "within 0.5 s",
    ),
)
def _master_frozen_briefly(scene: Scene) -> Iterator[None]:
    for _ in range(1 if scene.quick else 3):
        with scene.master.frozen():
            time.sleep(0.5)
        time.sleep(0.4)
    yield


@fault("replica killed", "SIGKILL; it comes back later")
def _replica_killed(scene: Scene) -> Iterator[None]:
    scene.replicas[0].kill()
    yield
    scene.replicas[0].restart()


@fault("replica frozen", "SIGSTOP, then SIGCONT")
def _replica_frozen(scene: Scene) -> Iterator[None]:
    scene.replicas[0].freeze()
    yield
    scene.replicas[0].thaw()


@fault("both replicas killed", "SIGKILL; the master is alone")
def _both_replicas_killed(scene: Scene) -> Iterator[None]:
    for replica in scene.replicas:
        replica.kill()
    yield
    for replica in scene.replicas:
        replica.restart()


@fault("planned failover", "`SENTINEL FAILOVER`: the old master goes on taking writes for a while", short=1.8)
def _planned(scene: Scene) -> Iterator[None]:
    scene.stage.failover()
    yield


@fault("coordinated failover", "`SENTINEL FAILOVER name COORDINATED`", short=1.8)
def _coordinated(scene: Scene) -> Iterator[None]:
    scene.stage.failover("COORDINATED")
    yield


@fault("one sentinel dead", "SIGKILL")
def _one_sentinel(scene: Scene) -> Iterator[None]:
    scene.stage.sentinels[0].kill()
    yield
    scene.stage.sentinels[0].restart()


@fault("two sentinels dead", "SIGKILL: no majority")
def _two_sentinels(scene: Scene) -> Iterator[None]:
    for sentinel in scene.stage.sentinels[:2]:
        sentinel.kill()
    yield
    for sentinel in scene.stage.sentinels[:2]:
        sentinel.restart()


@fault(
    "master restarts empty",
    "killed, and started at once without its data; its replicas copy the emptiness",
    bounds=DYING,
)
def _restarts_empty(scene: Scene) -> Iterator[None]:
    scene.master.wipe()
    yield


@fault(
    "all nodes restarted",
    "SIGKILL to all three data nodes, down for a second, started with what they persisted",
    bounds=DYING,
    options=PERSISTENT,
    seconds=4,
    short=1.8,
)
def _all_restarted(scene: Scene) -> Iterator[None]:
    nodes = [scene.master, *scene.replicas]
    for node in nodes:
        node.kill()
    time.sleep(0.5 if scene.quick else 1.0)
    for node in nodes:
        node.restart()
    yield


@fault(
    "master loading",
    "restarted with an older file that it takes seconds to load; it answers LOADING meanwhile",
    bounds=DYING,
    options={"save": "3600 1", "loading-process-events-interval-bytes": 1024},
    seconds=4,
    repeats=False,
)
def _loading(scene: Scene) -> Iterator[None]:
    master = scene.master
    master.cli("EVAL", "for i = 1, 3000 do redis.call('SET', 'filler:' .. i, string.rep('x', 100)) end", 0)
    master.cli("SAVE")
    with (master.dir / "server.conf").open("a") as file:
        file.write(f"key-load-delay {300 if scene.quick else 1000}\n")
    master.kill()
    with contextlib.suppress(Exception):
        master.restart()
    yield
