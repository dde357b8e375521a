"""What the oracle is told of a process: the methods that something passes through, wrapped; they change nothing."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from evercache.client.serving import Unserved
from evercache.protocol.envelope import unpack
from tests.sim.oracle import Invalidation
from tests.sim.troubles import take_spooled

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = [
    "invalidation_of_task",
    "source_of_task",
    "token_of_task",
    "tokens_of_task",
    "watch",
    "watch_parts",
    "watch_spool",
]

#: The invalidation that a task issues (or several, in order), the lease under which it computes, and where the
#: answer to its read goes.
invalidation_of_task: contextvars.ContextVar[Invalidation | list[Invalidation] | None] = contextvars.ContextVar(
    "sim_invalidation", default=None
)
token_of_task: contextvars.ContextVar[str] = contextvars.ContextVar("sim_token", default="")
tokens_of_task: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("sim_tokens")
source_of_task: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("sim_source", default=None)


def watch(process: Process, clients: Any) -> None:
    """Wrap what a process was just given."""
    _watch_state(process)
    watch_parts(process, clients.asynchronous)
    watch_spool(process)


def watch_spool(process: Process) -> None:
    """Wrap what reads the file of `spool=`; a child of a fork has a new one."""
    if process.world.spool is None:
        return
    chores: Any = process.engine.chores
    take = chores.take_spooled

    def taken() -> None:
        take()
        take_spooled(process)

    chores.take_spooled = taken


def watch_parts(process: Process, client: Any) -> None:
    """Wrap one client of it."""
    _watch_leads(process, client.leads)
    _watch_reads(process, client.reads)
    _watch_hits(process, client.hits)
    process.world.oracle.judges.budgets.watch(process, client)


def _watch_state(process: Process) -> None:
    state, oracle = process.engine.state, process.world.oracle
    begin, acknowledged, hear_line = state.begin, state.acknowledged, state.hear_line
    hear_former, given_up = state.hear_former, state.given_up

    def began(scope: Any, *rest: Any, **more: Any) -> Any:
        item = begin(scope, *rest, **more)
        oracle.judges.began(process, item)
        its = invalidation_of_task.get()
        for it in its if isinstance(its, list) else [its]:  # of several, in their order
            if it is not None and not it.id:
                oracle.named(it, item.id)
                break
        return item

    def was_acknowledged(item: Any, stamp: int, generation: str) -> None:
        acknowledged(item, stamp, generation)
        oracle.acknowledged(process, item.id)

    def was_given_up(item: Any) -> None:
        given_up(item)
        process.unacknowledged = process.world.now

    def heard(line: Any) -> None:
        hear_line(line)
        oracle.heard(process, line.id)
        oracle.judges.promptness.heard(process, line.id)

    def heard_former(line: Any) -> bool:
        pending = hear_former(line)
        oracle.heard(process, line.id)
        return bool(pending)

    state.begin, state.acknowledged, state.hear_line = began, was_acknowledged, heard  # type: ignore[method-assign]
    state.hear_former, state.given_up = heard_former, was_given_up  # type: ignore[method-assign]


def _watch_leads(process: Process, leads: Any) -> None:
    world, oracle = process.world, process.world.oracle
    compute_leased, ask = leads.compute_leased, leads._ask

    async def leased(request: Any, token: str, *rest: Any) -> Any:
        reset = token_of_task.set(token)
        running = oracle.leases.began_leading(process, request.subject.key)
        try:
            outcome = await compute_leased(request, token, *rest)
            if outcome.source == "computed" and outcome.error is None and outcome.envelope is not None:
                oracle.judges.warmth.computed(process, token, request.subject.key)
            return outcome
        finally:
            token_of_task.reset(reset)
            if not world.loop.is_closed():
                oracle.leases.ended_computing(running)

    async def asked(request: Any, need: int, token: str, deadline: float, *rest: Any) -> Any:
        oracle.entries.asked(token, deadline + process.tag.behind())
        return await ask(request, need, token, deadline, *rest)

    compute_many, ask_many = leads.compute_many, leads._ask_many

    async def many(batch: Any, granted: Any, *rest: Any, **more: Any) -> Any:
        tokens = {batch.requests[index].subject.key: grant.token for index, grant in granted.items()}
        reset = tokens_of_task.set(tokens)
        running = [oracle.leases.began_leading(process, key) for key in tokens]
        try:
            return await compute_many(batch, granted, *rest, **more)
        finally:
            tokens_of_task.reset(reset)
            for each in running if not world.loop.is_closed() else ():
                oracle.leases.ended_computing(each)

    async def asked_many(batch: Any, indexes: Any, needs: Any, tokens: Any, deadline: float, *rest: Any) -> Any:
        for index in indexes:
            oracle.entries.asked(tokens[index], deadline + process.tag.behind())
        return await ask_many(batch, indexes, needs, tokens, deadline, *rest)

    leads.compute_leased, leads._ask = leased, asked
    leads.compute_many, leads._ask_many = many, asked_many


def _watch_reads(process: Process, reads: Any) -> None:
    world, entries, once = process.world, process.world.oracle.entries, process.world.oracle.judges.once
    fetch, fetch_many, peek_many = reads.fetch, reads.fetch_many, reads.peek_many

    async def fetched_many(batch: Any) -> Any:
        began = world.now
        once.call_begins(process, many=True)
        outcomes = await fetch_many(batch)
        for request, outcome in zip(batch.requests, outcomes, strict=False):
            if outcome.source in ("near", "replica", "master"):
                key = request.subject.key
                entries.served(process, key, outcome.envelope, outcome.stale, began, outcome.source)
        return outcomes

    async def peeked(subjects: Any, *rest: Any) -> Any:
        began = world.now
        founds = await peek_many(subjects, *rest)
        for subject, found in zip(subjects, founds, strict=True):
            if found is not None and not found.stale:
                entries.served(process, subject.key, found.envelope, False, began, found.source)
        return founds

    async def fetched(request: Any, *seen: Any) -> Any:
        began = world.now
        once.call_begins(process)
        outcome = await fetch(request, *seen)
        if outcome.source in ("near", "replica", "master"):
            key = request.subject.key
            entries.served(process, key, outcome.envelope, outcome.stale, began, outcome.source)
        source = source_of_task.get()
        if source is not None:
            source[:] = [outcome.source + (" stale" if outcome.stale else "")]
        return outcome

    reads.fetch, reads.fetch_many, reads.peek_many = fetched, fetched_many, peeked


def _watch_hits(process: Process, hits: Any) -> None:
    serving, entries, world = hits.serving, process.world.oracle.entries, process.world
    value_of, near, near_again = serving.value, hits.near, hits.near_again

    def told(entry: Any, value: Any) -> Any:
        if type(value) is not Unserved:
            entries.served(process, entry.key, entry.envelope, False, world.now, "near")
            source = source_of_task.get()
            if source is not None:
                source[:] = ["near"]
        return value

    def kept(arguments: Any, counters: Any) -> Any:
        return told(serving._by_arguments(arguments), near(arguments, counters))

    def kept_again(arguments: Any, plan: Any, key: str, tags: Any) -> Any:
        return told(process.engine.state.near.look(key), near_again(arguments, plan, key, tags))

    def value(plan: Any, key: str, tags: Any, data: bytes, source: str, *rest: Any) -> Any:
        served = value_of(plan, key, tags, data, source, *rest)
        if type(served) is not Unserved:
            entries.served(process, key, unpack(data), False, rest[1], source)
            of_task = source_of_task.get()
            if of_task is not None:
                of_task[:] = [source]
        return served

    serving.value, hits.near, hits.near_again = value, kept, kept_again
