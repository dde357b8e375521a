"""How a simulated process finds its master: by sentinels, from a list of nodes, or at the one server there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evercache.topology import ReplicatedTopology, SentinelTopology, StandaloneTopology, Topology
from evercache.url import Location

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["KINDS_OF_SERVERS", "topology_of", "url_of"]

#: Beside sentinels, which are usual.
KINDS_OF_SERVERS = ("standalone", "fixed")


def url_of(world: World, pool: int | None) -> str:
    """What the application would write into its configuration; `pool`: `max_connections`."""
    nodes = [str(node.address) for node in world.nodes]
    more = [] if pool is None else [f"max_connections={pool}"]
    match world.kind:
        case "standalone":
            url = f"redis://{nodes[0]}"
        case "fixed":
            url = f"redis://{nodes[0]}"
            more.append(f"replicas={','.join(nodes[1:])}")
        case _:
            url = f"sentinel://{','.join(str(s.address) for s in world.sentinels)}/shop"
    return f"{url}?{'&'.join(more)}" if more else url


def topology_of(location: Location, wire: Any, clock: Callable[[], float]) -> Topology:
    """As `evercache.connect` makes it, on the wire and the clock of a process."""
    options = location.node_options
    match location.kind:
        case "standalone":
            return StandaloneTopology(wire, location.nodes[0], options, clock=clock)
        case "replicated":
            return ReplicatedTopology(wire, location.nodes[0], location.replicas, options, clock=clock)
        case _:
            assert location.service is not None
            sentinel = location.sentinel_options
            return SentinelTopology(wire, location.service, location.sentinels, sentinel, options, clock=clock)
