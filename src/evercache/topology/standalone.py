"""One server, which is the master."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from evercache.clock import monotonic
from evercache.errors import MasterUnknown, UnavailableError
from evercache.net.types import AsyncWire, ConnectionOptions
from evercache.protocol.topology import View
from evercache.protocol.types import Address
from evercache.topology.base import INTERVAL, Bell, Clock, Endpoints, SharedEndpoints
from evercache.topology.facts import NodeFacts, ask

__all__ = ["StandaloneTopology"]


class StandaloneTopology:
    """A single server; its replicas, if it has any, are not used.

    Guarded by: written on the loop of `run` only; `view` is immutable.
    """

    local = False

    def __init__(
        self,
        wire: AsyncWire,
        server: Address,
        options: ConnectionOptions,
        *,
        interval: float = INTERVAL,
        timeout: float = 0.3,
        clock: Clock = monotonic,
    ) -> None:
        self.view = View(0, server)
        self._server = server
        self._wire, self._options = wire, options
        self._interval, self._timeout, self._clock = interval, timeout, clock
        self._bell = Bell()
        self._life = ("", "")
        self._confirmed = -inf
        self._error: UnavailableError | None = None

    def __repr__(self) -> str:
        return f"<StandaloneTopology {self._server} epoch={self.view.epoch} problem={self.view.problem!r}>"

    async def run(self, changed: Callable[[View], None], nodes: SharedEndpoints | None = None) -> None:
        """Ask for the role every second, and at once when nudged; until cancelled."""
        self._bell.attach()
        endpoints = Endpoints(nodes or SharedEndpoints(self._wire, self._options))
        changed(self.view)
        try:
            while True:
                view = self._judge(await ask(endpoints.get(self._server), self._timeout, self._clock))
                if view != self.view:
                    self.view = view
                    changed(view)
                await self._bell.pace(self._interval)
        finally:
            endpoints.close()

    def _judge(self, facts: NodeFacts) -> View:
        self._error = facts.error
        said = facts.replication
        if said is None:
            return self.view  # whoever uses it meets the same error, with the time that it has for it
        if said.role != "master":
            problem = MasterUnknown(
                f"{self._server} is a replica"
                + (f" of {said.master}: put the master into the URL" if said.master else " or still loading")
                + ", or name all servers (replicas=..., or sentinels)"
            )
            old = self.view.problem
            return View(self.view.epoch, None, (), old if repr(old) == repr(problem) else problem)
        self._confirmed = facts.sent
        life = (facts.run_id, said.replid)
        epoch = self.view.epoch + (life != self._life and self._life != ("", ""))
        self._life = life
        return View(epoch, self._server)

    def nudge(self) -> None:
        """Ask now."""
        self._bell.ring()

    def rest(self, idle: bool, confirm: bool) -> None:
        """See `Topology`; each answer confirms."""
        self._bell.rest(idle)

    def confirmed_since(self) -> float:
        """When the last question was sent to which the server answered that it is a master."""
        return self._confirmed

    def down_after(self) -> float | None:
        """See `Topology`."""
        return None

    def discovered(self, replicas: Iterable[Address]) -> None:
        """Not used: who names one server means one server."""

    def describe(self) -> dict[str, Any]:
        """For health reports."""
        return {
            "kind": "standalone",
            "server": str(self._server),
            "errors": {str(self._server): str(self._error)} if self._error else {},
        }
