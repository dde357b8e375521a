"""The endpoints of one kind (blocking, or asynchronous), by address."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from evercache.process import new_lock
from evercache.protocol.types import Address

__all__ = ["Endpoints"]


class _Endpoint(Protocol):
    def disconnect(self) -> None: ...
    def forget(self) -> None: ...


E = TypeVar("E", bound=_Endpoint)


class Endpoints(Generic[E]):
    """Made when first asked for, and closed when no view names them any more. Guarded by a lock of its own."""

    def __init__(self, make: Callable[[Address], E]) -> None:
        self._make = make
        self._lock = new_lock()
        self._by_address: dict[Address, E] = {}

    def __repr__(self) -> str:
        return f"<Endpoints {list(self._by_address.values())}>"

    def get(self, address: Address) -> E:
        """The endpoint of an address."""
        endpoint = self._by_address.get(address)
        if endpoint is None:
            with self._lock:
                # A signal handler or a finalizer may come here while one is made: all take the first.
                endpoint = self._by_address.get(address) or self._by_address.setdefault(
                    address, self._make(address)
                )
        return endpoint

    def all(self) -> list[E]:
        """Those that were asked for."""
        return list(self._by_address.values())

    def keep(self, addresses: Collection[Address]) -> None:
        """Close those of all other addresses."""
        with self._lock:
            gone = [address for address in list(self._by_address) if address not in addresses]
            endpoints = [self._by_address.pop(address, None) for address in gone]
        for endpoint in endpoints:
            if endpoint is not None:
                endpoint.disconnect()

    def disconnect(self, address: Address) -> None:
        """Close the connections to one address; the next use makes new ones."""
        endpoint = self._by_address.get(address)
        if endpoint is not None:
            endpoint.disconnect()

    def forget(self) -> None:
        """After a fork, in the child."""
        endpoints, self._by_address = self._by_address, {}
        for endpoint in endpoints.values():
            endpoint.forget()
