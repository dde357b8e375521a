"""What every topology offers, and the small tools that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from evercache.net.types import AsyncEndpoint, AsyncWire, ConnectionOptions
from evercache.protocol.topology import View
from evercache.protocol.types import Address

__all__ = ["AddressMap", "Bell", "Clock", "Endpoints", "SharedEndpoints", "Topology", "View", "mapper"]

Clock: TypeAlias = Callable[[], float]
#: From the address that a server announces to the one at which this process reaches it (NAT, containers).
AddressMap: TypeAlias = Mapping[Address, Address] | Callable[[Address], Address]

#: A topology asks its servers this often (seconds) when nothing happens, and never more often than `GAP`.
INTERVAL = 1.0
GAP = 0.05
#: So many times less often while the process is idle. The answers of a round must not be too old for the choice of
#: the master (5 s) before those of the next round have come.
IDLE = 4.0


class Topology(Protocol):
    """Who is master and who are the replicas. `run` belongs to one event loop, the rest to any thread."""

    @property
    def view(self) -> View:
        """Who is who: swapped as a whole at each change."""
        ...

    @property
    def local(self) -> bool:
        """True when there is no server at all."""
        ...

    async def run(self, changed: Callable[[View], None], nodes: SharedEndpoints | None = None) -> None:
        """Watch until cancelled; `changed` is called on this loop with each new view.

        `nodes`: the endpoints of the data nodes, if others ask these as well.
        """
        ...

    def rest(self, idle: bool, confirm: bool) -> None:
        """Ask seldom while the process is idle, and at once when it is no longer; on the loop of `run`.

        `confirm`: whether the master must be confirmed all the time.
        """
        ...

    def nudge(self) -> None:
        """Something looked wrong: ask now."""
        ...

    def confirmed_since(self) -> float:
        """Monotonic time of the newest moment at which the master of the view was certainly the master.

        -inf: never. With sentinels this is the strict confirmation of rule 17.
        """
        ...

    def down_after(self) -> float | None:
        """Seconds of silence after which a master counts as dead and is replaced; None: never, or unknown."""
        ...

    def discovered(self, replicas: Iterable[Address]) -> None:
        """Replicas that the master itself lists, as announced; called on the loop of `run`."""
        ...

    def describe(self) -> dict[str, Any]:
        """For health reports: what was seen, and what fails."""
        ...


class Bell:
    """Wakes one waiting task. `ring` may be called from any thread, also before and after the loop's life."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._idle = False

    def __repr__(self) -> str:
        return f"<Bell {'rung' if self._event.is_set() else 'quiet'}>"

    def attach(self) -> None:
        """Make the running loop the one whose task waits."""
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Wake the waiter, or let its next wait end at once."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # closed between the look and the call: nobody waits any more
            self._loop = None

    async def wait(self, seconds: float) -> bool:
        """Until rung or for so long; True when rung."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._event.clear()
        return True

    @property
    def idle(self) -> bool:
        """Whether the process is."""
        return self._idle

    async def pace(self, seconds: float) -> bool:
        """Between two rounds: until rung (True) or for so long, while idle for longer, but at least `GAP`."""
        await asyncio.sleep(min(GAP, seconds))
        return await self.wait(max(seconds * (IDLE if self._idle else 1.0) - GAP, 0.0))

    def rest(self, idle: bool) -> None:
        """See `Topology.rest`."""
        if self._idle and not idle:
            self._event.set()
        self._idle = idle


class SharedEndpoints:
    """One endpoint for each server, for all watchers of one event loop: they share its connection.

    Guarded by: used on that loop only.
    """

    def __init__(self, wire: AsyncWire, options: ConnectionOptions) -> None:
        self._wire = wire
        self._options = options
        self._used: dict[Address, tuple[AsyncEndpoint, set[Endpoints]]] = {}

    def __repr__(self) -> str:
        return f"<SharedEndpoints {' '.join(str(a) for a in self._used)}>"

    def take(self, address: Address, watcher: Endpoints) -> AsyncEndpoint:
        """The endpoint of an address, for one watcher more."""
        used = self._used.get(address)
        if used is None:
            used = self._used[address] = self._wire.endpoint(address, self._options), set()
        used[1].add(watcher)
        return used[0]

    def release(self, address: Address, watcher: Endpoints) -> None:
        """A watcher does not need it any more; the last one disconnects it."""
        endpoint, watchers = self._used[address]
        watchers.discard(watcher)
        if not watchers:
            del self._used[address]
            endpoint.disconnect()


class Endpoints:
    """The endpoints of one watcher, by address. Guarded by: used on one event loop only."""

    def __init__(self, shared: SharedEndpoints) -> None:
        self._shared = shared
        self._by_address: dict[Address, AsyncEndpoint] = {}

    def __repr__(self) -> str:
        return f"<Endpoints {' '.join(str(a) for a in self._by_address)}>"

    def get(self, address: Address) -> AsyncEndpoint:
        """The endpoint of an address; it connects at its first use."""
        endpoint = self._by_address.get(address)
        if endpoint is None:
            endpoint = self._by_address[address] = self._shared.take(address, self)
        return endpoint

    def keep(self, addresses: Iterable[Address]) -> None:
        """Release all others."""
        wanted = set(addresses)
        for address in [a for a in self._by_address if a not in wanted]:
            del self._by_address[address]
            self._shared.release(address, self)

    def reconnect(self) -> None:
        """Make new connections to all at their next use: a name may lead elsewhere now."""
        for endpoint in self._by_address.values():
            endpoint.disconnect()

    def close(self) -> None:
        """Release all."""
        self.keep(())


def mapper(address_map: AddressMap | None) -> Callable[[Address], Address]:
    """One function for both forms of an address map; an address that a mapping lacks stays as it is."""
    if address_map is None:
        return lambda address: address
    if callable(address_map):
        return address_map
    table = dict(address_map)
    return lambda address: table.get(address, address)
