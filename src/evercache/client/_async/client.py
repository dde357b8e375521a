"""The parts of a client, put together."""

from __future__ import annotations

from evercache.client._async.batch_leads import AsyncBatchLeads
from evercache.client._async.batch_reads import AsyncBatchReads
from evercache.client._async.batches import AsyncBatches
from evercache.client._async.changes import AsyncChanges
from evercache.client._async.hits import AsyncHits
from evercache.client._async.link import AsyncLink
from evercache.client._async.operations import AsyncOperations
from evercache.client._async.sweeping import AsyncSweeping
from evercache.client._async.writes import AsyncWrites
from evercache.engine.engine import Engine

__all__ = ["AsyncClient"]


class AsyncClient:
    """One per cache and process; safe for threads and tasks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        link = self.link = AsyncLink(engine)
        self.hits = AsyncHits(engine, link)
        self.writes = AsyncWrites(engine, link)
        self.changes = AsyncChanges(engine, link, self.writes)
        self.leads = AsyncBatchLeads(engine, link, self.writes)
        self.reads = AsyncBatchReads(engine, link, self.leads, self.hits.serving)
        self.operations = AsyncOperations(engine, self.hits, self.reads, self.leads, self.writes)
        self.sweeping = AsyncSweeping(engine, link)
        self.batches = AsyncBatches(engine, self.reads, self.leads)

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.engine!r}>"

    def close(self) -> None:
        """Begin no refresh any more."""
        self.leads.spawner.close()

    def after_fork(self) -> None:
        """In the child: no refresh is under way here."""
        self.leads.after_fork()
