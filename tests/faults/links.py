"""Faults of links: cut, silent, slow, thin, garbled; partitions; names that do not resolve."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.catalog import Scene, fault
from tests.faults.judge import BEYOND, LEASE, Bounds
from tests.faults.stage import GROUPS
from tests.gate import Rule
from tests.server import Server

__all__: list[str] = []

SILENT, CLOSED = Rule(silent=True), Rule(closed=True)


def number(scene: Scene, node: Server) -> int:
    """The number of a node on the stage; its links to others are told apart by it."""
    return scene.stage.nodes.index(node)


@fault("replica's link to the master cut", "it still answers everybody, and hears nothing")
def _link_cut(scene: Scene) -> Iterator[None]:
    scene.stage.servers_see(scene.master, CLOSED, number(scene, scene.replicas[0]))
    yield
    scene.stage.heal_links()


@fault("replica's link to the master silent", "the same, with a connection that looks alive")
def _link_silent(scene: Scene) -> Iterator[None]:
    scene.stage.servers_see(scene.master, SILENT, number(scene, scene.replicas[0]))
    yield
    scene.stage.heal_links()


def behind(delay: float) -> None:
    """Enter the fault of a replica that is so far behind."""
    name = f"{delay * 1000:.0f} ms" if delay < 1 else f"{delay:.0f} s"

    @fault(f"replica {name} behind", "its link to the master is late by so much")
    def _behind(scene: Scene) -> Iterator[None]:
        scene.stage.servers_see(scene.master, Rule(delay=delay), number(scene, scene.replicas[0]))
        yield
        scene.stage.heal_links()


for _delay in (0.1, 1.0, 20.0):
    behind(_delay)


def partition(scene: Scene) -> Iterator[None]:
    """The master, one sentinel and the clients of group a on one side; all others on the other."""
    stage, old = scene.stage, scene.master
    lone, *majority = stage.sentinels
    mine, theirs = [old, lone], [*scene.replicas, *majority]
    ours = {number(scene, old), 10}
    others = {number(scene, node) for node in scene.replicas} | {11, 12}
    for server in mine:
        stage.clients_see(server, SILENT, tuple(group for group in GROUPS if group != "a"))
        for source in others:
            stage.servers_see(server, SILENT, source)
    for server in theirs:
        stage.clients_see(server, SILENT, ("a",))
        for source in ours:
            stage.servers_see(server, SILENT, source)
    yield
    stage.heal_links()


@fault(
    "cut off with the minority, available",
    "the master, one sentinel and the clients of group a are cut off from all others",
    bounds=Bounds(
        cut_off=("a",),
        stale_cut_off=None,
        beyond=BEYOND + LEASE,
        why="who is cut off with the old master goes on with what it knows: it is stale for as long. "
        "Whoever held a lease there and was cut off cannot give it back: it runs out after a second",
    ),
    seconds=4,
    short=1.8,
)
def _minority_available(scene: Scene) -> Iterator[None]:
    yield from partition(scene)


@fault(
    "cut off with the minority, strict",
    'the same, with `consistency="strict"`',
    bounds=Bounds(
        cut_off=("a",),
        stale_cut_off=1.1,
        beyond=BEYOND + LEASE,
        why="where it is cut off: `max_staleness` (1 s) and a message; leases run out as above",
    ),
    cache={"consistency": "strict"},
    seconds=4,
    short=1.8,
)
def _minority_strict(scene: Scene) -> Iterator[None]:
    yield from partition(scene)


@fault(
    "clients cut off from the master",
    "group a reaches the replicas and the sentinels only",
    bounds=Bounds(
        cut_off=("a",),
        stale_cut_off=0.1 + 0.5,
        why="where it is cut off: until the silence is noticed (0.5 s); then the log is heard at the replicas",
    ),
)
def _no_master_for_a(scene: Scene) -> Iterator[None]:
    scene.stage.clients_see(scene.master, SILENT, ("a",))
    yield
    scene.stage.heal_links()


SILENCED = Bounds(
    silent=True,
    why="what the master acknowledged in the 100 ms before (“last moments”) may have reached nobody else: it is "
    "heard at the replicas within 0.5 s",
)


def wrong(name: str, what: str, rule: Rule, whom: str) -> None:
    """Enter a fault of all clients' links to one server."""

    unnoticed = whom == "master" and not (rule.closed or rule.garble)

    @fault(f"{whom} {name}", what, bounds=SILENCED if unnoticed else Bounds())
    def _wrong(scene: Scene) -> Iterator[None]:
        server = scene.master if whom == "master" else scene.replicas[0]
        scene.stage.clients_see(server, rule)
        yield
        scene.stage.heal_links()


for _whom in ("master", "replica"):
    wrong("answers slowly", "every answer to clients is 400 ms late", Rule(delay=0.4), _whom)
    wrong("drips", "its answers come byte by byte, 20 ms each", Rule(drip=0.02), _whom)
    wrong("answers garbage", "every byte to clients is another one", Rule(garble=True), _whom)
    wrong("silent", "connections stay, no byte passes", SILENT, _whom)
    wrong("closes connections", "and each new one at once", CLOSED, _whom)


def dns(name: str, what: str, switch: str) -> None:
    """Enter a fault of the resolver: one replica is known by a host name."""

    @fault(name, what, named=1, repeats=False)
    def _dns(scene: Scene) -> Iterator[None]:
        path = scene.fleet.folder / switch
        path.touch()
        # Whoever has a connection needs no name: they are closed once.
        scene.stage.clients_see(scene.stage.nodes[1], CLOSED)
        scene.stage.heal_links()
        yield
        path.unlink()


dns("a name does not resolve", "the host name of one replica does not resolve any more", "dns-fails")
dns("a name hangs", "its resolver answers after three seconds, with an error", "dns-hangs")


@fault(
    "slow network",
    "every answer of every server to clients is 100 ms late",
    bounds=Bounds(
        stale=0.1 + 0.2,
        why=f"hearing of an invalidation takes a message, which takes 0.1 s here; calls keep their {BEYOND} s",
    ),
)
def _slow_network(scene: Scene) -> Iterator[None]:
    for server in [*scene.stage.nodes, *scene.stage.sentinels]:
        scene.stage.clients_see(server, Rule(delay=0.1))
    yield
    scene.stage.heal_links()
