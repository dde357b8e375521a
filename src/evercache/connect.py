"""From a URL to an engine, which caches share, and from an engine to a report of its health."""

from __future__ import annotations

import importlib
import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from evercache.engine.deployment import Deployment
from evercache.engine.engine import Engine, User
from evercache.net.types import AsyncWire
from evercache.observe import EventHub
from evercache.observe.hub import recent
from evercache.policy import Settings
from evercache.process import new_lock
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

if TYPE_CHECKING:
    from evercache.net.memory import MemoryServer

__all__ = ["health", "memory_engine", "prepare", "use"]


U = TypeVar("U", bound=User)

#: What makes two caches share a deployment: the URL with its options, and the address map.
_Servers: TypeAlias = tuple[Location, object]

#: What is imported for a store in the process, and for servers. Python encodes each host name by `encodings.idna`.
_MEMORY: Final = ("evercache.net.memory",)
_SERVERS: Final = ("evercache.net.blocking", "evercache.net.pipelined", "encodings.idna")

#: Guards the two below. Both are weak: a deployment lives while an engine of it does, an engine while it is needed.
_lock = new_lock()
_deployments: Final[weakref.WeakValueDictionary[_Servers, Deployment]] = weakref.WeakValueDictionary()
_engines: Final[weakref.WeakValueDictionary[tuple[_Servers, Settings], Engine]] = weakref.WeakValueDictionary()


def prepare(location: Location) -> None:
    """Import what the URL needs beyond this module, so that no call imports anything later."""
    for name in _MEMORY if location.kind == "memory" else _SERVERS:
        importlib.import_module(name)


def use(location: Location, settings: Settings, address_map: AddressMap | None, user: Callable[[Engine], U]) -> U:
    """Make a user of the engine for these servers and settings; nothing is opened yet.

    The engine is shared with the caches of this process that have equal settings. Each `memory://` cache has its
    own store.
    """
    if location.kind == "memory":
        from evercache.net.memory import MemoryServer

        server = MemoryServer(
            lambda: time.time_ns() // 1000, os.urandom(20).hex(), max_entries=location.max_entries
        )
        return user(memory_engine(location, settings, server))
    mapping: object = address_map
    try:
        mapping = frozenset(address_map.items()) if isinstance(address_map, Mapping) else address_map
        hash(mapping)
    except TypeError:
        mapping = id(address_map)  # it cannot be compared; the deployment keeps it
    servers = location, mapping
    with _lock:
        deployment = _deployments.get(servers)
        if deployment is None or deployment.over:
            deployment = _deployments[servers] = _deployment(location, address_map)
        engine = _engines.get((servers, settings))
        if engine is None or engine.closed:
            engine = _engines[servers, settings] = Engine(deployment, settings)
        # The background closes engines without a user, under the lock of their deployment.
        with engine.deployment.lock:
            if not engine.closed:
                return user(engine)
        engine = _engines[servers, settings] = Engine(deployment, settings)
        return user(engine)


def memory_engine(
    location: Location, settings: Settings, server: MemoryServer, now: Callable[[], float] | None = None
) -> Engine:
    """An engine on a store inside the process. One background serves those of all stores."""
    from evercache.net.memory import AsyncMemoryWire, MemoryServer, SyncMemoryWire

    key = Location("memory"), None
    with _lock:
        deployment = _deployments.get(key)
        if deployment is None:
            nothing = MemoryServer(lambda: 0, "")
            deployment = _deployments[key] = Deployment(
                key[0], MemoryTopology(), SyncMemoryWire(nothing), AsyncMemoryWire(nothing)
            )
        wires = SyncMemoryWire(server), AsyncMemoryWire(server)
        engine = Engine(deployment, settings, wires=wires, now=now)
    engine.state.generation = engine.state.master_run_id = server.replid
    return engine


def _deployment(location: Location, address_map: AddressMap | None) -> Deployment:
    from evercache.net.blocking import BlockingWire
    from evercache.net.pipelined import PipelinedWire

    wire, hub = PipelinedWire(), EventHub()
    return Deployment(location, _topology(location, wire, address_map, hub), BlockingWire(), wire, hub=hub)


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
    hubs = engine.deployment.events, engine.events
    problems = [problem for hub in hubs for problem in hub.problems()]
    if view.problem is not None and str(view.problem) not in problems:
        problems.append(str(view.problem))
    if engine.alone is not None and engine.alone.problem():
        problems.append(engine.alone.problem())
    if view.master is None:
        problems.append("no master is known: writes are queued, and what no replica has is computed")
    elif not state.ready:
        problems.append("the log of invalidations is not followed yet, or the master was lost just now")
    elif state.unread:
        problems.append("the marks of invalidations are still being read: reads go to the master")
    elif state.blind(now) and not state.idle:
        problems.append("the log of invalidations cannot be read: reads go to the master")
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
        events=dict(sum((Counter(hub.counts()) for hub in hubs), Counter[str]())),
        recent=tuple(
            RecentEvent(age, event.kind, logging.getLevelName(event.level), event.message)
            for age, event in recent(*hubs)
        ),
    )
