"""A master that was replaced and stays healthy: what others get acknowledged there is not lost (promise 6)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.observe import events


@pytest.mark.parametrize("scope", ["key", pytest.param("function", marks=pytest.mark.long), "everything"])
def test_what_a_former_master_acknowledges_is_issued_again(scope: str) -> None:
    runs: list[int] = []

    def work(number: int) -> int:
        runs.append(number)
        return number

    with Deployment.start() as deployment:
        old = deployment.master()
        seen: list[object] = []
        with (
            Cache(deployment.url, namespace="former") as cache,
            Cache(f"redis://127.0.0.1:{old.port}", namespace="former") as late,
        ):
            # With a name: what `runs` holds at decoration would be part of it.
            options: Any = {"ttl": 600, "name": "work"}
            here, there = cache.cached(**options)(work), late.cached(**options)(work)
            cache.subscribe(seen.append)
            here(7)
            there.peek(7)  # it knows the old master, and will not hear of another one
            deployment.sentinels[0].cli("SENTINEL", "FAILOVER", deployment.name)
            wait_for(lambda: cache.health().master not in (None, str(old.address)), what="another master")
            here(7)
            assert runs == [7], "the entry came with the new master"
            assert _role(old) == "master", "so it is for seconds"
            done = {"key": lambda: there.invalidate(7), "function": there.invalidate_all, "everything": late.clear}
            assert done[scope]()
            late.close()  # who issued it is gone
            wait_for(lambda: any(isinstance(e, events.InvalidationsReissued) for e in seen), what="the event")
            wait_for(lambda: cache.health().pending == 0, what="nothing to be pending")
            here(7)
            assert runs == [7, 7]
            # The present master has it: a process that heard nothing does not find the old value either.
            with Cache(deployment.url, namespace="former", budget=10) as fresh:
                wait_for(lambda: fresh.stamp() is not None, what="it to follow the present master")
                assert fresh.cached(**options)(work)(7) == 7
            assert runs == [7, 7]


def _role(server: Server) -> str:
    return str(server.cli("ROLE")[0])
