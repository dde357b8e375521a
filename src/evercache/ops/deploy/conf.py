"""The configuration of a data node and of a sentinel, from a description.

`evercache render` and `evercache up` share it: they differ in paths, in who may log in, and in what a developer's
description says (`ops/config.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evercache.ops.deploy.description import Description
from evercache.ops.deploy.layout import TLSFiles
from evercache.ops.deploy.reading import size_text
from evercache.ops.templates import fill

__all__ = ["Place", "Program", "node_text", "sentinel_text"]

Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One server under Supervisor."""

    name: str
    command: str
    folder: str
    log: str
    log_size: str = "2MB"
    log_backups: int = 1
    autostart: bool = True
    retries: int = 2
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    user: str = ""
    #: Of two that start, the lower first.
    priority: int = 999


def node_text(
    d: Description,
    *,
    bind: Sequence[str],
    place: Place,
    folder: str,
    access: Sequence[str],
    master: Place | None,
    priority: int = 100,
    tls: TLSFiles | None = None,
) -> str:
    """The file of the data node that others reach at `place`; it begins as master where `master` is None."""
    return fill(
        "node.conf",
        d=d,
        bind=bind,
        place=place,
        folder=folder,
        access=access,
        memory=size_text(d.server.memory),
        bounds=_client_bounds(d.server.numbers, d.server.memory),
        master=master,
        priority=priority,
        tls=tls,
    )


def sentinel_text(
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
    tls: TLSFiles | None = None,
) -> str:
    """The first file of the sentinel that others reach at `place`, which it rewrites from then on.

    The first of the `nodes` begins as master. The file names the other sentinels and the replicas, so that the
    sentinels need not wait until they meet.
    """
    return fill(
        "sentinel.conf",
        d=d,
        bind=bind,
        place=place,
        folder=folder,
        access=access,
        bounds=_client_bounds(d.server.numbers),
        login=login,
        ident=ident,
        nodes=nodes,
        others=others,
        reboot_word=_reboot_word(d.server.numbers),
        tls=tls,
    )


def _reboot_word(version: Sequence[int]) -> str:
    """How the setting begins: Redis has it since 7.0. A Valkey that reads the old name writes both later on."""
    return "primary" if tuple(version) >= (9,) else "master" if tuple(version) >= (7,) else ""


def _client_bounds(version: Sequence[int], memory: int = 0) -> tuple[str, ...]:
    """Bound the memory of all clients together for commands and answers; `memory` is the server's `maxmemory`.

    Without a bound, one client that sends commands and reads no answers uses up the memory of the machine. A node
    evicts all entries first, since these buffers count against `maxmemory`. Redis 6 can only bound each client.
    """
    if tuple(version) >= (7,):
        return (f"maxmemory-clients {max(memory // 4, 64 << 20) >> 20}mb",)
    return "client-output-buffer-limit normal 256mb 64mb 60", "client-query-buffer-limit 64mb"
