"""The design of 2013, as it was widely used: `get` from a replica, `setex` to the master, through redis-py.

It is here to be measured beside evercache under the same load. Two concessions: reads and writes that hang
end after `SOCKET_TIMEOUT` (the default of the time was to wait for ever, and the run must end), and an edit
deletes the keys of the pages that it touches one by one, for the design knows no tags.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.sentinel import Sentinel

from evercache.errors import DemoFailed
from evercache.ops.demo.pages import Page, pages_of_tag
from evercache.url import parse_url

__all__ = ["SOCKET_TIMEOUT", "Design2013", "SentinelAddress"]

SOCKET_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """What redis-py needs to know, out of a `sentinel://` URL."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None

    @classmethod
    def of_url(cls, url: str) -> SentinelAddress:
        """Read `sentinel://[user:password@]host:port,host:port/service[?sentinel_password=…]`."""
        location = parse_url(url)
        if location.service is None:
            raise DemoFailed("the 2013 design needs a sentinel:// URL with hosts and the name of the service")
        nodes, sentinels = location.node_options.credentials, location.sentinel_options.credentials
        return cls(
            tuple((address.host, address.port) for address in location.sentinels),
            location.service,
            nodes.username,
            nodes.password,
            sentinels.username,
            sentinels.password,
        )

    def sentinel(self, socket_timeout: float) -> Sentinel:
        """A client of the sentinels; `socket_timeout` in seconds, for the nodes as well."""
        own = {"username": self.sentinel_username, "password": self.sentinel_password}
        return Sentinel(  # type: ignore[no-untyped-call]
            list(self.sentinels),
            sentinel_kwargs={**own, "socket_timeout": 0.5},
            socket_timeout=socket_timeout,
            username=self.username,
            password=self.password,
        )


class Design2013:
    """Pages cached by the design of 2013. Its clients are safe for threads; it holds nothing else."""

    def __init__(self, url: str, compute: Callable[[Page], dict[str, Any]], ttl: int = 300) -> None:
        address = SentinelAddress.of_url(url)
        sentinel = address.sentinel(SOCKET_TIMEOUT)
        self._master = sentinel.master_for(address.service)  # type: ignore[no-untyped-call]
        self._replica = sentinel.slave_for(address.service)  # type: ignore[no-untyped-call]
        self._compute = compute
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"<Design2013 ttl={self._ttl}>"

    @staticmethod
    def key(page: Page) -> str:
        """The key of a page on the server."""
        return f"2013:{page.name}"

    def get(self, page: Page) -> dict[str, Any]:
        """The page from a replica, else computed and stored at the master."""
        key = self.key(page)
        cached = self._replica.get(key)
        if cached is not None:
            return self._load(cached)
        value = self._compute(page)
        self._master.setex(key, self._ttl, pickle.dumps(value))
        return value

    def peek(self, page: Page) -> dict[str, Any] | None:
        """What a replica has cached, or None."""
        cached = self._replica.get(self.key(page))
        return None if cached is None else self._load(cached)

    @staticmethod
    def _load(cached: object) -> dict[str, Any]:
        assert isinstance(cached, bytes)
        # The design trusts its server; this one was started by the demo, on loopback, with its own password.
        value: dict[str, Any] = pickle.loads(cached)
        return value

    def invalidate(self, tag: str) -> bool:
        """Delete the pages of a tag at the master; True, or an exception."""
        for page in pages_of_tag(tag):
            self._master.delete(self.key(page))
        return True

    def close(self) -> None:
        """Close the connections."""
        self._master.close()
        self._replica.close()
