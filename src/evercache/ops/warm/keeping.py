"""Bringing to the master what it did not take in time: a stall of the servers is to cost no second computation."""

from __future__ import annotations

import time
from typing import Any

from evercache.cache import Cache
from evercache.client._sync.client import SyncClient
from evercache.client._sync.writes import Write
from evercache.client.request import Request
from evercache.errors import CannotEncode
from evercache.observe import Counters
from evercache.ops.warm.pace import Kept
from evercache.protocol.envelope import MAX_TAGS, draw_of, pack
from evercache.protocol.scope import Subject

__all__ = ["followed", "keep_after_all"]

#: Seconds that a result waits for a master, and that its write may take.
_PATIENCE, _BUDGET = 10.0, 5.0


def followed(cache: Cache) -> bool:
    """Whether there is a master that this process follows."""
    clients = cache._find()
    if clients is None:
        return False
    state = clients.engine.state
    return state.ready and not state.master_down


def keep_after_all(cache: Cache, client: SyncClient, request: Request, value: Any, since: int) -> Kept:
    """Store a result that was computed and not stored, unless it was invalidated after the stamp `since`."""
    write = _write(client, request, value, since)
    if write is None:
        return "declined"
    end = time.monotonic() + _PATIENCE
    while not followed(cache):
        if time.monotonic() > end:
            return "lost"
        time.sleep(0.05)
    strict = request.policy.consistency == "strict"
    deadline = client.engine.state.now() + _BUDGET
    (ack,) = client.writes.set_many([write], deadline, Counters(), strict=strict)
    return "kept" if ack else "lost"


def _write(client: SyncClient, request: Request, value: Any, since: int) -> Write | None:
    policy, subject = request.policy, request.subject
    if policy.cache_if is not None and not policy.cache_if(value):
        return None
    state = client.engine.state
    id = bytes.fromhex(state.new_id())
    lifetime = policy.lifetime(value, draw_of(id))
    tags = subject.tags
    if request.result_tags is not None:
        tags = tuple(dict.fromkeys((*tags, *request.result_tags(value))))
    try:
        payload, codec, compressed = request.encoder.encode(value, subject.key.encode())
    except CannotEncode:
        return None
    if sum(lifetime) <= 0 or len(tags) > MAX_TAGS:
        return None
    envelope = pack(
        payload=payload,
        codec=codec,
        id=id,
        compute_seconds=request.usual.seconds,
        tags=tags,
        compressed=compressed,
    )
    return Write(Subject(subject.key, subject.function, tags), envelope, lifetime, "since", since)
