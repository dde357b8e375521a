"""The configuration of a data node and of a sentinel, from a description.

`evercache render` and `evercache up` share it: they differ in places, in who may log in, and in what a developer's
description says (`ops/config.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from evercache.ops.deploy.description import Description
from evercache.ops.deploy.reading import size_text
from evercache.ops.templates.servers import Files, NodeConf, Place, SentinelConf, client_bounds, reboot_word

__all__ = ["node_conf", "sentinel_conf"]


def node_conf(
    d: Description,
    *,
    bind: Sequence[str],
    place: Place,
    folder: str,
    access: Sequence[str],
    master: Place | None,
    priority: int = 100,
    tls: Files | None = None,
) -> NodeConf:
    """Of the data node that others reach at `place`; it begins as master where `master` is None."""
    persistence = d.persistence
    return NodeConf(
        bind=bind,
        port=place[1],
        folder=folder,
        access=access,
        master=master,
        memory=size_text(d.server.memory),
        bounds=client_bounds(d.server.numbers, d.server.memory),
        eviction=d.server.eviction,
        append=persistence.mode in {"aof", "both"},
        save=persistence.save if persistence.mode in {"rdb", "both"} else "",
        min_replicas=d.min_replicas,
        max_lag=d.replication.max_lag,
        backlog=d.backlog,
        sync_delay=2,
        announce=place,
        priority=priority,
        tls=tls,
    )


def sentinel_conf(
    d: Description,
    *,
    bind: Sequence[str],
    place: Place,
    folder: str,
    access: Sequence[str],
    login: Sequence[str],
    ident: str,
    nodes: Sequence[Place],
    others: Sequence[tuple[Place, str]],
    tls: Files | None = None,
) -> SentinelConf:
    """Of the sentinel that others reach at `place`; the first of the `nodes` begins as master."""
    times = d.sentinel
    return SentinelConf(
        bind=bind,
        port=place[1],
        folder=folder,
        access=access,
        service=d.name,
        ident=ident,
        master=nodes[0],
        quorum=d.quorum,
        login=login,
        down_after_ms=times.down_after_ms,
        failover_timeout_ms=d.failover_timeout_ms,
        reboot_down_after_ms=times.reboot_down_after_ms,
        reboot_word=reboot_word(d.server.numbers),
        replicas=nodes[1:],
        others=others,
        bounds=client_bounds(d.server.numbers),
        announce=place,
        names=d.by_name,
        tls=tls,
    )
