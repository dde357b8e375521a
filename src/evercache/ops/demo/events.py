"""What happens to the servers while the site is read, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from redis.exceptions import RedisError

from evercache.errors import DemoFailed, EvercacheError
from evercache.ops.demo.caches import page_cache
from evercache.ops.demo.pages import Page

__all__ = ["Deployment", "Event", "Happenings", "look", "play"]


class Deployment(Protocol):
    """The part of `evercache.ops.local.LocalDeployment` that the demo uses."""

    @property
    def url(self) -> str:
        """The URL that an application gives to its cache."""
        ...

    def kill(self, node: str) -> None:
        """End the node at once (SIGKILL)."""
        ...

    def freeze(self, node: str) -> None:
        """Stop the process of the node (SIGSTOP)."""
        ...

    def thaw(self, node: str) -> None:
        """Let it go on (SIGCONT)."""
        ...

    def start(self, node: str) -> None:
        """Start a node that was killed."""
        ...

    def add_replica(self) -> str:
        """Start one more replica; its name."""
        ...

    def master_node(self) -> str:
        """The name of the master."""
        ...

    def replica_nodes(self) -> list[str]:
        """The names of the replicas."""
        ...

    def stop_all(self) -> None:
        """Stop every node."""
        ...

    def start_all(self) -> None:
        """Start every node again."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the servers: from `start` to `end`, monotonic clock."""

    label: str
    start: float
    end: float


@dataclass(slots=True)
class Happenings:
    """What happened. Written by one thread, read when it is over."""

    events: list[Event] = field(default_factory=list)
    #: Copies (page -> made) found before and after the restart of every node, and when the first look began.
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    looked: float | None = None
    #: How long it took after the start until the copies could be read again.
    warm_seconds: float = 0.0


#: Shares of the run at which things happen. A promotion takes about two seconds.
KILL, RETURN, ADD, FREEZE, THAW, RESTART = 0.14, 0.28, 0.36, 0.46, 0.61, 0.72


def look(variant: str, url: str, pages: list[Page]) -> dict[str, str]:
    """Which pages are cached, as a new process with an empty memory sees it: page -> the copy's `made`."""

    def never(page: Page) -> dict[str, object]:
        raise DemoFailed(f"a look at the cache computed {page.name}: `peek` must never compute")

    cache = page_cache(variant, url, never)
    try:
        found = ((page.name, cache.peek(page)) for page in pages)
        return {name: value["made"] for name, value in found if value is not None}
    finally:
        cache.close()


def play(
    deployment: Deployment,
    variant: str,
    pages: list[Page],
    seconds: float,
    say: Callable[[str], None],
) -> Happenings:
    """Let everything happen in `seconds`, then return."""
    begun = time.monotonic()
    done = Happenings()

    def at(share: float) -> None:
        time.sleep(max(0.0, begun + share * seconds - time.monotonic()))

    def do(label: str, action: Callable[[], object]) -> None:
        say(label)
        start = time.monotonic()
        action()
        done.events.append(Event(label, start, time.monotonic()))

    def restart() -> None:
        deployment.stop_all()
        deployment.start_all()

    at(KILL)
    master = deployment.master_node()
    do("master killed", lambda: deployment.kill(master))
    at(RETURN)
    do("old master back", lambda: deployment.start(master))
    if variant == "evercache":
        at(ADD)
        do("replica added", deployment.add_replica)
    at(FREEZE)
    replica = deployment.replica_nodes()[0]
    do("replica frozen", lambda: deployment.freeze(replica))
    try:
        at(THAW)
    finally:  # also at Ctrl-C: a frozen process does not end when it is asked to
        do("replica thawed", lambda: deployment.thaw(replica))
    at(RESTART)
    done.looked = time.monotonic()
    done.before = _look_until(lambda: look(variant, deployment.url, pages), 1, 5.0)
    do("all nodes restarted", restart)
    back = time.monotonic()
    wanted = int(0.98 * len(done.before))
    done.after = _look_until(lambda: look(variant, deployment.url, pages), wanted, 0.2 * seconds)
    done.warm_seconds = time.monotonic() - back
    at(1.0)
    return done


def _look_until(find: Callable[[], dict[str, str]], wanted: int, seconds: float) -> dict[str, str]:
    """Look again until so many copies are found or the time is over; the last finding."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = find()
        except DemoFailed:
            raise
        except (EvercacheError, RedisError, OSError):  # no server yet; the last look counts
            found = {}
        if len(found) >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
