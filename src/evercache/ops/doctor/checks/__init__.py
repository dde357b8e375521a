"""The checks by subject; importing this registers all of them, in the order of `SUBJECTS`."""

from __future__ import annotations

from evercache.ops.doctor.checks import (
    client,
    host,
    memory,
    persistence,
    replication,
    roles,
    security,
    sentinels,
    supervision,
)

__all__ = ["SUBJECTS"]

SUBJECTS = tuple(
    module.__name__
    for module in (sentinels, roles, replication, persistence, supervision, security, memory, host, client)
)
