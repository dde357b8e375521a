"""The facts of a sound deployment on three hosts, with a shell on each, and ways to change them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from evercache.ops.doctor.facts import (
    ClientFacts,
    Clock,
    Facts,
    Group,
    HostFacts,
    NodeFacts,
    ProcessFacts,
    ProgramFacts,
    SentinelFacts,
)
from evercache.ops.doctor.gather import SENTINEL_COMMANDS
from evercache.ops.strain import COUNTERS
from evercache.protocol.types import Address

__all__ = [
    "NAME",
    "client",
    "config",
    "entry",
    "group",
    "host",
    "info",
    "node",
    "process",
    "program",
    "sentinel",
    "sound",
]

NAME = "shop"
HOSTS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
NOW = 1_790_000_000.0
_PROGRAM = ProgramFacts("supervisor", "valkey", "/etc/supervisor/conf.d/valkey.conf", True, 8.0, 60.0)

Change = Callable[[Facts], Facts]


def _node(place: int) -> NodeFacts:
    info = {
        "run_id": f"node{place}",
        "role": "slave" if place else "master",
        "redis_version": "7.2.4",
        "valkey_version": "9.1.2",
        "process_id": str(100 + place),
        "config_file": "/etc/valkey/valkey.conf",
        "uptime_in_seconds": "86400",
        "aof_enabled": "1",
        "rdb_last_bgsave_status": "ok",
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "ok",
        "rdb_last_bgsave_time_sec": "2",
        "used_memory": "400000000",
        "used_memory_overhead": "100000000",
        "evicted_keys": "5",
        "keyspace_hits": "1000",
        "keyspace_misses": "100",
        "rejected_connections": "0",
        "used_memory_dataset": "300000000",
        "maxmemory": "1073741824",
        "maxmemory_policy": "volatile-lru",
        "total_system_memory": "4294967296",
        "repl_backlog_size": "67108864",
        "slave_priority": "100",
    }
    if place:
        info |= {
            "master_host": HOSTS[0],
            "master_port": "6379",
            "master_link_status": "up",
            "master_last_io_seconds_ago": "0",
            "slave_repl_offset": "1000000",
        }
    else:
        info |= {
            "master_repl_offset": "1000100",
            "connected_slaves": "2",
            "total_net_repl_output_bytes": "2000000",
            "instantaneous_output_repl_kbps": "40.0",
        }
    config = {
        "aclfile": "",
        "appendonly": "yes",
        "bind": f"127.0.0.1 {HOSTS[place]}",
        "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        "daemonize": "no",
        "dir": "/var/lib/valkey",
        "masterauth": "set",
        "min-replicas-to-write": "1",
        "protected-mode": "yes",
        "requirepass": "set",
        "save": "3600 1 300 100",
    }
    return NodeFacts(
        Address(HOSTS[place], 6379),
        role=info["role"],
        info=info,
        config=config,
        user="default",
        open=False,
        clock=Clock(NOW + 0.01, NOW, NOW + 0.02),
        later={name: info[name] for name in COUNTERS if name in info},
        later_after=1.0,
        answered_in=0.001,
        sentinel_users={"sentinel": {" ".join(one): "OK" for one in SENTINEL_COMMANDS}},
    )


def _entry(place: int, flags: str, port: int = 6379, runid: str = "") -> dict[str, str]:
    return {
        "ip": HOSTS[place],
        "port": str(port),
        "runid": runid or f"node{place}",
        "flags": flags,
        "last-ok-ping-reply": "200",
        "last-ping-reply": "200",
        "down-after-milliseconds": "5000",
        "info-refresh": "4000",
    }


def _sentinel(place: int) -> SentinelFacts:
    master = _entry(0, "master") | {
        "name": NAME,
        "config-epoch": "7",
        "quorum": "2",
        "parallel-syncs": "1",
        "num-slaves": "2",
    }
    replicas = tuple(_entry(one, "slave") | {"master-host": HOSTS[0], "master-port": "6379"} for one in (1, 2))
    others = tuple(_entry(one, "sentinel", 26379, f"id{one}") for one in range(3) if one != place)
    said = "OK 3 usable Sentinels. Quorum and failover authorization can be reached"
    return SentinelFacts(
        Address(HOSTS[place], 26379),
        myid=f"id{place}",
        groups=(Group(NAME, master, replicas, others, said),),
        info={
            "run_id": f"sentinel{place}",
            "redis_version": "7.2.4",
            "valkey_version": "9.1.2",
            "process_id": str(200 + place),
            "config_file": "/etc/valkey/sentinel.conf",
            "sentinel_tilt": "0",
            "listener0": f"name=tcp,bind=127.0.0.1,bind={HOSTS[place]},port=26379",
        },
        open=False,
        clock=Clock(NOW + 0.01, NOW, NOW + 0.02),
        epoch=7,
    )


def _host(place: int) -> HostFacts:
    file, other = "/etc/valkey/valkey.conf", "/etc/valkey/sentinel.conf"
    reboot = (("sentinel", f"primary-reboot-down-after-period {NAME} 20000"),)
    return HostFacts(
        f"host{place}",
        (HOSTS[place],),
        overcommit="1",
        huge_pages="never",
        swap_bytes=0,
        processes=(
            ProcessFacts(6379, 100 + place, False, file, (("daemonize", "no"),), program=_PROGRAM),
            ProcessFacts(26379, 200 + place, True, other, reboot, program=_PROGRAM),
        ),
    )


def sound() -> Facts:
    """Nothing is wrong with it, and nothing is hidden."""
    return Facts(
        client=ClientFacts("redis+sentinel://10.0.0.1:26379/shop", "sentinel", NAME, 0.2, 0.25),
        sentinels=tuple(map(_sentinel, range(3))),
        nodes=tuple(map(_node, range(3))),
        hosts=tuple(map(_host, range(3))),
        named=tuple(Address(one, 26379) for one in HOSTS),
        resolved={one: (one,) for one in HOSTS},
        taken=NOW,
        seconds=0.1,
    )


# -- changes; `None` in the place of a value takes it away


def _with(texts: Any, changes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**texts, **changes}.items() if value is not None}


def node(place: int, **fields: Any) -> Change:
    """Fields of a node; none of another."""

    def change(facts: Facts) -> Facts:
        nodes = list(facts.nodes)
        nodes[place] = replace(nodes[place], **fields)
        return replace(facts, nodes=tuple(nodes))

    return change


def info(place: int, **changes: str | None) -> Change:
    """INFO of a node."""
    return lambda facts: node(place, info=_with(facts.nodes[place].info, changes))(facts)


def config(place: int, changes: dict[str, str | None]) -> Change:
    """CONFIG of a node."""
    return lambda facts: node(place, config=_with(facts.nodes[place].config, changes))(facts)


def sentinel(place: int, **fields: Any) -> Change:
    """Fields of a sentinel; `info` is merged."""

    def change(facts: Facts) -> Facts:
        sentinels = list(facts.sentinels)
        one = sentinels[place]
        merged = {"info": _with(one.info, fields["info"])} if "info" in fields else {}
        sentinels[place] = replace(one, **(fields | merged))
        return replace(facts, sentinels=tuple(sentinels))

    return change


def group(place: int, changes: dict[str, str | None] | None = None, **fields: Any) -> Change:
    """What a sentinel says of the group: entries of its master, and fields."""

    def change(facts: Facts) -> Facts:
        one = facts.sentinels[place].groups[0]
        master = _with(one.master, changes or {})
        return sentinel(place, groups=(replace(one, master=master, **fields), *facts.sentinels[place].groups[1:]))(
            facts
        )

    return change


def entry(place: int, kind: str, index: int, changes: dict[str, str]) -> Change:
    """What a sentinel says of one replica or sentinel: `kind` is the field."""

    def change(facts: Facts) -> Facts:
        entries = list(getattr(facts.sentinels[place].groups[0], kind))
        entries[index] = entries[index] | changes
        return group(place, **{kind: tuple(entries)})(facts)

    return change


def host(place: int, **fields: Any) -> Change:
    """Fields of a host."""

    def change(facts: Facts) -> Facts:
        hosts = list(facts.hosts)
        hosts[place] = replace(hosts[place], **fields)
        return replace(facts, hosts=tuple(hosts))

    return change


def process(place: int, index: int, **fields: Any) -> Change:
    """Fields of a process: 0 is the node, 1 the sentinel."""

    def change(facts: Facts) -> Facts:
        processes = list(facts.hosts[place].processes)
        processes[index] = replace(processes[index], **fields)
        return host(place, processes=tuple(processes))(facts)

    return change


def program(place: int, **fields: Any) -> Change:
    """Fields of the program that runs a node."""
    return process(place, 0, program=replace(_PROGRAM, **fields))


def client(**fields: Any) -> Change:
    """Fields of the client."""
    return lambda facts: replace(facts, client=replace(facts.client, **fields))
