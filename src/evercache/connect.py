"""From a URL to an engine, and from an engine to a report of its health."""

from __future__ import annotations

import logging
import secrets
import time

from evercache.engine.engine import Engine
from evercache.observe import EventHub
from evercache.policy import Settings
from evercache.results import Health, NodeHealth, RecentEvent
from evercache.topology import (
    AddressMap,
    MemoryTopology,
    ReplicatedTopology,
    SentinelTopology,
    StandaloneTopology,
    Topology,
)
from evercache.url import Location
from evercache.wire.blocking import BlockingWire
from evercache.wire.memory import AsyncMemoryWire, MemoryServer, SyncMemoryWire
from evercache.wire.pipelined import PipelinedWire
from evercache.wire.types import AsyncWire

__all__ = ["engine", "health"]


def engine(location: Location, settings: Settings, address_map: AddressMap | None = None) -> Engine:
    """An engine for the servers of a URL; nothing is opened yet."""
    if location.kind == "memory":
        server = MemoryServer(
            lambda: time.time_ns() // 1000, secrets.token_hex(20), max_entries=location.max_entries
        )
        memory = Engine(location, settings, MemoryTopology(), SyncMemoryWire(server), AsyncMemoryWire(server))
        memory.state.generation = memory.state.master_run_id = server.replid
        return memory
    wire, hub = PipelinedWire(), EventHub()
    return Engine(location, settings, _topology(location, wire, address_map, hub), BlockingWire(), wire, hub=hub)


def _topology(location: Location, wire: AsyncWire, address_map: AddressMap | None, hub: EventHub) -> Topology:
    match location.kind:
        case "standalone":
            return StandaloneTopology(wire, location.nodes[0], location.node_options)
        case "replicated":
            return ReplicatedTopology(
                wire, location.nodes[0], location.replicas, location.node_options, address_map=address_map
            )
        case _:
            assert location.service is not None
            return SentinelTopology(
                wire,
                location.service,
                location.sentinels,
                location.sentinel_options,
                location.node_options,
                address_map=address_map,
                emit=hub.emit,
            )


def health(engine: Engine, nodes: list[NodeHealth]) -> Health:
    """What to tell whoever is paged."""
    state, view, now = engine.state, engine.view, engine.state.now()
    problems = engine.events.problems()
    if view.problem is not None and str(view.problem) not in problems:
        problems.append(str(view.problem))
    if view.master is None:
        problems.append("no master is known: writes are queued, and what no replica has is computed")
    elif not state.ready:
        problems.append("the log of invalidations is not followed yet, or the master was lost just now")
    elif state.blind(now):
        problems.append("the log of invalidations is not heard: reads go to the master")
    for node in nodes:
        if node.eviction is not None and node.eviction.startswith("allkeys-"):
            problems.append(
                f"{node.address} evicts by {node.eviction}, which can evict the marks of invalidations and so "
                "bring old values back: set maxmemory-policy to volatile-lru or volatile-ttl"
            )
        if node.use.startswith("nothing"):
            problems.append(f"{node.address} ({node.role}) is used for {node.use}")
    return Health(
        ok=not problems,
        url=engine.location.redacted(),
        master=None if view.master is None else str(view.master),
        epoch=view.epoch,
        tail_age=None if state.local or state.covers == float("-inf") else max(0.0, now - state.covers),
        pending=len(state.journal.pending),
        nodes=tuple(nodes),
        problems=tuple(dict.fromkeys(problems)),
        events=engine.events.counts(),
        recent=tuple(
            RecentEvent(age, event.kind, logging.getLevelName(event.level), event.message)
            for age, event in engine.events.recent()
        ),
    )
