"""What feeds `protocol/topology.py`: who is master, which replicas may be read, seen from real servers."""

from __future__ import annotations

from evercache.topology.base import AddressMap, Topology, View
from evercache.topology.memory import MemoryTopology
from evercache.topology.monitor import Monitor, Round
from evercache.topology.replicas import Replica, ReplicaSet
from evercache.topology.replicated import ReplicatedTopology
from evercache.topology.sentinel import SentinelTopology
from evercache.topology.standalone import StandaloneTopology

__all__ = [
    "AddressMap",
    "MemoryTopology",
    "Monitor",
    "Replica",
    "ReplicaSet",
    "ReplicatedTopology",
    "Round",
    "SentinelTopology",
    "StandaloneTopology",
    "Topology",
    "View",
]
