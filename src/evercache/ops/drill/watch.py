"""Who says that it is the master, asked all the time while something happens to the servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from evercache.errors import UnavailableError
from evercache.net.types import ConnectionOptions
from evercache.ops.replies import text
from evercache.ops.survey import ask
from evercache.protocol.types import Address

__all__ = ["Watch"]

_POLL = 0.03


class Watch:
    """Asks each node for its role, each on a thread of its own; a context manager.

    The threads only append to `promoted`: (moment, name) of each node that begins to say that it is the master.
    """

    def __init__(self, nodes: Mapping[str, Address], options: ConnectionOptions) -> None:
        self.promoted: list[tuple[float, str]] = []
        self._nodes, self._options = nodes, options
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(name,), daemon=True) for name in nodes]

    def __repr__(self) -> str:
        return f"<Watch on {', '.join(self._nodes)}>"

    def _look(self, name: str) -> None:
        master: bool | None = None
        while not self._over.wait(_POLL):
            with suppress(UnavailableError):
                # Not ROLE, which a user may lack.
                (info,) = ask(self._nodes[name], self._options, ("INFO", "replication"), timeout=0.4)
                says = "role:master" in text(info).split()
                if says and master is False:
                    self.promoted.append((time.monotonic(), name))
                master = says

    def promoted_after(self, moment: float) -> tuple[float, str] | None:
        """The first promotion since then."""
        return min((one for one in self.promoted if one[0] > moment), default=None)

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2.0)
